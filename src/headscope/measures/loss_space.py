"""Where training leads in the space of per-token losses, and which heads lead there.

In: losses of one fixed random token of each of N examples, in nats: a vector of N for every snapshot of every model.
Out: two principal components of all snapshots of all models, and each model's trajectory on them; the direction of a
change, and how far ablating a head moves losses along it (Olsson et al. 2022, "In-context Learning and Induction
Heads", "Per-Token Loss Analysis" and the before-and-after attribution). Also two of the paper's curiosities: how
peaked an attribution over heads is, and spikes of a loss over training. Not done here: running models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument
from headscope.measures.intervals import Array

# The median distance from the median of normal values is so much less than their standard deviation.
_NORMAL = 1.4826


@dataclass(frozen=True, eq=False)
class LossSpace:
    """Principal components of losses about their `mean` [example].

    `axes` [component, example] are of length 1, each turned so that its largest entry is positive; `shares`
    [component] are those of the variance over all snapshots (NaN, with the reason, where nothing varies);
    `trajectories` [snapshot, component] by model, in nats.
    """

    mean: Array
    axes: Array
    shares: Array
    trajectories: Mapping[str, Array]
    reason: str = ""

    def place(self, losses_nats: Array) -> Array:
        """Where other losses [..., example] of the same tokens lie, [..., component]."""
        return np.asarray((losses_nats - self.mean) @ self.axes.T)


@dataclass(frozen=True)
class Peakiness:
    """How unequal magnitudes over heads are: the share of the largest head, and Gini's coefficient (0: all equal)."""

    largest: float
    gini: float
    reason: str = ""


def loss_space(losses_nats: Mapping[str, Array], *, components: int = 2) -> LossSpace:
    """Principal components of the losses [snapshot, example] of one or several models on the same tokens.

    Every snapshot weighs the same, so that a model with more of them weighs more.

    >>> found = loss_space({"model": np.array([[4.0, 4.0, 1.0], [2.0, 3.0, 1.0], [0.0, 2.0, 1.0]])}, components=1)
    >>> found.axes.round(3).tolist(), found.shares.round(3).tolist()
    ([[0.894, 0.447, 0.0]], [1.0])
    >>> found.trajectories["model"].round(3).tolist()
    [[2.236], [0.0], [-2.236]]

    Raises:
        BadArgument: for other shapes, other numbers of examples, undefined losses, or too few snapshots or examples.
    """
    parts = {name: np.asarray(each, np.float64) for name, each in losses_nats.items()}
    shapes = {each.shape[1:] for each in parts.values() if each.ndim == 2}
    if len(shapes) != 1 or any(each.ndim != 2 for each in parts.values()):
        told = ", ".join(f"{name}: {each.shape}" for name, each in parts.items()) or "no model"
        raise BadArgument(
            f"cannot find components of losses ({told}): give [snapshot, example], of the same examples."
        )
    rows = np.concatenate(list(parts.values()))
    if not np.isfinite(rows).all():
        raise BadArgument(
            "cannot find components of losses that are undefined: leave those tokens out for all models."
        )
    if not 1 <= components <= min(len(rows) - 1, rows.shape[1]):
        raise BadArgument(
            f"cannot find {components} components of {len(rows)} snapshots of {rows.shape[1]} losses: give more "
            "snapshots than components, and as many losses."
        )
    mean = rows.mean(0)
    _, lengths, axes = np.linalg.svd(rows - mean, full_matrices=False)
    axes = axes[:components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    total = float((lengths**2).sum())
    varies = bool(np.ptp(rows, axis=0).any())
    shares = lengths[:components] ** 2 / total if varies else np.full(components, np.nan)
    trajectories = {name: (each - mean) @ axes.T for name, each in parts.items()}
    return LossSpace(mean, axes, shares, trajectories, "" if varies else "the losses do not vary")


def change_direction(before_nats: Array, after_nats: Array) -> tuple[Array, float]:
    """Unit vector [example] of the losses after a change minus those before it, and the length of that, in nats.

    NaN where nothing changed.

    Raises:
        BadArgument: for other shapes.
    """
    before, after = np.asarray(before_nats, np.float64), np.asarray(after_nats, np.float64)
    if before.ndim != 1 or before.shape != after.shape or not len(before):
        raise BadArgument(
            f"cannot tell the direction of a change from losses of shapes {before.shape} and {after.shape}: give one "
            "loss for each example, before and after."
        )
    length = float(np.linalg.norm(after - before))
    return (after - before) / (length if length > 0 else np.nan), length


def attribution(direction: Array, ablated_minus_clean_nats: Array) -> Array:
    """How far ablations move losses [..., example] along the change [example], [...], in nats.

    *Negative: the head moves losses the way the change did*, for without it they move back. Its ratio to the length
    of the change is the share that ablating it adds (or undoes, where negative).

    >>> direction, length = change_direction(np.array([3.0, 4.0, 2.0]), np.array([0.0, 0.0, 2.0]))
    >>> undone = attribution(direction, np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> undone.tolist(), (undone / length).tolist()
    ([-5.0, 0.0], [-1.0, 0.0])

    Raises:
        BadArgument: for other numbers of examples.
    """
    moved = np.asarray(ablated_minus_clean_nats, np.float64)
    if moved.ndim < 1 or moved.shape[-1:] != direction.shape:
        raise BadArgument(
            f"cannot attribute changes of shape {moved.shape} along a direction of {len(direction)} examples: give "
            "the same examples in the same order, last axis."
        )
    return np.asarray((moved * direction).sum(-1))


def peakiness(values: Array) -> Peakiness:
    """How peaked values [head] are, by magnitude: of n equal ones the largest has a share of 1 / n and Gini is 0.

    >>> peakiness(np.array([0.0, 0.0, 0.0, -2.0]))
    Peakiness(largest=1.0, gini=0.75, reason='')

    Raises:
        BadArgument: for no heads, or other shapes.
    """
    sizes = np.sort(np.abs(np.asarray(values, np.float64)))
    if sizes.ndim != 1 or not len(sizes):
        raise BadArgument(f"cannot tell how peaked values of shape {sizes.shape} are: give one for each head.")
    total = float(sizes.sum())
    if not np.isfinite(total) or total == 0:
        return Peakiness(np.nan, np.nan, "a value is undefined" if total else "all values are 0")
    n = len(sizes)
    gini = float(((2 * np.arange(1, n + 1) - n - 1) * sizes).sum() / (n * total))
    return Peakiness(float(sizes[-1] / total), gini)


def loss_spikes(loss_nats: Array, *, deviations: float = 4.0) -> NDArray[np.int64]:
    """Snapshots at which a loss [snapshot] rises by more than so many standard deviations of its differences.

    The deviation is 1.48 times the median distance from the median difference, which spikes themselves do not move.

    >>> loss_spikes(np.array([5.0, 4.5, 4.1, 3.6, 6.0, 3.4, 3.0])).tolist()
    [4]

    Raises:
        BadArgument: for other shapes, fewer than four snapshots, or undefined losses.
    """
    loss = np.asarray(loss_nats, np.float64)
    if loss.ndim != 1 or len(loss) < 4 or not np.isfinite(loss).all():
        raise BadArgument(
            f"cannot look for spikes in losses of shape {loss.shape}: give four or more snapshots, none undefined."
        )
    rises = np.diff(loss)
    middle = np.median(rises)
    deviation = _NORMAL * float(np.median(np.abs(rises - middle)))
    return 1 + np.flatnonzero((rises > 0) & (rises - middle > deviations * deviation))
