"""Bounds and p values that hold for all heads at once: control of the maximum over cells.

In: one paired difference per prompt for each of many cells (score minus matched null, loss with a head ablated
minus clean loss). Out: for each cell a p value and bounds that are *jointly* right: the chance that a single
one of all true cells is named, or that a single bound misses its mean, is at most 1 - `level`. Prompts are the
unit. Source: the studentised bootstrap of the maximum of t statistics over cells, with step-down p values
(Westfall & Young 1993; Romano & Wolf 2005). All cells share each resample, so that what heads have in common
is not paid for twice.

Why not sign flips of prompts: they are exact for differences that are symmetric about the margin and break
for others. With 20 prompts of left-skewed differences and 500 cells without any effect they find one in all of
40 families, the bootstrap in one. Its price is reach where many heads are looked at on few prompts: 500 normal
cells on 20 prompts need a t of 5.2 where sign flips need 4.6, left-skewed ones 11. With 20, 50 and 100 prompts
and 8, 64 and 500 cells of normal, skewed, bounded and tied differences the rate holds, and is far below what is
stated where cells outnumber prompts. `pytest tests/test_simultaneous.py -s -k rates` prints all of these.

What no resampling can know is a rare prompt that was not seen. Cells that are rates, or of which nearly all values
are the same (measures.rates), have bounds of their own: exact ones for rates, Gaffke's for other bounded scores, each
at Bonferroni's level, with Holm's p values. Where there are cells of both kinds, each kind has half of the error.
Alike values without a range have no bounds.

Not done here: false discovery rates (this is the stricter promise, that nothing at all is named in vain), one cell
alone (measures.intervals), verdicts (measures.equivalence).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument
from headscope.measures.rates import TOO_ALIKE, Bounds, chance_at_most, gaffke, in_range, seen_to_vary

Array = NDArray[np.float64]
# With fewer, skewed differences break the promise: 1 in 8 families of 64 cells at 8 prompts, 2 in 5 at 5.
MIN_UNITS_TOGETHER = 10
# One less than a round number: with it, p = (1 + count) / (1 + resamples) reaches .05 and .025 exactly.
RESAMPLES = 1999
# A resample of few prompts may hold nearly one value only, whose t is near infinity: its variance counts as
# at least this share of the sample's. A tenth, as for one cell, lets skewed maxima through (17% over 20 prompts).
_VARIANCE_FLOOR = 0.02
_CELLS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Simultaneous:
    """What holds for all cells at once; every array has the shape of the cells, NaN where `reason` says why.

    `at_least` and `at_most` are one-sided bounds of the mean, each right for all cells together; `low` and
    `high` are two-sided. `p` is the adjusted, one-sided p value of "the mean is at most the margin"; it is
    step-down, and so at most the share of resamples whose maximum reaches this cell: where `at_least` exceeds
    the margin, `p` is at most 1 - level. `p_alone` is the same for a cell that nobody picked. `cells` counts
    those that take part, `n` the prompts.
    """

    mean: Array
    at_least: Array
    at_most: Array
    low: Array
    high: Array
    p: Array
    p_alone: Array
    reason: NDArray[np.object_]
    n: int
    cells: int


def simultaneous(
    values: Array,
    *,
    margin: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    within: Bounds | None = None,
) -> Simultaneous:
    """Means of [prompt, cell, ...] with bounds and p values of family-wise error 1 - `level`.

    The p values test whether a mean exceeds `margin`. `within` is the range of a bounded score: bounds are
    never beyond its ends. Cells with a NaN take no part; below ten prompts nothing but the mean is defined.

    >>> found = simultaneous(np.array([[0.5, 0.1], [0.6, -0.1]] * 5))
    >>> (found.at_least > 0).tolist(), found.cells
    ([True, False], 2)

    Raises:
        BadArgument: for no prompts, a level outside (0, 1), or too few resamples for that level.
    """
    values = np.asarray(values, dtype=np.float64)
    _check(values, level, resamples)
    n, shape = len(values), values.shape[1:]
    cells = values.reshape(n, -1)
    bounds = np.full((7, cells.shape[1]), np.nan)
    bounds[0] = cells.mean(0)
    reason = np.full(cells.shape[1], "", dtype=object)
    defined = np.isfinite(bounds[0])
    reason[~defined] = "undefined for some prompts"
    if n < MIN_UNITS_TOGETHER:
        reason[defined] = f"{n} prompts, and bounds for all at once need {MIN_UNITS_TOGETHER}"
        defined = np.zeros_like(defined)
    resampled = defined & seen_to_vary(cells, within)
    unseen = defined & ~resampled
    # Each of two kinds of bounds may err with half the chance.
    shared = 2 if resampled.any() and unseen.any() and within is not None else 1
    own = 1 - (1 - level) / shared
    if resampled.any():
        bounds[1:, resampled] = _judged(cells[:, resampled], margin, own, seed, resamples)
    if unseen.any():
        bounds[1:, unseen] = _one_by_one(cells[:, unseen], margin, own, within)
        reason[unseen & np.isnan(bounds[1])] = TOO_ALIKE
    bounds[5] = np.minimum(1, shared * bounds[5])
    if within is not None:
        bounds[1:5] = bounds[1:5].clip(*within)
    mean, at_least, at_most, low, high, p, alone = (row.reshape(shape) for row in bounds)
    return Simultaneous(
        mean, at_least, at_most, low, high, p, alone, reason.reshape(shape), n=n, cells=int(defined.sum())
    )


def _check(values: Array, level: float, resamples: int) -> None:
    if values.ndim < 1 or len(values) == 0:
        raise BadArgument("cannot bound a maximum over no prompts: give at least 5, better 50.")
    if not 0 < level < 1:
        raise BadArgument(f"cannot compute bounds of level {level}: it lies between 0 and 1.")
    if _rank((1 - level) / 2, resamples) < 1:
        raise BadArgument(
            f"cannot compute bounds of level {level} from {resamples} resamples: the tails hold none. "
            f"Use at least {int(np.ceil(2 / (1 - level)))}."
        )


def _rank(tail: float, resamples: int) -> int:
    """How many of the largest maxima lie in the tail; (1 - .9) * 2000 is 200, whatever floats say."""
    return int(np.floor(tail * (1 + resamples) + 1e-9))


def _judged(cells: Array, margin: float, level: float, seed: int, resamples: int) -> Array:
    """[6, cell]: at_least, at_most, low, high, p, p_alone of cells that all vary."""
    mean = cells.mean(0)
    centred = cells - mean
    spread = centred.std(0)
    error = spread / np.sqrt(len(cells) - 1)
    order = np.argsort((margin - mean) / error, kind="stable")
    t = ((mean - margin) / error)[order]
    largest, smallest = np.empty(resamples), np.empty(resamples)
    joint, alone = np.zeros(len(t)), np.zeros(len(t))
    done = 0
    for drawn in _resampled_t((centred / spread)[:, order], seed, resamples):
        rows = slice(done, done + len(drawn))
        largest[rows], smallest[rows] = drawn.max(1), drawn.min(1)
        alone += (drawn >= t).sum(0)
        # Step-down: a cell competes with those that are not farther out than itself.
        remaining = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        joint += (remaining >= t).sum(0)
        done = rows.stop
    p = np.empty((2, len(t)))
    p[0, order] = np.maximum.accumulate((1 + joint) / (1 + resamples))
    p[1, order] = (1 + alone) / (1 + resamples)
    one, two = _rank(1 - level, resamples), _rank((1 - level) / 2, resamples)
    above, below = np.sort(largest)[::-1], np.sort(-smallest)[::-1]
    reach = np.array([[above[one - 1]], [-below[one - 1]], [above[two - 1]], [-below[two - 1]]])
    return np.concatenate([mean - reach * error, p])


def _one_by_one(cells: Array, margin: float, level: float, within: Bounds | None) -> Array:
    """[6, cell] as `_judged`, of cells that no resampling can judge: Bonferroni's bounds and Holm's p values."""
    many, found = cells.shape[1], np.full((6, cells.shape[1]), np.nan)
    tail = (1 - level) / many
    for cell, values in enumerate(cells.T):
        if within is not None and in_range(values, within):
            found[:4, cell] = *gaffke(values, within, tail), *gaffke(values, within, tail / 2)
            found[5, cell] = chance_at_most(values, within[0], margin) if margin >= within[0] else 0.0
    order = np.argsort(found[5], kind="stable")
    found[4, order] = np.maximum.accumulate(np.minimum(1, found[5][order] * (many - np.arange(many))))
    return found


def _resampled_t(scaled: Array, seed: int, resamples: int) -> Iterator[Array]:
    """Blocks of [resample, cell]: t of each resampled mean of cells with mean 0 and variance 1."""
    n, cells = scaled.shape
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // max(n, cells))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        means = counts @ scaled / n
        variances = counts @ scaled**2 / n - means**2
        t: Array = means / np.sqrt(np.maximum(variances, _VARIANCE_FLOOR) / (n - 1))
        yield t
