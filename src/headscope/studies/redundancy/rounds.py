"""Iterative ablation: ablate the attention that forms the task, look where it is formed now, and ablate that too.

In: an experiment. Out: rounds, the first with nothing ablated. The article's procedure made automatic: find the
first layer that transfers the task; ablate, in the source, the attention layers just before it, back to those
ablated already; repeat until no layer transfers it, the source's own answer fails, or the rounds are over. Or two
rounds, where the heads to ablate are listed. All is decided on the selection half, beside ablations of as many
random layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from headscope.interventions.named_heads import heads_among, parse_heads
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.studies.redundancy.experiment import Ctx, Heads, experiment
from headscope.studies.redundancy.patching import MARGIN, Patched, patched
from headscope.sweeps.controls import random_ablations
from headscope.tables import Quantity
from headscope.tasks.source_and_target import EXAMPLES, TASK
from headscope.tasks.split import Split

# The source's answer remains while it clearly has more than this share of its clean probability, fails with less.
KEPT_SHARE = 0.5
KEPT = Quantity("kept", f"probability minus {KEPT_SHARE:.0%} of the clean one", within=(-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Round:
    """One ablation, of which the heads `new` were not ablated before; as many at random; `ended` ends the rounds."""

    new: Heads
    halves: Split[Patched]
    random: tuple[Patched, ...]
    ended: str = ""

    @property
    def patched(self) -> Patched:
        """The half that is reported."""
        return self.halves.estimation

    @property
    def excess(self) -> Split[Samples]:
        return self.halves.map(lambda half: half.excess)


def rounds(ctx: Ctx) -> tuple[Round, ...]:
    """What was listed, or rounds until no layer transfers the task, the source fails, or there were enough."""
    tried, count = ctx.once(experiment), ctx.settings.random_sets
    made: list[Round] = []
    heads: Heads = ()
    new: Heads = ()
    while True:
        ctx.progress("iterative ablation", len(made), ctx.settings.rounds + 1)
        halves = tried.prompts.map(partial(patched, tried, heads=heads))
        drawn = random_ablations(ctx.model, heads, count=count, seed=ctx.settings.seed) if heads else []
        random = [patched(tried, tried.prompts.estimation, each) for each in drawn]
        made.append(Round(new, halves, tuple(random)))
        ended, new = _next(ctx, made)
        if ended:
            return (*made[:-1], replace(made[-1], ended=ended))
        heads = (*heads, *new)


def _next(ctx: Ctx, made: Sequence[Round]) -> tuple[str, Heads]:
    """Why the rounds end, or which heads are ablated next; from the selection half."""
    model, settings, now = ctx.model, ctx.settings, made[-1].halves.selection
    if settings.ablate is not None:
        listed = heads_among(model, parse_heads(settings.ablate))
        return "what was listed is ablated" if made[1:] else "", listed
    first = now.first(*TASK)
    if first is None:
        return "no layer clearly transfers the task on the selection half", ()
    if float(kept(now, made[0].halves.selection).estimate().high[0]) < 0:
        return "the source's own answer fails", ()
    if len(made) > settings.rounds:
        return "stopped after the maximum number of rounds", ()
    layers = next_layers(model.anatomy.attending, now.heads, first, settings.first_layers)
    ended = "" if layers else "no attention is left before the first layer that transfers the task"
    return ended, heads_among(model, layers)


def next_layers(attending: Sequence[int], ablated: Heads, first: int, width: int) -> list[int]:
    """The attention layers between the last ablation and the first layer that transfers the task.

    At first the `width` nearest before that layer; where none lies between, since what is left of the earlier ones
    suffices, the nearest of those.

    >>> from headscope.vocabulary import Head
    >>> ablated = (Head(10, 0), Head(11, 0))
    >>> [next_layers(range(32), *rest, 2) for rest in (((), 12), (ablated, 14), (ablated, 12))]
    [[10, 11], [12, 13], [9]]
    """
    gone = {head.layer for head in ablated}
    left = [layer for layer in attending if layer < first and layer not in gone]
    since = [layer for layer in left if gone and layer > max(gone)]
    return since or left[-1 if gone else -width :]


def kept(under: Patched, clean: Patched) -> Samples:
    """The source's answer under an ablation, against the share of its clean probability that it must keep."""
    return (under.own - clean.own.changed(KEPT, lambda values: KEPT_SHARE * values)).measured_as(KEPT)


def first_effective(ctx: Ctx) -> tuple[Round | None, str]:
    """The first round that ablates what first forms the task; None, and why, if none does."""
    clean, *others = ctx.once(rounds)
    effective = (each for each in others if ablates_what_forms(ctx.model, each, clean))
    why = "what was ablated need not have formed the task"
    why = why if others else f"nothing was ablated: {clean.ended}"
    return next(effective, None), why


def ablates_what_forms(model: Model, each: Round, clean: Round) -> bool:
    """Whether a round ablates all attention just before the first layer that transfers the task, or lowers that."""
    for layer in {layer for half in clean.halves if (layer := half.first(*TASK)) is not None}:
        before = [other for other in model.anatomy.attending if other < layer]
        if before and {head for head in model.heads if head.layer == before[-1]} <= set(each.patched.heads):
            return True
        were, are = (one.patched.probability.at(source=EXAMPLES, layer=layer) for one in (clean, each))
        if float((were - are).only(answer=TASK).mean.max()) > MARGIN:
            return True
    return False
