"""Do layers, or heads, that are ablated jointly cost more than the sum of their single ablations?

In: the attention layers before the last one that transfers the task, and the heads that matter most for the source's
answer. Out: every set of them ablated (sweeps.redundancy), and two claims. Layers are judged by the task that is
patched into the target, heads by the source's own answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from headscope.evidence import Test, bars, claim, table
from headscope.evidence.comparisons import head_names
from headscope.interventions.named_heads import heads_among
from headscope.measures import next_logit
from headscope.measures.coalitions import Coalition, Game
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.head_sets import INTERACTION_SHARE, costly_together, superadditive
from headscope.studies.redundancy.damage import MATTERS_LOGITS, TaskDamage, head_damages, important_heads
from headscope.studies.redundancy.does_the_task import source_answered
from headscope.studies.redundancy.experiment import Ctx, Heads, experiment
from headscope.studies.redundancy.rounds import rounds
from headscope.studies.redundancy.transfer import transferred
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import damages
from headscope.sweeps.redundancy import Options, Redundancy, head_game, redundancy_of
from headscope.tables import Column, Quantity, Table
from headscope.tasks.source_and_target import TASK

# Of so many layers before the transferring one every set is ablated: 2^6 - 1 runs of the source.
MOST_LAYERS = 6
INTERACTION = Quantity("interaction", "jointly minus singly; positive: redundant", "logits")
JOINTLY = Quantity("jointly", "damage of ablating all of them", "logits")
SINGLY = Quantity("singly", "sum of the damages of ablating each alone", "logits")
WHAT = Column("component", pl.String, "layers: damage to f(target x); heads: to the source's own answer")
MEMBERS = Column("ablated", pl.String, "which")


@dataclass(frozen=True, eq=False)
class Joint:
    """Components ablated in every combination: joint damage, sum of single ones, tables of what all sets show."""

    jointly: Samples
    singly: Samples
    tables: tuple[Table, ...] = ()

    @classmethod
    def of(cls, what: str, game: Game, found: Redundancy, jointly: Array) -> "Joint":
        members, tables = " ".join(map(str, game.players)), (found.interactions, found.effects, found.sets)
        values = ((JOINTLY, jointly), (SINGLY, game.many([(player,) for player in game.players]).sum(0)))
        both, singly = (Samples.one(q, v).labelled(MEMBERS, members).labelled(WHAT, what) for q, v in values)
        return cls(both, singly, tables if what == "heads" else tuple(map(_of_layers, tables)))

    @property
    def interaction(self) -> Samples:
        return (self.jointly - self.singly).measured_as(INTERACTION)


def joint_heads(ctx: Ctx) -> Joint | None:
    """The important heads; None for fewer than two."""
    tried, heads = ctx.once(experiment), ctx.once(important_heads)
    if len(heads) < 2:
        return None
    options = Options(ablation=tried.ablation("z", "mean"), measure=next_logit("readout"))
    prompts, stage = tried.prompts.estimation.answered, ctx.stage("ablating sets of heads")
    game = head_game(ctx.model, prompts, heads, options, progress=stage)
    found = redundancy_of(game, options)
    jointly = damages(ctx.model, prompts, [Cell((tried.ablation(heads, "mean"),))], options.measure)[0]
    return Joint.of("heads", game, found, jointly.numpy())


def joint_layers(ctx: Ctx) -> Joint | None:
    """The attention layers before the last one that transfers the task; None for fewer than two."""
    model, tried, made = ctx.model, ctx.once(experiment), ctx.once(rounds)
    last = max(made[0].halves.selection.layers(*TASK), default=0)
    layers = layers_before(model.anatomy.attending, last, made[-1].patched.heads)
    if len(layers) < 2:
        return None
    damage, stage = TaskDamage(tried, tried.prompts.estimation, last), ctx.stage("ablating sets of layers")

    def of_layers(sets: Sequence[Coalition]) -> list[Array]:
        heads = [heads_among(model, [int(str(layer)) for layer in each]) for each in sets]
        return [values.numpy() for values in damage.of(heads)]

    most = 2 ** len(layers) - 1
    game = Game(layers, len(damage.prompts), of_layers, progress=lambda done: stage("", done, most))
    return Joint.of("layers", game, redundancy_of(game, Options()), game(layers))


def layers_before(attending: Sequence[int], last: int, ablated: Heads) -> tuple[int, ...]:
    """The attention layers before one of which every set is ablated: those ablated in rounds, then the nearest."""
    before, in_rounds = [each for each in attending if each < last], {head.layer for head in ablated}
    ranked = sorted(before, key=lambda each: (each not in in_rounds, -each))
    return tuple(sorted(ranked[:MOST_LAYERS]))


def _of_layers(heads: Table) -> Table:
    def renamed(text: str) -> str:
        return text.replace("head", "layer")

    frame = heads.frame.rename({each: renamed(each) for each in heads.frame.columns})
    frame = frame.with_columns(pl.col("^layer$").cast(pl.Int64))
    columns = [replace(c, name=renamed(c.name), meaning=renamed(c.meaning)) for c in heads.schema.columns]
    typed = tuple(replace(c, dtype=pl.Int64) if c.name == "layer" else c for c in columns)
    return Table(replace(heads.schema, name=f"layer_{heads.name}", columns=typed), frame)


def redundant(needs: Sequence[Test], name: str, what: str, joint: Joint | None, why: str) -> Claim:
    """Jointly over singly, against a share of the sum of single damages."""
    more, singly = (None, None) if joint is None else (joint.interaction, joint.singly)
    cost = f"over {INTERACTION_SHARE:.0%} more than the sum of single ablations"
    statement = f"The {what} are redundant: ablated jointly they cost {cost}."
    tables = () if joint is None else ("joint_ablation", *(each.name for each in joint.tables))
    needs = [*needs, costly_together(more, singly, why)]
    return claim(name, statement, needs=needs, tests=[superadditive(more, singly, why)], tables=tables)


def joint_ablation(ctx: Ctx) -> Part:
    """Which layers form the task redundantly, and are the heads that write the answer redundant too?"""
    layers, heads = ctx.once(joint_layers), ctx.once(joint_heads)
    known = [joint for joint in (layers, heads) if joint is not None]
    names = head_names(ctx.once(important_heads)).split()
    important = ctx.once(head_damages).estimation.only(head=names)
    tables, figures = [], []
    if known:
        beside = [stacked([joint.jointly for joint in known]), stacked([joint.singly for joint in known])]
        tables = [table(stacked([joint.interaction for joint in known]), "joint_ablation", beside=beside)]
    if names:
        title = "Heads that matter for the source's answer"
        caption = "Mean fall of the answer's logit over source prompts, one head at its label-shuffled mean."
        figures = [bars(important, "head", name="task_heads", title=title, caption=caption)]
        tables.append(table(important, "task_heads"))
    none = "no layer clearly transfers the task, or fewer than two attention layers come before it"
    few = f"fewer than two heads clearly lower the answer's logit by {MATTERS_LOGITS} when ablated alone"
    needs = source_answered(ctx)
    formed = [*needs, *transferred(ctx.once(rounds)[0].excess)]
    claims = [
        redundant(formed, "layers_stand_in", "layers that form the task", layers, none),
        redundant(needs, "heads_stand_in", "heads that matter most for the answer", heads, few),
    ]
    tables += [each for joint in known for each in joint.tables]
    return Part(tables=tables, claims=claims, figures=figures)
