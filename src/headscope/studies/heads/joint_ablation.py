"""Are the induction heads redundant?

In: the named induction heads, most damaging first. Out: the damage of ablating the first one, two, three ... of them
jointly, beside the sum of their single ablations: in logits, where damages add up, and in loss, which levels off
where the model is sure and so fakes an interaction; for the few that matter most, every statistic over sets of them.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from headscope.evidence import claim, lines, table
from headscope.evidence.comparisons import head_names
from headscope.interventions import mean
from headscope.measures import loss, next_logit
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.head_sets import costly_together, superadditive
from headscope.studies.heads import experiment, screening
from headscope.studies.heads.experiment import DAMAGE, JUDGED, Ctx, averaged
from headscope.studies.self_repair import ABLATED
from headscope.sweeps import evaluate
from headscope.sweeps.redundancy import Options, head_redundancy
from headscope.tables import Column, Quantity
from headscope.vocabulary import Head

LOGIT_DAMAGE = Quantity("logit_damage", "fall of the logit of the token that follows", "logits")
COUNT = Column("heads_ablated", pl.Int64, "how many induction heads are ablated, most damaging first")
EFFECT = Column("effect", pl.String, "joint ablation, sum of single ones, or their difference: interaction")
JOINT, SUM, INTERACTION = "joint", "sum of single ablations", "interaction"


def joint_ablation(ctx: Ctx) -> Part:
    """What do the induction heads cost together, and one by one?"""
    named = ctx.once(experiment.named_heads).get("induction", ())
    heads = [head for head in ctx.once(screening.most_damaging) if head in named]
    if not heads:
        return Part(claims=[redundant(None)])
    logits, nats = _damage(ctx, heads[: ctx.settings.jointly])
    tables = [table(logits, "joint_ablation"), table(nats, "joint_ablation_loss")]
    if len(heads) > 1:
        shown, stage = experiment.prompts(ctx).estimation.repeated, ctx.stage("ablating sets of heads")
        options = Options(experiment.mean_ablation(ctx), next_logit(JUDGED))
        sets = head_redundancy(ctx.model, shown, heads[: ctx.settings.in_sets], options, progress=stage)
        tables += [sets.interactions, sets.effects, sets.sets]
    figure = lines(
        logits,
        COUNT.name,
        colour=EFFECT.name,
        name="joint_ablation",
        title="Induction heads ablated one after another",
        caption="Fall of the logit of the token that follows, against the vocabulary's mean. Heads are redundant "
        f"where joint ablation costs more than the sum of single ones. {averaged(ctx)}",
    )
    fewer = f"Of {len(heads)} induction heads the {ctx.settings.jointly} most damaging are ablated one after another."
    return Part(
        tables=tables,
        claims=[redundant(logits, [each.name for each in tables])],
        figures=[figure],
        notes=[fewer] if len(heads) > ctx.settings.jointly else [],
    )


def redundant(damage: Samples | None, tables: Sequence[str] = ()) -> Claim:
    """Whether ablating all induction heads costs more than the sum of single ablations, from [prompt, cell]."""
    interaction = singly = None
    if damage is not None and (last := max(damage.coordinates(COUNT.name))) > 1:
        judged = damage.only(heads_ablated=last).by(EFFECT.name)
        interaction, singly = judged[INTERACTION], judged[SUM]
    few = "fewer than two heads were named induction heads"
    return claim(
        "redundant",
        "Induction heads are redundant: ablating them jointly costs over 10% more than the sum of single ablations.",
        needs=[costly_together(interaction, singly, few)],
        tests=[superadditive(interaction, singly, few)],
        tables=tables,
    )


def _damage(ctx: Ctx, heads: Sequence[Head]) -> tuple[Samples, Samples]:
    """Damage [prompt, (heads_ablated, ablated, effect)] of the first few heads, in logits and in nats."""
    split, measures = experiment.prompts(ctx), [next_logit(JUDGED), loss(JUDGED)]
    shown, reference = split.estimation.repeated, split.selection.unrepeated
    clean, stage = evaluate(ctx.model, shown, measures), ctx.stage("ablating induction heads jointly")
    first, harm = [heads[: count + 1] for count in range(len(heads))], []
    for done, ablated in enumerate([*first, *([head] for head in heads)]):
        stage("", done, 2 * len(heads))
        edited = evaluate(ctx.model, shown, measures, [mean(ablated, over=reference)])
        harm.append([each.damage(*pair).numpy() for each, *pair in zip(measures, clean, edited, strict=True)])
    made = []
    for quantity, values in zip((LOGIT_DAMAGE, DAMAGE), np.array(harm).swapaxes(0, 1), strict=True):
        joint, single = values[: len(heads)], values[len(heads) :].cumsum(0)
        effects = {JOINT: joint, SUM: single, INTERACTION: joint - single}
        counted = [(len(ablated), head_names(ablated)) for ablated in first]
        cells = {(*at, name): each[at[0] - 1] for at in counted for name, each in effects.items()}
        made.append(Samples.of(quantity, (COUNT, ABLATED, EFFECT), cells))
    return made[0], made[1]
