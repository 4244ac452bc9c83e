"""How much a model learns from its context: the ICL score, loss by position, and how losses fall with tokens.

In: per-token losses in nats, and counts of training tokens. Out: scores and slopes. The ICL score is the loss late in
the context minus the loss early in it, at tokens 500 and 50 of 512 (Olsson et al. 2022, "In-context Learning and
Induction Heads", argument 1); *negative means that context helps*, and some papers print the opposite sign. From the
same paper: the derivative of loss with respect to log token index, by snapshot; that with respect to log training
tokens, by model; and two of its curiosities, that the score stays the same after the change and that the order of
models by the second derivative inverts there. Not done here: running models, and when the change is
(measures.change_point).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from headscope.errors import BadArgument
from headscope.measures.equivalence import Change, Outcome, changes
from headscope.measures.intervals import Array

EARLY: Final = 50
LATE: Final = 500
CONTEXT: Final = 512
PER_DOUBLING: Final = 2


@dataclass(frozen=True, eq=False)
class ICLScore:
    """The ICL score of each example [example], in nats, and the places it is read at.

    `scaled` says that the context was too short for the places asked for, which were moved in proportion.
    """

    by_example: Array
    early: int
    late: int
    scaled: bool

    @property
    def score(self) -> float:
        """Mean over examples; NaN if one is undefined."""
        return float(self.by_example.mean())


@dataclass(frozen=True)
class Constancy:
    """Whether a score stays the same after a change: each later snapshot against the mean of all of them.

    `snapshots` are those differences over examples, with the margin. Equivalent if every one of them is (which needs
    no correction), different if one lies surely beyond the margin (Bonferroni over snapshots).
    """

    outcome: Outcome
    snapshots: tuple[Change, ...]
    reason: str = ""


@dataclass(frozen=True)
class Inversion:
    """The order of models by a slope, steepest fall first, before and after a change, and how many pairs swap."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    swapped: int
    pairs: int
    reason: str = ""

    @property
    def inverts(self) -> bool:
        """Whether every pair of models swaps."""
        return self.pairs > 0 and self.swapped == self.pairs


def icl_score(loss_nats: Array, *, early: int = EARLY, late: int = LATE, around: int = 0) -> ICLScore:
    """Loss at token `late` minus loss at token `early`, of each example of [example, position].

    A model that ignores its context scores 0. A context of n <= late tokens moves both places by n / max(512, late
    + 1). `around` averages as many tokens on either side of a place.

    >>> score = icl_score(np.array([[4.0, 3.0, 1.0]]), early=0, late=2)
    >>> score.score, score.scaled
    (-3.0, False)
    >>> short = icl_score(np.zeros((1, 128)))
    >>> short.early, short.late, short.scaled
    (12, 125, True)

    Raises:
        BadArgument: for losses that are not [example, position], or places that are not two in order.
    """
    loss_nats = _losses("score learning in context", loss_nats, ("example", "position"))
    if not 0 <= early < late or around < 0:
        raise BadArgument(
            f"cannot score learning in context from token {early} to token {late}, {around} around each: give two "
            "tokens in order, counted from 0."
        )
    length = loss_nats.shape[1]
    scaled = length <= late
    if scaled:
        full = max(CONTEXT, late + 1)
        early, late = early * length // full, late * length // full
    if early - around < 0 or late + around >= length or early + around >= late - around:
        raise BadArgument(
            f"cannot score learning in context over {length} tokens: {around} around tokens {early} and {late} leave "
            "the context or overlap. Give longer examples or less around."
        )
    at_early, at_late = (loss_nats[:, at - around : at + around + 1].mean(1) for at in (early, late))
    return ICLScore(at_late - at_early, early, late, scaled)


def loss_by_position(loss_nats: Array, *, per_doubling: int = PER_DOUBLING) -> tuple[Array, Array]:
    """Token indices [bin] and mean losses [..., bin] of [..., position], in bins even in log token index.

    Position 0 is token index 1. A bin's index is the geometric mean of those in it; empty bins are left out.

    >>> [each.round(2).tolist() for each in loss_by_position(np.array([5.0, 4.0, 3.0, 3.0]), per_doubling=1)]
    [[1.0, 2.45, 4.0], [5.0, 3.5, 3.0]]

    Raises:
        BadArgument: for no positions, or less than one bin per doubling.
    """
    if loss_nats.ndim < 1 or not loss_nats.shape[-1] or per_doubling < 1:
        raise BadArgument(
            f"cannot average losses of shape {loss_nats.shape} in {per_doubling} bins for each doubling of the token "
            "index: give one loss for each position, and 1 bin or more."
        )
    log_index = np.log(np.arange(1, loss_nats.shape[-1] + 1))
    # Just below a power of two rounding would put it into either bin.
    place = np.floor(log_index / np.log(2) * per_doubling + 1e-9).astype(int)
    member = (place[:, None] == np.unique(place)).astype(np.float64)
    share = member / member.sum(0)
    return np.exp(log_index @ share), np.asarray(loss_nats, np.float64) @ share


