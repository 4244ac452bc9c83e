"""Which heads move information between the tokens of pairs, and does the curve need them?

In: the context of the study. Out: every head's attention from y to the x of its own pair and from one pair to earlier
y, with the null of shuffled roles; the strongest heads of each kind, named on one half of the prompts and ablated on the
other beside random sets of as many heads; the curve over examples without them; the claims `heads_*` and
`flattens_without_*`. These are the two kinds of heads of the article's third claim. An ablated head writes its mean over
*label-shuffled* prompts: a mean over prompts of the same task would hold the task itself.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from headscope.detectors.roles import NAMES, role_attention, role_table
from headscope.detectors.scores import NAMED_MARGIN, above_null
from headscope.evidence import Rank, Test, any_of, claim, lines, table
from headscope.figures import head_grid
from headscope.interventions import mean
from headscope.interventions.ablations import Mean
from headscope.measures import joint_log_probability
from headscope.measures.samples import Samples
from headscope.results.study import Claim, Figure
from headscope.studies.bayes.curve import PROBABILITY
from headscope.studies.bayes.observations import RISE, RISE_MARGIN, over_shots
from headscope.studies.bayes.predictions import predictions
from headscope.studies.bayes.settings import BayesSettings
from headscope.studies.context import Context, Part
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity, Table
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.shots import Shots
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


@dataclass(frozen=True, eq=False)
class Attention:
    """Of one half of the prompts: score minus null [prompt, (layer, head)] by kind, and the table of all scores."""

    above: Mapping[str, Samples]
    table: Table


def pair_heads(ctx: Context[BayesSettings]) -> Part:
    """Are there heads of the two kinds, and does ablating the strongest cost more than ablating others?"""
    attention = ctx.once(attention_of_roles).estimation
    beside, probability = ctx.once(ablated_heads), curves(ctx)
    rise = _rise(probability.at(ablated=INTACT))
    present = [heads_of_kind(kind, attention.above[kind]) for kind in STATED]
    flat = [flattens(kind, beside.get(kind), rise) for kind in STATED]
    where = ", position by position" if functions_of(ctx.model) else ", over all positions"
    note = (
        "Heads are named on the prompts of even number and judged on those of odd number. Their null has the same "
        "distances from queries of another role: a head that looks a fixed number of tokens back does as much there. "
        f"Ablated are the {ctx.settings.strongest} strongest of each kind: a head then writes its mean over other, "
        f"label-shuffled prompts{where}."
    )
    return Part(
        tables=[attention.table, _groups_table(ctx, beside), table(probability, "ablated_curves")],
        claims=[*present, *flat],
        figures=_figures(attention.table, probability),
        notes=[note],
    )


def heads_of_kind(kind: str, above: Samples) -> Claim:
    """`above` [prompt, (layer, head)]: attention on the kind's keys minus that of its null, shuffled roles."""
    return claim(
        f"heads_{kind}",
        STATED[kind],
        tests=[any_of("attention above shuffled roles", above, above=NAMED_MARGIN)],
        tables=("roles",),
    )


def flattens(kind: str, beside: AgainstRandom | None, rise: Samples) -> Claim:
    """`beside`: the heads and random sets, None where none was named; `rise` [prompt] of the intact model's curve."""
    tests: list[Test | Rank]
    if beside is None:
        nothing = "no head of this kind was named on the other half of the prompts"
        tests = [Test("damage of ablating them", None, above=0.0, reason=nothing)]
    else:
        damage, drawn = Samples.one(DAMAGE, beside.damage), beside.means.numpy()
        usual = max(0.0, float(drawn.mean())) if len(drawn) else 0.0
        tests = [
            Test("damage, against the mean of random sets", damage, above=usual),
            Rank("damage among random sets of as many heads", float(damage.mean[0]), drawn, "damage", "nats"),
        ]
    return claim(
        f"flattens_without_{kind}",
        f"Ablating the strongest {kind.replace('_', ' ')} heads costs the answer more than ablating as many random "
        "heads.",
        needs=[Test("rise of the right answer with examples", rise, above=RISE_MARGIN)],
        tests=tests,
        tables=("head_groups", "ablated_curves"),
    )


def attention_of_roles(ctx: Context[BayesSettings]) -> Split[Attention]:
    """The half of the prompts that names heads, and the half that they are judged on."""
    ctx.progress("finding heads of pairs", 0, 1)

    def read(shots: Shots) -> Attention:
        attention = role_attention(ctx.model, linear(ctx.model, shots), seed=ctx.settings.seed)
        return Attention({kind: above_null(attention[kind]) for kind in NAMES}, role_table(attention))

    return halves(ctx.settings.draw(ctx.model)).map(read)


def named_heads(ctx: Context[BayesSettings]) -> dict[str, tuple[Head, ...]]:
    """The heads that the selection half names, by kind, most strongly first."""
    named = {}
    for kind, above in ctx.once(attention_of_roles).selection.above.items():
        heads = above.named(above=NAMED_MARGIN)
        if len(heads):
            order = (-heads.estimate().low).argsort(kind="stable")
            listed = heads.coordinates("head")
            named[kind] = tuple(Head.parse(listed[place]) for place in order)
    return named


