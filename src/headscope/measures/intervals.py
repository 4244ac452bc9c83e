"""Intervals over prompts: how far a mean over this many prompts can be trusted.

In: one value per prompt, for one or many cells. Out: mean, lower and upper bound of each cell, or why it has none.
Prompts are the unit, since the positions of one prompt are not independent. The interval fits the values:

    every value at an end of the range (a rate)    Clopper and Pearson's exact bounds
    the paired difference of two rates             Newcombe's square-and-add bounds
    under five values differ from the commonest    all the same: rule of three; else Gaffke's bounds; no range: none
    anything else                                  the studentised bootstrap (Efron & Tibshirani 1993, section 12.5)

A bootstrap resamples what was seen, and so knows nothing of a rare prompt that was not: fifty right answers of fifty
would be sure to be right. Where it applies, percentile intervals are too short over few prompts (about 88% instead of
95% over 10), and bias-corrected ones (BCa) too short for skewed values at 50 still: 91% of them cover a lognormal
mean, 94% of these do (`pytest tests/test_measures.py -s -k cover`; `make coverage` has every kind). Over 5 to 10
prompts a resample may hold almost one prompt alone, and its studentised mean is then as good as unbounded: its
variance counts as at least a tenth of the sample's, which costs about one point of coverage there and none from 20
prompts on. Below 5 prompts there is no interval. All cells are resampled with the same prompts, which keeps their
differences honest. Not done here: many heads at once (measures.simultaneous).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument
from headscope.measures.rates import TOO_ALIKE, Bounds, bounds_unseen, newcombe, seen_to_vary

Array = NDArray[np.float64]
RESAMPLES = 4000
MIN_UNITS = 5
# A small resample may hold nearly one value only, and its studentised mean is then near infinity: its variance
# is taken to be at least this share of the sample's.
_VARIANCE_FLOOR = 0.1


@dataclass(frozen=True)
class Estimate:
    """Mean and bounds per cell; where bounds are NaN, `reasons` says why, by the cell's place in flat order."""

    mean: Array
    low: Array
    high: Array
    n: int
    reasons: Mapping[int, str] = field(default_factory=dict)


def interval(
    values: Array,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    within: Bounds | None = None,
    minus: Array | None = None,
) -> Estimate:
    """Mean over prompts with an interval of coverage `level`; see the head of this module for its kind.

    `values` is [prompt] or [prompt, cell, ...]. A cell with a NaN is NaN throughout: what is undefined
    for a prompt has no mean, and leaving prompts out is the caller's decision. `within` is the range of a
    bounded score: bounds never leave it. `minus`, of the shape of `values`, says that these are differences and what
    was subtracted: differences of zeros and ones are those of rates.

    >>> interval(np.ones(10), within=(0.0, 1.0)).low.round(2)
    np.float64(0.69)
    >>> interval(np.ones(10)).reasons
    {0: 'fewer than 5 values differ from the commonest one'}

    Raises:
        BadArgument: for no values, or a level outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 1 or len(values) == 0:
        raise BadArgument("cannot compute an interval over no prompts: give at least 5, better 50.")
    if not 0 < level < 1:
        raise BadArgument(f"cannot compute an interval of level {level}: it lies between 0 and 1.")
    n, shape = len(values), values.shape[1:]
    cells = values.reshape(n, -1)
    mean, reasons = cells.mean(0), dict[int, str]()
    bounds = np.full((2, cells.shape[1]), np.nan)
    known: NDArray[np.bool_] = np.full(mean.shape, n >= MIN_UNITS) & np.isfinite(mean)
    reasons |= dict.fromkeys(np.flatnonzero(~known).tolist(), f"{n} values, and bounds need {MIN_UNITS}")
    reasons |= dict.fromkeys(np.flatnonzero(np.isnan(mean)).tolist(), "undefined for some prompts")
    taken = cells * np.nan if minus is None else np.asarray(minus, np.float64).reshape(n, -1)
    of_rates = known & _of_rates(cells, taken)
    resampled: NDArray[np.bool_] = known & ~of_rates & seen_to_vary(cells, within)
    if resampled.any():
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        bounds[:, resampled] = _studentised(cells[:, resampled], counts, level)
    for cell in np.flatnonzero(of_rates).tolist():
        bounds[:, cell] = newcombe(np.round(cells[:, cell] + taken[:, cell]), taken[:, cell], level)
    for cell in np.flatnonzero(known & ~of_rates & ~resampled).tolist():
        unseen = bounds_unseen(cells[:, cell], within, level)
        if unseen is None:
            reasons[cell] = TOO_ALIKE
        else:
            bounds[:, cell] = unseen
    if within is not None:
        bounds = bounds.clip(*within)
    return Estimate(mean.reshape(shape), bounds[0].reshape(shape), bounds[1].reshape(shape), n, reasons)


def _of_rates(cells: Array, minus: Array) -> NDArray[np.bool_]:
    """Which cells are the difference of two columns of zeros and ones."""
    plus = np.round(cells + minus, 9)
    binary = np.isin(plus, (0.0, 1.0)) & np.isin(minus, (0.0, 1.0))
    return np.asarray(binary.all(0), bool)


def _studentised(cells: Array, counts: NDArray[np.int64], level: float) -> Array:
    """[2, cell]: mean - t* s / sqrt(n), with t* from the resamples' own studentised means."""
    n = len(cells)
    # Centred first: the second moments below would otherwise lose digits to a large mean.
    centred = cells - cells.mean(0)
    means = counts @ centred / n
    variances = counts @ centred**2 / n - means**2
    error = centred.std(0, ddof=1) / np.sqrt(n)
    floor = _VARIANCE_FLOOR * centred.var(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = means / np.sqrt(np.maximum(variances, floor) / (n - 1))
    tail = (1 - level) / 2
    upper, lower = np.quantile(np.nan_to_num(t, nan=0.0), [1 - tail, tail], axis=0)
    bounds: Array = cells.mean(0) - np.stack([upper, lower]) * error
    return bounds
