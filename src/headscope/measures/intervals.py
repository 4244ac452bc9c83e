"""Intervals over prompts: how far a mean over this many prompts can be trusted.

In: one value per prompt, for one or many cells. Out: mean, lower and upper bound of each cell. Prompts are
the unit, since the positions of one prompt are not independent. The interval is the studentised bootstrap
(Efron & Tibshirani 1993, section 12.5). Percentile intervals are too short over few prompts (about 88% instead
of 95% over 10), and bias-corrected ones (BCa) too short for skewed values at 50 still: 91% of them cover a
lognormal mean, 94% of these do (`pytest tests/test_measures.py -s -k cover` prints both). Over 5 to 10 prompts
a resample may hold almost one prompt alone, and its studentised mean is then as good as unbounded: its variance
counts as at least a tenth of the sample's, which costs about one point of coverage there and none from 20
prompts on. Below 5 prompts there is no interval. All cells are resampled with the same prompts, which keeps
their differences honest. Not done here: many heads at once (measures.simultaneous).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument

Array = NDArray[np.float64]
RESAMPLES = 4000
MIN_UNITS = 5
# A small resample may hold nearly one value only, and its studentised mean is then near infinity: its variance
# is taken to be at least this share of the sample's.
_VARIANCE_FLOOR = 0.1


@dataclass(frozen=True)
class Estimate:
    """Mean and bounds per cell; bounds are NaN for fewer than five prompts."""

    mean: Array
    low: Array
    high: Array
    n: int


def interval(
    values: Array,
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
    within: tuple[float, float] | None = None,
) -> Estimate:
    """Mean over prompts with a bootstrap interval of coverage `level`.

    `values` is [prompt] or [prompt, cell, ...]. A cell with a NaN is NaN throughout: what is undefined
    for a prompt has no mean, and leaving prompts out is the caller's decision. `within` is the range of a
    bounded score: bounds are cut off at its ends.

    >>> interval(np.ones(10)).low
    array(1.)

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
    mean = cells.mean(0)
    if n < MIN_UNITS:
        bounds = np.full((2, cells.shape[1]), np.nan)
    else:
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
        bounds = _studentised(cells, counts, level)
        constant = cells.min(0) == cells.max(0)
        bounds = np.where(constant, mean, bounds)
    if within is not None:
        bounds = bounds.clip(*within)
    return Estimate(mean.reshape(shape), bounds[0].reshape(shape), bounds[1].reshape(shape), n)


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
