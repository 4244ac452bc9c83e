"""Do the heads of a kind matter, more than any heads would?

In: the heads that each detector names. Out: the damage of ablating all heads of a kind together, beside that of
random sets of as many heads: a larger set always does more. The p value counts the named set itself and cannot be
smaller than 1 / (1 + sets), which in a small model may be more than .05. Not done here: sets matched by layer,
although early layers do more damage.
"""

from collections.abc import Callable
from typing import Any

import polars as pl

from headscope.evidence import Rank, Test, bars, claim, table
from headscope.evidence.comparisons import head_names
from headscope.measures import loss
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.heads import experiment
from headscope.studies.heads.experiment import DAMAGE, PREDICTABLE, Ctx, averaged
from headscope.studies.self_repair import ABLATED
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity

GROUP = Column("group", pl.String, "detector that names these heads on the selection prompts")
RANDOM_MEAN = Quantity("random_mean", "mean damage of random sets of as many heads", "nats")
RANDOM_MAX = Column("random_max", pl.Float64, "largest damage among the random sets", "nats")
P_VALUE = Column("p_value", pl.Float64, "share of sets, this one included, with at least its damage")
COLUMNS: dict[Column, Callable[[AgainstRandom], Any]] = {
    ABLATED: lambda group: head_names(group.picked),
    Column("size", pl.Int64, "how many heads"): lambda group: len(group.picked),
    RANDOM_MAX: lambda group: max(group.means.tolist(), default=float("nan")),
    Column("random_worst", pl.String, "the heads of that set"): lambda group: head_names(group.worst),
    Column("random_sets", pl.Int64, "random sets that were ablated"): lambda group: len(group.sets),
    P_VALUE: lambda group: group.p,
}


def induction_matters(ctx: Ctx) -> Part:
    """What does it cost to ablate the heads of a kind together, and as many random heads?"""
    groups = ctx.once(damage_of_groups)
    judged = matters(groups.get("induction"))
    if not groups:
        return Part(claims=[judged])
    damage = Samples.of(DAMAGE, (GROUP,), {name: each.damage for name, each in groups.items()})
    usual = {name: each.set_damage.mean(0) for name, each in groups.items()}
    random = Samples.of(RANDOM_MEAN, (GROUP,), usual)
    more = {column: {name: of(each) for name, each in groups.items()} for column, of in COLUMNS.items()}
    figure = bars(
        damage,
        "group",
        reference=random,
        name="groups",
        title="Named heads against as many random heads",
        caption="Rise of the loss when all heads of a kind are ablated together, by their means; the stroke is the "
        f"mean over random sets of as many heads. {averaged(ctx)}",
    )
    listed = table(damage, "groups", beside=[random], more=more)
    return Part(tables=[listed], claims=[judged], figures=[figure])


def damage_of_groups(ctx: Ctx) -> dict[str, AgainstRandom]:
    """Each kind of named heads ablated together, beside random sets, on the estimation half."""
    return against_random_sets(
        ctx.model,
        experiment.prompts(ctx).estimation.repeated,
        ctx.once(experiment.named_heads),
        ablation=experiment.mean_ablation(ctx),
        measure=loss(PREDICTABLE),
        control=Control(ctx.settings.random_sets, ctx.settings.seed),
        progress=ctx.stage("ablating random heads beside named ones"),
    )


def matters(induction: AgainstRandom | None) -> Claim:
    """Whether the induction heads do more damage than as many random heads; None if no head was named."""
    what = "rise of the loss when the induction heads are ablated"
    tests: list[Rank | Test] = [Test(what, None, above=0.0, reason="no head was named an induction head")]
    if induction is not None:
        drawn = induction.means.numpy()
        usual = max(0.0, float(drawn.mean())) if len(drawn) else 0.0
        rank = Rank("rank among random sets", float(induction.damage.mean()), drawn, "damage", "nats")
        tests = [rank, Test(what, Samples.one(DAMAGE, induction.damage), above=usual)]
    return claim(
        "induction_matters",
        "Ablating the induction heads raises the loss more than ablating as many random heads.",
        tests=tests,
        tables=["groups"] if induction else [],
    )
