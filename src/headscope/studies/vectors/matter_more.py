"""Which kind of heads matters more for few-shot accuracy: the ablations of Yin & Steinhardt 2025.

In: the top heads of both kinds, picked on the selecting half. Out: accuracy lost when the top heads of one kind that
are not top heads of the other are mean-ablated, beside random sets of as many heads. Means are over all positions of
label-shuffled prompts about other functions, which hold the form of the task but no function.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from headscope.evidence import Test, bars, claim, percent, table
from headscope.evidence.comparisons import head_names
from headscope.interventions import mean
from headscope.measures.samples import Samples
from headscope.measures.whole_answers import unpacked, whole_answer
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.head_sets import beyond_random
from headscope.studies.vectors.does_the_task import examples_teach
from headscope.studies.vectors.effects import FEW, SHUFFLED, asked, by_unit
from headscope.studies.vectors.head_effects import kinds_exist, top_heads
from headscope.studies.vectors.problems import Ctx, problems, within_task
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity
from headscope.tasks.source_and_target import telling_alone
from headscope.tasks.transfer import Transfer

MARGIN = 0.05
"""Accuracy by which ablating one kind of heads must cost more."""
FUNCTION_VECTOR, INDUCTION = "function-vector heads", "induction heads"
LOST = Quantity("accuracy_lost", "few-shot accuracy lost when these heads are ablated", "share", (-1.0, 1.0))
RANDOM = Quantity("random_sets_mean", "mean accuracy lost over random sets of as many heads", "share", (-1.0, 1.0))
GROUP = Column("group", pl.String, "the top heads of one kind that are not top heads of the other")
_MORE = (
    Column("ablated", pl.String, "heads that are mean-ablated together"),
    Column("random_sets_max", pl.Float64, "largest accuracy lost among the random sets", "share"),
    Column("random_sets", pl.Int64, "how many random sets were ablated"),
    Column("match", pl.String, "whether these have as many heads of each layer, or only the same size"),
    Column("p_value", pl.Float64, "share of sets, this one included, that cost at least as much"),
    Column("probability_lost", pl.Float64, "probability of the answer lost", "probability"),
)


@dataclass(frozen=True, eq=False)
class Ablated:
    """What ablating each group costs, [unit, group], with the mean of `random` sets and all of them `beside`.

    `beside` holds accuracies lost by problem; `more` are columns by group.
    """

    lost: Samples
    random: Samples
    beside: Mapping[str, AgainstRandom]
    more: Mapping[Column, Mapping[Any, Any]]


@within_task
def matter_more(ctx: Ctx) -> Part:
    """Do answers rest on the heads that write the function, or on those that look examples up?"""
    ablated = ctx.once(ablations)
    judged = function_vector_heads_more([*examples_teach(ctx), *kinds_exist(ctx)], ablated)
    if ablated is None:
        return Part(claims=[judged])
    half = ctx.once(ablated_problems)
    figure = bars(
        ablated.lost,
        "group",
        reference=ablated.random,
        name="ablations",
        title="Few-shot accuracy lost when the heads of one kind are ablated",
        caption="The top heads of one kind that are not top heads of the other, mean-ablated together: mean over "
        f"{len(half)} few-shot problems. The stroke is the mean over random sets of as many heads. Whiskers: 95% "
        f"over {half.over}.",
    )
    listed = table(ablated.lost, "ablations", beside=(ablated.random,), more=ablated.more)
    heads, by_group = ablated.more[_MORE[0]], ablated.lost.by("group")
    costs = ", ".join(f"{name} ({heads[name]}) {percent(each)}" for name, each in by_group.items())
    says = f"Few-shot accuracy lost with the top heads of one kind alone ablated: {costs}."
    every = len(ctx.once(problems).estimation)
    fewer = f"Sets of heads are ablated on {len(half)} of {every} problems alone."
    return Part(
        tables=[listed], claims=[judged], figures=[figure], says=[says], notes=[fewer] if len(half) < every else []
    )


def function_vector_heads_more(needs: Sequence[Test], ablated: Ablated | None) -> Claim:
    """Whether function-vector heads cost more than induction heads, and are among the costliest of random sets."""
    more, beside, lost = None, None, None
    if ablated is not None and set(ablated.lost.coordinates("group")) == {FUNCTION_VECTOR, INDUCTION}:
        beside, lost = ablated.beside[FUNCTION_VECTOR], ablated.lost.at(group=FUNCTION_VECTOR)
        more = lost - ablated.lost.at(group=INDUCTION)
    same = "the top heads of both kinds are the same"
    alone = beyond_random("accuracy lost: function-vector heads", LOST, beside, same)
    return claim(
        "matter_more",
        "Function-vector heads matter more for few-shot accuracy than induction heads, and more than random heads.",
        needs=needs,
        tests=[
            Test("accuracy lost: function-vector heads minus induction heads", more, above=MARGIN, reason=same),
            # Problems of one function are one unit.
            *(replace(each, sample=lost) if isinstance(each, Test) and lost else each for each in alone),
        ],
        tables=["head_effects"] if ablated is None else ["ablations", "head_effects"],
    )


def ablated_problems(ctx: Ctx) -> Transfer:
    """The estimating problems on which sets of heads are ablated."""
    half = ctx.once(problems).estimation
    return half.some(ctx.settings.ablated(half))


def ablations(ctx: Ctx) -> Ablated | None:
    """Each kind's top heads ablated without the other's; None where all top heads are common."""
    top, half = ctx.once(top_heads), ctx.once(ablated_problems)
    alone = {
        FUNCTION_VECTOR: [head for head in top.function_vector if head not in top.induction],
        INDUCTION: [head for head in top.induction if head not in top.function_vector],
    }
    groups = {kind: heads for kind, heads in alone.items() if heads}
    if not groups:
        return None
    against_random = against_random_sets(
        ctx.model,
        telling_alone(asked(ctx.model, half, FEW).first).answered(),
        groups,
        ablation=mean("z", over=asked(ctx.model, ctx.once(problems).selection, SHUFFLED).first),
        measure=whole_answer(),
        control=Control(ctx.settings.random_sets, ctx.settings.seed),
        apart_from={*top.function_vector, *top.induction},
        progress=ctx.stage("ablating heads"),
    )
    lost, random, beside = {}, {}, {}
    more: dict[Column, dict[str, Any]] = {column: {} for column in _MORE}
    for group, each in against_random.items():
        (accuracy, probability), drawn = unpacked(each.damage), unpacked(each.set_damage)[0]
        beside[group] = own = replace(each, damage=accuracy, set_damage=drawn)
        lost[group] = by_unit(accuracy, half)
        random[group] = by_unit(drawn.mean(0), half)  # NaN where there is no other set
        largest, heads = max(own.means.tolist(), default=math.nan), head_names(own.picked)
        columns = heads, largest, len(own.sets), own.match, own.p, float(probability.mean())
        for column, value in zip(_MORE, columns, strict=True):
            more[column][group] = value
    own_lost, others = (Samples.of(q, [GROUP], v, over=half.over) for q, v in ((LOST, lost), (RANDOM, random)))
    return Ablated(own_lost, others, beside, more)
