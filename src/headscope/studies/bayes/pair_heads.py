"""Which heads move information between the tokens of pairs, and does the curve need them?

In: the context of the study. Out: every head's attention from y to the x of its own pair and from one pair to
earlier y, with the null of other roles; the strongest heads of each kind, named on one half of the prompts and
ablated on the other beside random sets; the curve over examples without them; the claims `heads_*` and
`flattens_without_*`. These are the two kinds of heads of the third claim of `sources.REDUNDANT_HEADS`. An ablated
head writes its mean over *label-shuffled* prompts: a mean over prompts of the same task would hold the task itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from headscope.detectors.roles import role_attention, role_table
from headscope.detectors.scores import NAMED_MARGIN, LayerMass, above_null
from headscope.evidence import Test, any_of, claim, lines, table
from headscope.evidence.comparisons import head_names
from headscope.figures import head_grid
from headscope.interventions import mean
from headscope.interventions.base import Intervention
from headscope.interventions.targets import targets_of
from headscope.measures import joint_log_probability
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Figure
from headscope.studies.bayes.curve import PROBABILITY
from headscope.studies.bayes.observations import RISE, RISE_MARGIN, over_shots
from headscope.studies.bayes.predictions import predictions
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.studies.head_sets import beyond_random, columns_of, named
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity, Table
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.split import Split, halves
from headscope.vocabulary import Head

BOTH, INTACT = "both", "none"
STATED = {
    "x_to_y": "Some heads attend from a y to the x of its own pair.",
    "example_to_example": "Some heads attend from the token before a y to the y of earlier pairs.",
}
KIND = Column("kind", pl.String, "what the heads were named for, on the selection half of the prompts")
ABLATED = Column("ablated", pl.String, "heads that write their mean over label-shuffled prompts instead")
DAMAGE = Quantity("damage", "fall of the answer's log-probability after all pairs", "nats")
_REFERENCES = 64
_OTHER_PROMPTS = 5  # on top of the seed: the reference of means shares no prompt with what is ablated


def pair_heads(ctx: Ctx) -> Part:
    """Are there heads of the two kinds, and does ablating the strongest cost more than ablating others?"""
    attention, beside = ctx.once(attention_of_roles).estimation, ctx.once(ablated_heads)
    roles, probability = role_table(attention), curves(ctx)
    intact = probability.at(ablated=INTACT)
    rise = intact.at(shots=intact.coordinates("shots")[-1]) - intact.at(shots=0)
    present = [heads_of_kind(kind, above_null(attention[kind])) for kind in STATED]
    flat = [flattens(kind, beside.get(kind), rise.measured_as(RISE)) for kind in STATED]
    damages = {kind: each.damage for kind, each in beside.items()}
    damage = Samples.of(DAMAGE, (KIND,), damages, units=rise.units)
    more = columns_of(beside, "ablated random_mean random_max random_worst random_sets p_value")
    where = "position by position" if functions_of(ctx.model) else "over all positions"
    note = (
        "Heads are named on the prompts of even number and judged on those of odd number. Their null is the largest "
        "of: numbers of another role as near, the same numbers from other queries, and the same distances. "
        f"Ablated are the {ctx.settings.strongest} strongest of each kind: a head then writes its mean over other, "
        f"label-shuffled prompts, {where}."
    )
    return Part(
        tables=[roles, table(damage, "head_groups", more=more), table(probability, "ablated_curves")],
        claims=[*present, *flat],
        figures=_figures(roles, probability),
        notes=[note],
    )


def heads_of_kind(kind: str, above: Samples) -> Claim:
    """`above` [prompt, (layer, head)]: attention on the kind's keys minus that of its null, other roles."""
    return claim(
        f"heads_{kind}",
        STATED[kind],
        tests=[any_of("attention above that on other roles", above, above=NAMED_MARGIN)],
        tables=("roles",),
    )


def flattens(kind: str, beside: AgainstRandom | None, rise: Samples) -> Claim:
    """`beside`: the heads and random sets, None where none was named; `rise` [prompt] of the intact model's curve."""
    what, none = "damage of ablating them", "no head of this kind was named on the other half of the prompts"
    return claim(
        f"flattens_without_{kind}",
        f"Ablating the strongest {kind.replace('_', '-')} heads lowers the answer's log-probability more "
        "than ablating as many random heads.",
        needs=[Test("rise of the right answer with examples", rise, above=RISE_MARGIN)],
        tests=beyond_random(what, DAMAGE, beside, none),
        tables=("head_groups", "ablated_curves"),
    )