def slope_by_index(loss_nats: Array, *, per_doubling: int = PER_DOUBLING) -> tuple[Array, Array]:
    """Token indices [place] and d loss / d log(token index) [snapshot, place], in nats per factor e.

    Of mean losses [snapshot, position]: smoothed by the bins of `loss_by_position`, then from each to the next; a
    place is the geometric mean of two bins. Below 0 where a longer context helps.

    Raises:
        BadArgument: for other shapes, or a context of fewer than two bins.
    """
    loss_nats = _losses("differentiate by token index", loss_nats, ("snapshot", "position"))
    index, loss = loss_by_position(loss_nats, per_doubling=per_doubling)
    if len(index) < 2:
        raise BadArgument("cannot differentiate by token index over one token: give longer examples.")
    log_index = np.log(index)
    return np.exp((log_index[1:] + log_index[:-1]) / 2), np.diff(loss, axis=1) / np.diff(log_index)


def slope_by_tokens(tokens: Array, loss_nats: Array, *, over: int = 3) -> tuple[Array, Array]:
    """Training tokens [place] and d loss / d log(training tokens) [place] of one model, in nats per factor e.

    The slope of a straight line of least squares through every `over` neighbouring snapshots; a place is their
    geometric mean. A snapshot before any training (0 tokens) is left out.

    >>> tokens = np.array([0.0, 1.0, 10.0, 100.0, 1000.0])
    >>> slope_by_tokens(tokens, np.array([9.0, 5.0, 4.0, 3.0, 1.0]), over=2)[1].round(3).tolist()
    [-0.434, -0.434, -0.869]

    Raises:
        BadArgument: for other shapes, tokens that do not ascend, or fewer snapshots than a line goes through.
    """
    tokens, loss_nats = np.asarray(tokens, np.float64), np.asarray(loss_nats, np.float64)
    kept = tokens > 0
    if tokens.ndim != 1 or tokens.shape != loss_nats.shape or (tokens < 0).any() or not (np.diff(tokens) > 0).all():
        raise BadArgument(
            f"cannot differentiate losses of shape {loss_nats.shape} by training tokens of shape {tokens.shape}: "
            "give one loss for each count of tokens, ascending."
        )
    if not 2 <= over <= kept.sum():
        raise BadArgument(
            f"cannot draw lines through {over} snapshots at a time: {int(kept.sum())} were trained; give over=2 or "
            "more, and as many snapshots."
        )
    x = np.lib.stride_tricks.sliding_window_view(np.log(tokens[kept]), over)
    y = np.lib.stride_tricks.sliding_window_view(loss_nats[kept], over)
    about = x - x.mean(1, keepdims=True)
    return np.exp(x.mean(1)), (about * y).sum(1) / (about**2).sum(1)


def constancy(scores: Array, *, margin: float, level: float = 0.95, seed: int = 0) -> Constancy:
    """Whether scores [example, snapshot], all after the change, stay the same within `margin` (their unit).

    Raises:
        BadArgument: for other shapes, fewer than two snapshots, or a margin that is not positive.
    """
    scores = _losses("judge whether a score stays the same", scores, ("example", "snapshot"))
    if scores.shape[1] < 2:
        raise BadArgument("cannot judge whether a score stays the same from one snapshot: give two or more.")
    away = scores - scores.mean(1, keepdims=True)
    each = changes(away, margin=margin, level=level, seed=seed)
    if any(math.isnan(one.low) for one in each):
        return Constancy(Outcome.UNDETERMINED, each, "a snapshot has too few examples, or values that hardly vary")
    strict = changes(away, margin=margin, level=1 - (1 - level) / len(each), seed=seed)
    if all(one.outcome is Outcome.EQUIVALENT for one in each):
        return Constancy(Outcome.EQUIVALENT, each)
    return Constancy(Outcome.DIFFERENT if any(one.beyond for one in strict) else Outcome.UNDETERMINED, each)


def inverts(before: Array, after: Array) -> Inversion:
    """Whether the order of models by a slope [model] before a change is the opposite of that after it.

    Slopes are those of `slope_by_tokens`, say; of one run each they have no interval: give one pair of lists for each
    training seed, and count. A tie swaps with nothing.

    >>> inverts(np.array([-3.0, -2.0, -1.0]), np.array([-0.1, -0.2, -0.3])).inverts
    True

    Raises:
        BadArgument: for unequally many models, or fewer than two.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if before.ndim != 1 or before.shape != after.shape or len(before) < 2:
        raise BadArgument(
            f"cannot compare the order of models by slopes of shapes {before.shape} and {after.shape}: give one "
            "slope for each of two or more models, before and after."
        )
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return Inversion((), (), 0, 0, "a slope is undefined")
    one, other = np.triu_indices(len(before), 1)
    swapped = int(((before[one] - before[other]) * (after[one] - after[other]) < 0).sum())
    first, then = (tuple(np.argsort(each, kind="stable").tolist()) for each in (before, after))
    return Inversion(first, then, swapped, len(one))


def _losses(doing: str, values: Array, axes: tuple[str, str]) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise BadArgument(f"cannot {doing}: expected values [{axes[0]}, {axes[1]}], got shape {values.shape}.")
    return values