def strongest(named: Mapping[str, Sequence[Head]], most: int) -> dict[str, tuple[Head, ...]]:
    """The first `most` heads of each kind, to be ablated; and those of both kinds together, last.

    >>> strongest({"x_to_y": [Head(0, 1), Head(0, 0)], "example_to_example": [Head(1, 0)]}, 1)["both"]
    (Head(0, 1), Head(1, 0))
    """
    groups = {kind: tuple(heads[:most]) for kind, heads in named.items()}
    if len(set(map(frozenset, groups.values()))) > 1:
        groups[BOTH] = tuple(sorted({head for heads in groups.values() for head in heads}))
    return groups


def ablated_heads(ctx: Context[BayesSettings]) -> dict[str, AgainstRandom]:
    """Each group ablated together beside random sets, on the estimation half; a group of all heads has no control."""
    groups = strongest(ctx.once(named_heads), ctx.settings.strongest)
    if not groups:
        return {}
    shots = halves(ctx.settings.draw(ctx.model)).estimation
    return against_random_sets(
        ctx.model,
        linear(ctx.model, shots).answered(),
        groups,
        cut=ctx.once(mean_over_shuffled),
        measure=joint_log_probability(),
        control=Control(ctx.settings.random_sets, ctx.settings.seed),
        progress=ctx.stage("ablating heads of pairs"),
    )


def mean_over_shuffled(ctx: Context[BayesSettings]) -> Mean:
    """A head's mean over other prompts with shuffled labels, where they align position by position."""
    settings, model = ctx.settings, ctx.model
    shuffled = settings.draw(model, n=_REFERENCES, seed=_OTHER_PROMPTS).with_shuffled_labels(settings.seed)
    ablation = mean(
        "z", over=linear(model, shuffled).answered(), per_position=functions_of(model) is not None
    )
    assert isinstance(ablation, Mean)
    return ablation


def curves(ctx: Context[BayesSettings]) -> Samples:
    """[prompt, (ablated, shots)]: intact, without each group, and without the random set that costs most."""
    beside, ablation = ctx.once(ablated_heads), ctx.once(mean_over_shuffled)
    sets: dict[str, Sequence[Head]] = {INTACT: ()}
    sets |= {f"{kind}: {_listed(each.picked)}": each.picked for kind, each in beside.items()}
    if beside and (last := list(beside.values())[-1]).worst:
        sets[f"random, the worst set: {_listed(last.worst)}"] = last.worst
    shots = halves(ctx.settings.draw(ctx.model)).estimation
    without = {}
    for done, (name, heads) in enumerate(sets.items()):
        ctx.progress("curves without heads", done, len(sets))
        edits = [mean(list(heads), over=ablation.over, per_position=ablation.per_position)] if heads else []
        without[name] = predictions(ctx.model, shots, edits).probability
    return over_shots(PROBABILITY, without, axis=ABLATED)


def _rise(curve: Samples) -> Samples:
    """From no pairs to all, [prompt], of a curve [prompt, shots]."""
    first, last = curve.coordinates("shots")[0], curve.coordinates("shots")[-1]
    return (curve.at(shots=last) - curve.at(shots=first)).measured_as(RISE)


def _groups_table(ctx: Context[BayesSettings], beside: Mapping[str, AgainstRandom]) -> Table:
    units = tuple(range(len(halves(ctx.settings.draw(ctx.model)).estimation)))
    damage = Samples.of(DAMAGE, (KIND,), {kind: each.damage for kind, each in beside.items()}, units=units)
    more = {column: {kind: read(each) for kind, each in beside.items()} for column, read in _MORE.items()}
    return table(damage, "head_groups", more=more)


def _listed(heads: Sequence[Head]) -> str:
    return " ".join(map(str, heads))


def _mean(beside: AgainstRandom) -> float:
    return float(beside.means.mean()) if len(beside.sets) else math.nan


def _largest(beside: AgainstRandom) -> float:
    return float(beside.means.max()) if len(beside.sets) else math.nan


_MORE: Mapping[Column, Callable[[AgainstRandom], Any]] = {
    ABLATED: lambda beside: _listed(beside.picked),
    Column("random_mean", pl.Float64, "mean fall with as many random heads ablated", "nats"): _mean,
    Column("random_max", pl.Float64, "largest fall among the random sets", "nats"): _largest,
    Column("random_worst", pl.String, "the heads of that set"): lambda beside: _listed(beside.worst),
    Column("random_sets", pl.Int64, "how many random sets were ablated"): lambda beside: len(beside.sets),
    Column(
        "p_value", pl.Float64, "sets, this one included, with at least this fall", "share"
    ): lambda beside: beside.p,
}


def _figures(roles: Table, probability: Samples) -> list[Figure]:
    """What each head attends to, and the curves without the named ones."""
    grid = head_grid(
        roles,
        "score",
        facet="detector",
        low=0.0,
        high=1.0,
        title="Heads between the tokens of pairs",
        caption="Attention from every y to the x of its own pair, and from the token before every y to all earlier y: "
        "mean over prompts of the estimation half. The table has intervals and the null of shuffled roles.",
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
        caption="Mean probability of the function's value after so many pairs, over prompts of the estimation half, with "
        "heads replaced by their mean over label-shuffled prompts. The random set is the most damaging of those drawn.",
    )
    return [grid, without]
