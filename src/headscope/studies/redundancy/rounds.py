"""Peeling: cut the attention that formed the task, look where it is formed now, and cut that too.

In: both halves of the problems, how heads are cut, and either the heads to cut or a number of rounds. Out: steps, the
first with nothing cut. The article's procedure made automatic: find the first stream that carries the task; cut, in
A, the attention layers just before it, between the last cut and that stream; repeat until nothing carries the task,
A's own answer fails, or the rounds are over. Where to cut is decided on the selection half, and everything that is
reported is measured on the other. Beside each step stand cuts of as many random attention layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from headscope.measures import Side, interval, side
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.studies.redundancy_parts.cuts import Heads, Scissors, as_many_at_random, heads_among
from headscope.studies.redundancy_parts.patching import MARGIN, Evidence, evidence_of
from headscope.studies.redundancy_parts.problems import TASK
from headscope.studies.redundancy_parts.prompts import Written

# A's answer fails once its probability is surely below this share of what it was, and stays while surely above.
KEPT_SHARE = 0.5
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Bench:
    """What every step needs: the model, both halves of the prompts, how numbers are read and heads are cut."""

    model: Model
    selection: Written
    estimation: Written
    number: Measure
    scissors: Scissors

    def evidence(self, written: Written, heads: Heads) -> Evidence:
        return evidence_of(self.model, written, self.number, self.scissors.cut(heads), heads)


@dataclass(frozen=True, eq=False)
class Step:
    """One cut: which heads in all, and which of them are new; `reason` says why nothing was cut after it."""

    heads: Heads
    new: Heads
    chosen_on: Evidence
    found: Evidence
    controls: tuple[Evidence, ...]
    reason: str = ""


def peeled(bench: Bench, *, rounds: int, width: int, draws: int, seed: int, progress: Progress) -> list[Step]:
    """Steps until nothing carries the task, A fails, or the rounds are over."""
    steps: list[Step] = []
    heads: Heads = ()
    new: Heads = ()
    while True:
        progress("peeling", len(steps), rounds + 1)
        chosen_on = bench.evidence(bench.selection, heads)
        first = chosen_on.first_task()
        clean = steps[0].chosen_on if steps else chosen_on
        following: Heads = ()
        if first is None:
            reason = "no layer clearly carries the task on the prompts that choose"
        elif remains(chosen_on.own.probability, clean.own.probability) is Side.BELOW:
            reason = "A itself fails"
        elif len(steps) == rounds:
            reason = "the rounds are over"
        else:
            layers = layers_to_cut(bench.model.anatomy.attending, heads, first, width)
            following = heads_among(bench.model, layers) if layers else ()
            reason = "" if layers else "no attention before the first layer that carries the task is left"
        steps.append(_step(bench, heads, new, chosen_on, draws, seed, reason))
        if reason:
            return steps
        heads, new = (*heads, *following), following


def as_listed(bench: Bench, heads: Heads, *, draws: int, seed: int, progress: Progress) -> list[Step]:
    """Two steps: nothing cut, then the heads that were named."""
    steps: list[Step] = []
    for cut in ((), heads):
        progress("cutting what was listed", len(steps), 2)
        chosen_on = bench.evidence(bench.selection, cut)
        reason = "what was listed is cut" if cut else ""
        steps.append(_step(bench, cut, cut, chosen_on, draws, seed, reason))
    return steps


def layers_to_cut(attending: Sequence[int], cut: Heads, first: int, width: int) -> list[int]:
    """The attention layers between the last cut and the first stream that carries the task.

    At first the `width` nearest before that stream; where none lies between, since what is left of the earlier ones
    suffices, the nearest of those.

    >>> from headscope.vocabulary import Head
    >>> cut = (Head(10, 0), Head(11, 0))
    >>> layers_to_cut(range(32), (), 12, 2)
    [10, 11]
    >>> layers_to_cut(range(32), cut, 14, 2), layers_to_cut(range(32), cut, 12, 2)
    ([12, 13], [9])
    """
    gone = {head.layer for head in cut}
    left = [layer for layer in attending if layer < first and layer not in gone]
    since = [layer for layer in left if gone and layer > max(gone)]
    return since or left[-1 if gone else -width :]


def remains(probability: Tensor, clean: Tensor) -> Side:
    """Where A's answer under a cut lies, seen from `KEPT_SHARE` of its clean probability, paired by prompt."""
    found = interval((probability - KEPT_SHARE * clean).numpy())
    return side(float(found.low), float(found.high), 0.0)


def _step(
    bench: Bench, heads: Heads, new: Heads, chosen_on: Evidence, draws: int, seed: int, reason: str
) -> Step:
    found = bench.evidence(bench.estimation, heads)
    others = as_many_at_random(bench.model, heads, count=draws, seed=seed) if heads else []
    controls = tuple(bench.evidence(bench.estimation, other) for other in others)
    return Step(heads, new, chosen_on, found, controls, reason)


def aside(model: Model, steps: Sequence[Step]) -> str:
    """Why cuts that were listed say nothing of what forms the task; empty if one of them takes that away."""
    if any(takes_away(model, step, steps[0]) for step in steps[1:]):
        return ""
    return (
        "what was cut neither takes all attention of the layer just before the first stream that carries the task, "
        f"nor costs that stream {MARGIN} of the task's probability: it need not have formed it."
    )


def takes_away(model: Model, step: Step, clean: Step) -> bool:
    """Whether a cut takes what forms the task first: the attention just before it, or what the stream owes to it."""
    firsts = {each for each in (clean.chosen_on.first_task(), clean.found.first_task()) if each is not None}
    for stream in firsts:
        before = [layer for layer in model.anatomy.attending if layer < stream]
        if before and {head for head in model.heads if head.layer == before[-1]} <= set(step.heads):
            return True
        pairs = [(clean.found.probability(name), step.found.probability(name)) for name in TASK]
        if max(float(was.mean[stream] - now.mean[stream]) for was, now in pairs) > MARGIN:
            return True
    return False
