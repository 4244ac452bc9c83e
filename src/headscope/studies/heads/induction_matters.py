"""Do the heads of a kind matter, more than any heads would?

In: the heads that each detector names; those with the pattern of induction are several kinds, by the sign of what
they write, and are never ablated as one: their damages would cancel. Out: the damage of ablating all heads of a kind
together, beside that of random sets of as many heads, of the same layers where possible. No random set holds a head
that moves what stands elsewhere (of any kind of induction, previous or duplicate token): the others depend on these.
Heads that only rest on BOS or their own token may be drawn: that is what most heads do that do nothing in particular,
and in many models nearly all that are left. Of a large model (screening) the induction heads alone are compared with
random sets. p counts the named set itself, and so cannot be smaller than 1 / (1 + sets).
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import polars as pl
import torch

from headscope.evidence import bars, claim, table
from headscope.interventions.targets import targets_of
from headscope.measures import loss
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.head_sets import beyond_random, columns_of
from headscope.studies.heads import experiment, screening
from headscope.studies.heads.experiment import DAMAGE, JUDGED, Ctx, averaged
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import damages
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tables import Column, Quantity
from headscope.vocabulary import Head

GROUP = Column("group", pl.String, "kind of these heads on the selection prompts: see kind in the table heads")
UNCOMPARED = "random sets are ablated beside induction heads alone"
RESTING = ("current_token", "bos")
RANDOM_MEAN = Quantity("random_mean", "mean damage of random sets of as many heads", "nats")


def induction_matters(ctx: Ctx) -> Part:
    """What does it cost to ablate the heads of a kind together, and as many random heads?"""
    groups = ctx.once(damage_of_groups)
    judged = matters(groups.get("induction"))
    if not groups:
        return Part(claims=[judged])
    damage = Samples.of(DAMAGE, (GROUP,), {name: each.damage for name, each in groups.items()})
    usual = {name: each.set_damage.mean(0) for name, each in groups.items()}
    random = Samples.of(RANDOM_MEAN, (GROUP,), usual)
    figure = bars(
        damage,
        "group",
        reference=random,
        name="groups",
        title="Named heads against as many random heads",
        caption="Rise of the loss when the heads of a kind (the most damaging, where few others are left to compare "
        "with) are ablated together, by their means; the stroke is the mean over random sets of as many heads. "
        f"{averaged(ctx)}",
    )
    more = columns_of(groups, "ablated size random_max random_worst random_sets p_value")
    listed = table(damage, "groups", beside=[random], more=more)
    alone = [kind for kind, each in groups.items() if each.none == UNCOMPARED]
    notes = [f"Ablated beside no random sets, since no claim is about them: {', '.join(alone)}."] if alone else []
    return Part(tables=[listed], claims=[judged], figures=[figure], notes=notes)


def damage_of_groups(ctx: Ctx) -> dict[str, AgainstRandom]:
    """Each kind of named heads ablated together, beside random sets, on the estimation half."""
    named = ctx.once(experiment.named_heads)
    moving = {kind: heads for kind, heads in named.items() if kind not in RESTING}
    resting = {kind: heads for kind, heads in named.items() if kind in RESTING}
    tested = {head for heads in moving.values() for head in heads}

    def beside(groups: dict[str, tuple[Head, ...]]) -> dict[str, AgainstRandom]:
        return against_random_sets(
            ctx.model,
            experiment.prompts(ctx).estimation.repeated,
            {kind: strongest(ctx, heads, tested) for kind, heads in groups.items()},
            ablation=experiment.mean_ablation(ctx),
            measure=loss(JUDGED),
            control=Control(ctx.settings.random_sets, ctx.settings.seed),
            apart_from=tested,
            progress=ctx.stage("ablating random heads beside named ones"),
        )

    if not screening.screened(ctx):
        return {**(beside(moving) if moving else {}), **(beside(resting) if resting else {})}
    # In a large model random sets cost more than all else: they stand beside what a claim is about.
    judged = {kind: heads for kind, heads in moving.items() if kind == "induction"}
    others = {kind: strongest(ctx, heads, tested) for kind, heads in named.items() if kind not in judged}
    return {**(beside(judged) if judged else {}), **(_alone(ctx, others) if others else {})}


def _alone(ctx: Ctx, groups: Mapping[str, tuple[Head, ...]]) -> dict[str, AgainstRandom]:
    """Each kind ablated together, beside no random set."""
    shown, ablation = experiment.prompts(ctx).estimation.repeated, experiment.mean_ablation(ctx)
    cells = [Cell((replace(ablation, targets=targets_of(heads)),)) for heads in groups.values()]
    stage = ctx.stage("ablating heads of other kinds")
    harm = list(damages(ctx.model, shown, cells, loss(JUDGED), progress=stage))
    return {
        kind: AgainstRandom(heads, damage, (), torch.empty(0, len(shown)), 0, "layers", none=UNCOMPARED)
        for (kind, heads), damage in zip(groups.items(), harm, strict=True)
    }


def strongest(ctx: Ctx, heads: Collection[Head], tested: Collection[Head]) -> tuple[Head, ...]:
    """The most damaging of these on the selection half: as many as random sets can be drawn beside.

    At most half of the heads that are under no test: sets of nearly all of them would hardly differ.
    """
    free = len([head for head in ctx.model.heads if head not in tested and head not in heads])
    if len(heads) <= free // 2:
        return tuple(heads)
    return tuple([head for head in ctx.once(screening.most_damaging) if head in heads][: max(1, free // 2)])


def matters(induction: AgainstRandom | None) -> Claim:
    """Whether the induction heads do more damage than as many random heads; None if no head was named."""
    what = "rise of the loss when the induction heads are ablated"
    return claim(
        "induction_matters",
        "Ablating induction heads raises the loss more than ablating as many random heads.",
        tests=beyond_random(what, DAMAGE, induction, "no head was named an induction head"),
        tables=["groups"] if induction else [],
    )