def attention_of_roles(ctx: Ctx) -> Split[dict[str, dict[int, LayerMass]]]:
    """By kind and layer, of the half of the prompts that names heads, and of the half that they are judged on."""
    ctx.progress("finding heads of pairs", 0, 1)
    return halves(ctx.settings.draw(ctx.model)).map(
        lambda shots: role_attention(ctx.model, linear(ctx.model, shots), seed=ctx.settings.seed)
    )


def named_heads(ctx: Ctx) -> dict[str, tuple[Head, ...]]:
    """The heads that the selection half names, by kind, most strongly first."""
    read = ctx.once(attention_of_roles).selection.items()
    return {kind: heads for kind, layers in read if (heads := named(above_null(layers)))}


def strongest(heads_by_kind: Mapping[str, Sequence[Head]], most: int) -> dict[str, tuple[Head, ...]]:
    """The first `most` heads of each kind, to be ablated; and those of both kinds together, last.

    >>> strongest({"x_to_y": [Head(0, 1), Head(0, 0)], "example_to_example": [Head(1, 0)]}, 1)["both"]
    (Head(0, 1), Head(1, 0))
    """
    groups = {kind: tuple(heads[:most]) for kind, heads in heads_by_kind.items()}
    if len(set(map(frozenset, groups.values()))) > 1:
        groups[BOTH] = tuple(sorted({head for heads in groups.values() for head in heads}))
    return groups


def ablated_heads(ctx: Ctx) -> dict[str, AgainstRandom]:
    """Each group ablated together beside random sets, on the estimation half; a group of all heads has no control."""
    groups = strongest(ctx.once(named_heads), ctx.settings.strongest)
    if not groups:
        return {}
    shots = halves(ctx.settings.draw(ctx.model)).estimation
    return against_random_sets(
        ctx.model,
        linear(ctx.model, shots).answered(),
        groups,
        ablation=ctx.once(mean_over_shuffled),
        measure=joint_log_probability(),
        control=Control(ctx.settings.random_sets, ctx.settings.seed),
        progress=ctx.stage("ablating heads of pairs"),
    )


def mean_over_shuffled(ctx: Ctx) -> Intervention:
    """A head's mean over other prompts with shuffled labels, where they align position by position."""
    settings, model = ctx.settings, ctx.model
    shuffled = settings.draw(model, n=_REFERENCES, seed=_OTHER_PROMPTS).with_shuffled_labels(settings.seed)
    return mean("z", over=linear(model, shuffled).answered(), per_position=functions_of(model) is not None)


def curves(ctx: Ctx) -> Samples:
    """[prompt, (ablated, shots)]: intact, without each group, and without the random set that costs most."""
    beside, ablation = ctx.once(ablated_heads), ctx.once(mean_over_shuffled)
    sets: dict[str, Sequence[Head]] = {INTACT: ()}
    sets |= {f"{kind}: {head_names(each.picked)}": each.picked for kind, each in beside.items()}
    if beside and (last := list(beside.values())[-1]).worst:
        sets[f"random, the worst set: {head_names(last.worst)}"] = last.worst
    shots = halves(ctx.settings.draw(ctx.model)).estimation
    without = {}
    for done, (name, heads) in enumerate(sets.items()):
        ctx.progress("curves without heads", done, len(sets))
        edits = [replace(ablation, targets=targets_of(heads))] if heads else []
        without[name] = predictions(ctx.model, shots, edits).probability
    return over_shots(PROBABILITY, without, axis=ABLATED)


def _figures(roles: Table, probability: Samples) -> list[Figure]:
    """What each head attends to, and the curves without the named ones."""
    grid = head_grid(
        roles,
        "score",
        facet="detector",
        low=0.0,
        high=1.0,
        title="Heads between the tokens of pairs",
        caption="Attention from every y to the x of its own pair, and from the token before every y to all earlier "
        "y: mean over prompts of the estimation half. The table has intervals and the null of other roles.",
        name="roles",
    )
    if len(probability.coordinates("ablated")) < 2:
        return [grid]
    without = lines(
        probability,
        "shots",
        colour="ablated",
        name="ablated_curves",
        title="The curve without the heads between pairs",
        caption="Mean probability of the function's value after so many pairs, over prompts of the estimation "
        "half, with heads replaced by their mean over label-shuffled prompts. The random set is the most damaging "
        "of those drawn.",
    )
    return [grid, without]
