"""Which behaviours survive without the induction heads, and which without their edges to the counterpart alone?

In: the induction heads of the model. Out: what is lost of every behaviour's gain when they are ablated together (each
by its mean over the nulls of the selecting half, which have everything but the structure), and when only their
attention from a predicting position to the counterpart is knocked out; beside the same done to as many other heads,
of the same layers where enough are left. What the loss without the counterpart rises by is subtracted throughout, so
that what an ablation costs any text is no cost of the behaviour.
"""

from dataclasses import replace

import polars as pl

from headscope.evidence import Test, bars, claim, table
from headscope.interventions import Intervention, knock_out, mean
from headscope.measures import loss
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.abilities.experiment import (
    BEHAVIOUR,
    NO_HEADS,
    Ctx,
    gains,
    induction_heads,
    named_heads,
    needed,
    prompts,
)
from headscope.studies.context import Part
from headscope.studies.head_sets import FLOOR, beyond_random, columns_of
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity
from headscope.tasks.counterparts import BEHAVIOURS, PREDICTING, Counterparts

SHARE = 0.5
NOTHING, ABLATED, EDGES = "nothing", "ablated", "edges knocked out"
DONE = Column("done", pl.String, "what is done to the induction heads")
LOST = Quantity("lost", "what is lost of the gain", "nats")
LEFT = Quantity("left", "what is left of the gain", "nats")
RANDOM = Quantity("random_left", "what random sets of as many heads leave of it, mean", "nats")


def without_induction(ctx: Ctx) -> Part:
    """What is lost of each behaviour without the induction heads, and without their edges?"""
    lost, claims = ctx.once(lost_without), []
    for name in BEHAVIOURS:
        does, none = needed(ctx, name, NO_HEADS)
        ablated, edges = (lost.get((name, done)) for done in (ABLATED, EDGES))
        claims += [rests_on_induction(name, does, none, ablated), edges_suffice(name, does, none, ablated, edges)]
    if not lost:
        return Part(claims=claims)
    gain = {name: each.values[:, 0] for name, each in ctx.once(gains).items()}
    clean = {(name, NOTHING): each for name, each in gain.items()}
    left = clean | {cell: gain[cell[0]] - one.damage.numpy() for cell, one in lost.items()}
    random = clean | {cell: gain[cell[0]] - one.set_damage.numpy().mean(0) for cell, one in lost.items() if one.sets}
    order = [(name, done) for name in gain for done in (NOTHING, ABLATED, EDGES)]
    shown = Samples.of(LEFT, (BEHAVIOUR, DONE), {cell: left[cell] for cell in order})
    beside = Samples.of(RANDOM, (BEHAVIOUR, DONE), random)
    damage = Samples.of(LOST, (BEHAVIOUR, DONE), {cell: one.damage for cell, one in lost.items()})
    more = columns_of(lost, "ablated size random_mean random_max random_worst random_sets p_value")  # type: ignore[arg-type]
    figure = bars(
        shown,
        "behaviour",
        colour="done",
        reference=beside,
        name="without_induction",
        title="What is left of each behaviour",
        caption="How much lower the loss is after the counterpart than without it, with nothing changed, with the "
        "induction heads ablated, and with only their attention to the counterpart knocked out; the stroke is the "
        f"mean over random sets of as many heads. Mean over {ctx.settings.n} prompts.",
    )
    listed = table(shown, "without_induction", beside=[beside], bounded=[damage], more=more)
    return Part(tables=[listed], claims=claims, figures=[figure], notes=_notes(ctx))


def rests_on_induction(behaviour: str, does: Test, none: str, ablated: AgainstRandom | None) -> Claim:
    """Whether ablating the induction heads costs more of the behaviour's gain than ablating as many random heads."""
    return claim(
        f"rests_on_induction_{behaviour}",
        f"Ablating induction heads costs more of {behaviour.replace('_', ' ')} than ablating as many random heads.",
        needs=[does],
        tests=beyond_random("gain lost when the induction heads are ablated", LOST, ablated, none),
        tables=["behaviours", *(["without_induction"] if ablated else [])],
    )


def edges_suffice(
    behaviour: str, does: Test, none: str, ablated: AgainstRandom | None, edges: AgainstRandom | None
) -> Claim:
    """Whether knocking out only the edges costs half of what ablating costs, and more than those of random heads."""
    whole = beyond = None
    if ablated is not None and edges is not None:
        whole = Samples.one(LOST, ablated.damage)
        beyond = Samples.one(LOST, edges.damage - SHARE * ablated.damage)
    return claim(
        f"edges_suffice_{behaviour}",
        "Knocking out only induction heads' attention to the counterpart costs half of what ablating them costs "
        f"{behaviour.replace('_', ' ')}, or more.",
        needs=[does, Test("gain lost when the induction heads are ablated", whole, above=FLOOR, reason=none)],
        tests=[
            Test("gain lost without the edges minus half of that under ablation", beyond, above=0.0, reason=none),
            beyond_random("gain lost without the edges", LOST, edges, none)[0],
        ],
        tables=["behaviours", *(["without_induction"] if edges else [])],
    )


def lost_without(ctx: Ctx) -> dict[tuple[str, str], AgainstRandom]:
    """By behaviour and by what is done: what is lost of the gain, nats [prompt], beside random sets of heads."""
    found = {}
    for name, split in ctx.once(prompts).items() if ctx.once(induction_heads) else ():
        edges = [knock_out("z", f"query {slot}", f"analogue {slot}") for slot in range(split.estimation.slots)]
        found[name, ABLATED] = _lost(
            ctx, split.estimation, [mean("z", over=split.selection.null)], f"{name}: ablating"
        )
        found[name, EDGES] = _lost(ctx, split.estimation, edges, f"{name}: knocking out edges")
    return found


def _lost(ctx: Ctx, half: Counterparts, templates: list[Intervention], stage: str) -> AgainstRandom:
    found = against_random_sets(
        ctx.model,
        half.both,
        {"induction": ctx.once(induction_heads)},
        ablation=templates,
        measure=loss(PREDICTING),
        control=Control(ctx.settings.random_sets, ctx.settings.seed),
        apart_from={head for heads in ctx.once(named_heads).values() for head in heads},
        progress=ctx.stage(stage.replace("_", " ")),
    )["induction"]
    there, missing = found.damage.reshape(2, -1)
    sets = found.set_damage.reshape(-1, 2, len(half))
    return replace(found, damage=there - missing, set_damage=sets[:, 0] - sets[:, 1])


def _notes(ctx: Ctx) -> list[str]:
    every, used = ctx.once(named_heads)["induction"], ctx.once(induction_heads)
    notes = [
        "A head is ablated by its mean over prompts of the other half without the counterpart. What the loss without "
        "the counterpart rises by is subtracted from what the loss with it rises by."
    ]
    if len(used) < len(every):
        fewer = f"Of {len(every)} induction heads the {len(used)} strongest were ablated: with more of them too few"
        notes.append(
            f"{fewer} heads are left to draw random sets from, and those that are left may make up for them."
        )
    return notes
