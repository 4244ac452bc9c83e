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
from headscope.studies.redundancy.experiment import Ctx, Heads, experiment
from headscope.studies.redundancy.patching import MARGIN, Ablated, Patched, ablated, best_cell, patched
from headscope.sweeps.controls import random_ablations
from headscope.tables import Quantity
from headscope.tasks.linear import functions_of
from headscope.tasks.source_and_target import EXAMPLES, TASK
from headscope.tasks.split import Split

# The source's answer remains while it clearly has more than this share of its clean probability, fails with less.
KEPT_SHARE = 0.5
KEPT = Quantity("kept", f"probability minus {KEPT_SHARE:.0%} of the clean one", within=(-KEPT_SHARE, 1.0))
FALL = Quantity("fall", "how much likelier an answer was with nothing ablated, paired by prompt", within=(-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Round:
    """One ablation, of which the heads `new` were not ablated before; as many at random; `ended` ends the rounds."""

    new: Heads
    halves: Split[Patched]
    random: tuple[Ablated, ...]
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
        # In text a pass costs so much that of random ablations the source's own answer is asked alone.
        made_of = patched if functions_of(ctx.model) is not None else ablated
        random = [made_of(tried, tried.prompts.estimation, each) for each in drawn]
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


def seen(made: Sequence[Round], *answers: str) -> set[int]:
    """The layers that transfer one of these answers on the selection half, in any round: those that are looked at."""
    return {layer for each in made for layer in each.halves.selection.layers(*answers)}


def kept(under: Ablated, clean: Ablated) -> Samples:
    """The source's answer under an ablation, against the share of its clean probability that it must keep."""
    return (under.own - clean.own.changed(KEPT, lambda values: KEPT_SHARE * values)).measured_as(KEPT)


def fall(clean: Round, ablated: Round) -> Split[Samples] | None:
    """What an ablation costs the task at the first layer that transferred it; None where none clearly did.

    Layer and answer are those of the selection half.
    """
    of = clean.halves.selection
    if (first := of.first(*TASK)) is None:
        return None
    answer, _ = best_cell(of.excess.only(answer=TASK, layer=first))
    were, are = (each.halves.map(lambda half: half.probability.at(source=EXAMPLES)) for each in (clean, ablated))
    lost = ((old - new).measured_as(FALL) for old, new in zip(were, are, strict=True))
    return Split(*(each.only(answer=answer, layer=first) for each in lost))


def ablation_of_what_forms(made: Sequence[Round]) -> tuple[Round | None, Samples | None, str]:
    """The first ablation, if it costs the task anything where that was formed; what it costs; else why not.

    One ablation is judged, whatever comes out of later ones. It takes the attention before the first layer that
    transfers the task; that this attention formed it shows in what its loss costs at that layer, on either half.
    """
    clean, *others = made
    if not others:
        return None, None, f"nothing was ablated: {clean.ended}"
    lost = fall(clean, others[0])
    if lost is None or not lost.selection.mean[0] > MARGIN:
        return None, None, "what was ablated need not have formed the task"
    return others[0], lost.estimation, ""
