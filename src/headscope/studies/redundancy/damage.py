"""What is lost when heads are ablated: of the source's own answer, and of the task that is patched into the target.

In: an experiment and heads. Out: damages per prompt, in logits of the right answer's telling token above the
vocabulary's mean. *Of the answer*: heads at their mean over label-shuffled prompts. *Of the task*: the
fall of f(target x) when the ablated source's residual stream is patched into the target, so that heads that the
source needs only to read its own x, or to write its answer, do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from headscope.measures import next_logit
from headscope.measures.samples import Samples, over_heads
from headscope.studies.redundancy.experiment import Ctx, Experiment, Heads, experiment
from headscope.studies.sites import residual_patches
from headscope.sweeps import each_head
from headscope.sweeps.cell_values import damages
from headscope.sweeps.final_token import final_token_runs
from headscope.sweeps.naive import evaluate
from headscope.tables import Quantity
from headscope.tasks.source_and_target import EXAMPLES, TransferPrompts
from headscope.tasks.split import Split
from headscope.vocabulary import Head

# A head matters if ablating it lowers the answer's logit by more than this, by a bound that holds for all at once.
MATTERS_LOGITS = 0.1
DAMAGE = Quantity("logit_damage", "fall of the right answer's logit when ablated", "logits")


def head_damages(ctx: Ctx) -> Split[Samples]:
    """Damage of every head to the source's answer."""
    model, tried, stage = ctx.model, ctx.once(experiment), ctx.stage("ablating single heads")
    cells, measure = each_head(tried.ablation("z", "mean"), model.heads), next_logit("readout")
    values = tried.prompts.map(lambda half: damages(model, half.answered, cells, measure, progress=stage))
    return values.map(lambda each: over_heads(DAMAGE, model.heads, each.T))


def important_heads(ctx: Ctx) -> Heads:
    """The heads that clearly matter for the source's answer on the selection half, worst first."""
    sure = ctx.once(head_damages).selection.named(above=MATTERS_LOGITS)
    order = np.argsort(-sure.mean, kind="stable")[: ctx.settings.top_heads]
    return tuple(Head.parse(sure.cells[index][-1]) for index in order)


@dataclass(frozen=True, eq=False)
class TaskDamage:
    """What the source has formed in its final position before `layer`, as the target shows it, on one half."""

    tried: Experiment
    prompts: TransferPrompts
    layer: int

    @cached_property
    def clean(self) -> Tensor:
        """The logit of f(target x) with nothing ablated, [prompt]."""
        return self._logits([()])[0]

    def of(self, sets: Sequence[Sequence[Head]]) -> list[Tensor]:
        """How much lower it is with each of these sets of heads ablated in the source, [prompt]."""
        return [self.clean - logit for logit in self._logits(sets)]

    def each(self, heads: Heads) -> Samples:
        """The same with each head by itself ablated."""
        return over_heads(DAMAGE, heads, torch.stack(self.of([(head,) for head in heads]), dim=1).numpy())

    def _logits(self, sets: Sequence[Sequence[Head]]) -> list[Tensor]:
        """One run of the source for each set, and of the target with its residual stream before `layer`."""
        model, target = self.tried.model, self.prompts.target_answered
        edits = [self.tried.edits(heads) for heads in sets]
        runs = final_token_runs(model, self.prompts.sources[EXAMPLES], edits)
        patches = [residual_patches(model, run)[self.layer].interventions for run in runs]
        return [evaluate(model, target, [next_logit("answering")], patch)[0] for patch in patches]
