"""Which behaviours survive without the induction heads, and which without their edges to the counterpart alone?

In: the induction heads. Out: what is lost of each behaviour's gain when they are ablated together (by their means
over nulls of the selecting half), or when only their attention from predicting positions to counterparts is knocked
out, beside as many other heads. What the loss without the counterpart rises by is no cost of the behaviour.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from headscope.evidence import Test, bars, claim, table
from headscope.interventions import Intervention, knock_out, mean
from headscope.measures import loss
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.abilities import experiment
from headscope.studies.abilities.experiment import BEHAVIOUR, NO_HEADS, Ctx, gains, induction_heads, named_heads
from headscope.studies.context import Part
from headscope.studies.head_sets import FLOOR, apart, beyond_random, columns_of
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity
from headscope.tasks.counterparts import BEHAVIOURS, PREDICTING, Counterparts

NOTHING, ABLATED, EDGES = "nothing", "ablated", "edges knocked out"
NOT_DONE = "the heads were not ablated, since the model is not shown to do this (--force ablates them)"
DONE = Column("done", pl.String, "what is done to the induction heads")
LOST = Quantity("lost", "what is lost of the gain", "nats")
LEFT = Quantity("left", "what is left of the gain", "nats")
RANDOM = Quantity("random_left", "what random sets of as many heads leave of it, mean", "nats")


def without_induction(ctx: Ctx) -> Part:
    """What is lost of each behaviour without the induction heads, and without their edges?"""
    lost, claims = ctx.once(lost_without), []
    for name in BEHAVIOURS:
        does, none = experiment.needed(ctx, name, NOT_DONE if ctx.once(induction_heads) else NO_HEADS)
        ablated, edges = (lost.get((name, done)) for done in (ABLATED, EDGES))
        claims += [rests_on_induction(name, does, none, ablated), edges_suffice(name, does, none, ablated, edges)]
    if not lost:
        return Part(claims=claims)
    left, random = dict[tuple[str, str], Array](), dict[tuple[str, str], Array]()
    for name, each in ctx.once(gains).items():
        gain = each.values[:, 0]
        left[name, NOTHING] = random[name, NOTHING] = gain
        for done in (ABLATED, EDGES):
            if one := lost.get((name, done)):
                left[name, done] = gain - one.damage.numpy()
                random[name, done] = gain - one.set_damage.numpy().mean(0) if one.sets else np.nan * gain
    shown, beside = Samples.of(LEFT, (BEHAVIOUR, DONE), left), Samples.of(RANDOM, (BEHAVIOUR, DONE), random)
    damage = Samples.of(LOST, (BEHAVIOUR, DONE), {cell: one.damage for cell, one in lost.items()})
    told = "ablated size random_mean random_max random_worst random_sets p_value"
    figure = bars(
        shown,
        "behaviour",
        colour="done",
        reference=beside,
        name="without_induction",
        title="What is left of each behaviour",
        caption="How much lower the loss is after the counterpart than without it: unchanged, with induction heads "
        "ablated, and with only their attention to the counterpart knocked out; the stroke is the mean over random "
        f"sets of as many heads. Mean over {ctx.settings.n} prompts.",
    )
    listed = table(shown, figure.table, beside=[beside], bounded=[damage], more=columns_of(lost, told))
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
        beyond = Samples.one(LOST, edges.damage - 0.5 * ablated.damage)
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
    """By behaviour and by what is done: what is lost of the gain, nats [prompt], beside random sets of heads.

    Behaviours that the model is not shown to do are left out, unless the settings `force` them.
    """
    found = {}
    for name, split in ctx.once(experiment.prompts).items() if ctx.once(induction_heads) else ():
        if ctx.settings.force or experiment.needed(ctx, name, "")[0].row("need").side == "yes":
            edges = [knock_out("z", f"query {slot}", f"analogue {slot}") for slot in range(split.estimation.slots)]
            found[name, ABLATED] = _lost(ctx, split.estimation, [mean("z", over=split.selection.null)])
            found[name, EDGES] = _lost(ctx, split.estimation, edges)
    return found


def _lost(ctx: Ctx, half: Counterparts, templates: Sequence[Intervention]) -> AgainstRandom:
    used, tested = ctx.once(induction_heads), {head for heads in ctx.once(named_heads).values() for head in heads}
    found = against_random_sets(
        ctx.model,
        half.both,
        {"induction": used},
        ablation=templates,
        measure=loss(PREDICTING),
        control=Control(ctx.settings.random_sets, ctx.settings.seed),
        apart_from=apart(ctx.model, used, tested),
        progress=ctx.stage(
            f"{half.matched.made_by['task'].replace('_', ' ')}: {templates[0].verb.replace('_', ' ')}"
        ),
    )["induction"]
    there, missing = found.damage.reshape(2, -1)
    sets = found.set_damage.reshape(-1, 2, len(half))
    return replace(found, damage=there - missing, set_damage=sets[:, 0] - sets[:, 1])


def _notes(ctx: Ctx) -> list[str]:
    every, used = ctx.once(named_heads)["induction"], ctx.once(induction_heads)
    few = f"Of {len(every)} induction heads the {len(used)} strongest were ablated, for which others may make up"
    far = "Random sets hold heads of other layers than the induction heads too"
    layers, sets = {head.layer for head in used}, [one.sets for one in ctx.once(lost_without).values()]
    elsewhere = any(head.layer not in layers for each in sets for heads in each for head in heads)
    told = {few: len(used) < len(every), far: elsewhere}
    return [f"{note}: too few heads of no kind are left." for note, holds in told.items() if holds]
