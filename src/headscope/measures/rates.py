"""Bounds of rates and of other bounded means that a bootstrap cannot see.

In: counts of successes, or values between two ends. Out: bounds. A bootstrap resamples what was seen: fifty right
answers of fifty have no spread, and yet the next may be wrong. Rates have Clopper and Pearson's exact bounds (1934);
paired differences of rates Newcombe's square-and-add bounds (1998, method 10), and McNemar's exact p value; a bounded
mean of which every value is the same the rule of three; and one of which nearly every value is the same Gaffke's
bounds (2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable"),
which are Clopper and Pearson's where the values are zeros and ones. That these hold for every distribution on the
range is a conjecture without a counterexample (Learned-Miller & Thomas 2020); `make coverage` and the tests try them.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

Array = NDArray[np.float64]
Bounds = tuple[float, float]
# So many values that differ from the commonest one show a bootstrap what there is to see.
ENOUGH_OTHERS = 5
TOO_ALIKE = f"fewer than {ENOUGH_OTHERS} values differ from the commonest one"
_SAME = 1e-12
# Imhof's integral, over the logarithm of its variable: from where, to how far beyond the slowest turn, how finely.
_FIRST, _LAST, _STEP = -24.0, 6.0, 0.02


def seen_to_vary(values: Array, within: Bounds | None = None) -> NDArray[np.bool_]:
    """Of which cells [unit, cell] a bootstrap sees enough: five values (of five units, four) but the commonest.

    A rate, all of whose values lie at the ends of the range, has exact bounds and needs no bootstrap.
    """
    n = len(values)
    near = _SAME * np.abs(values).max(0, initial=0.0)
    # Over half of ten or more values are the commonest where under five are not: it is the median then.
    some = np.partition(values, n // 2, axis=0)[n // 2][None] if n >= 2 * ENOUGH_OTHERS else values
    alike = np.stack([(np.abs(values - each) <= near).sum(0) for each in some])
    varies: NDArray[np.bool_] = n - alike.max(0) >= min(ENOUGH_OTHERS, n - 1)
    return varies if within is None else varies & ~np.isin(values, within).all(0)


def in_range(values: Array, within: Bounds | None) -> bool:
    """Whether there is a finite range, and all values lie in it."""
    if within is None or not np.isfinite(within).all():
        return False
    return bool(values.min() >= within[0] and values.max() <= within[1])


def bounds_unseen(values: Array, within: Bounds | None, level: float = 0.95) -> Bounds | None:
    """Bounds of a mean of [unit] that a bootstrap cannot see; None where values have no range, or are out of it.

    Clopper and Pearson's where every value is at an end of the range, the rule of three where all are the same,
    Gaffke's where nearly all are.
    """
    if within is None or not in_range(values, within):
        return None
    low, high = within
    if np.isin(values, within).all():
        rate = clopper_pearson(int((values == high).sum()), len(values), level)
        return low + (high - low) * rate[0], low + (high - low) * rate[1]
    if np.ptp(values) <= _SAME * np.abs(values).max():
        return rule_of_three(float(values[0]), len(values), within, level)
    return gaffke(values, within, (1 - level) / 2)


def gaffke(values: Array, within: Bounds, tail: float) -> Bounds:
    """Lower and upper bound of a bounded mean, from values [unit]; each errs with chance `tail`.

    >>> [round(bound, 4) for bound in gaffke(np.repeat([0.0, 1.0], [3, 17]), (0.0, 1.0), 0.025)]
    [0.6211, 0.9679]
    >>> [round(bound, 4) for bound in clopper_pearson(17, 20)]
    [0.6211, 0.9679]
    """
    low, high = within
    down, up = low, high
    if values.max() > low:
        down = float(brentq(lambda mean: chance_at_most(values, low, mean) - tail, low, values.max()))
    if values.min() < high:
        up = float(brentq(lambda mean: chance_at_most(values, high, mean) - 1 + tail, values.min(), high))
    return down, up


def chance_at_most(values: Array, end: float, mean: float) -> float:
    """Chance that the values [unit] and one more at an `end` of the range average at most `mean`, weighted at random.

    With the lower end it is the p value of "the mean is at most `mean`". Weights are gammas over their sum, so that
    it is the chance that a sum of gammas, each times its value minus `mean`, is not above 0: Imhof's integral (1961).
    """
    distinct, count = np.unique(np.append(values, end), return_counts=True)
    away = distinct - mean
    scale = np.abs(away).max(initial=0.0)
    seen = np.abs(away) > _SAME * scale
    away, count = away[seen, None] / max(scale, np.finfo(float).tiny), count[seen, None]
    if not (away < 0).any() or not (away > 0).any():
        return float(not (away > 0).any())
    log_u = np.arange(_FIRST, _LAST - np.log(np.abs(away).min()), _STEP)
    turned = away * np.exp(log_u)
    angle, log_size = (count * np.arctan(turned)).sum(0), (0.5 * count * np.log1p(turned**2)).sum(0)
    return float(np.clip(0.5 - (np.sin(angle) * np.exp(-log_size)).sum() * _STEP / np.pi, 0.0, 1.0))


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Bounds:
    """Exact bounds of a rate.

    >>> [round(bound, 3) for bound in clopper_pearson(50, 50)]
    [0.929, 1.0]
    """
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def wilson(successes: int, n: int, level: float = 0.95) -> Bounds:
    """Wilson's score bounds of a rate (1927), of which Newcombe's are made."""
    z, rate = float(stats.norm.ppf((1 + level) / 2)), successes / n
    centre, reach = rate + z**2 / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def newcombe(first: Array, second: Array, level: float = 0.95) -> Bounds:
    """Bounds of the difference of two rates, `first` minus `second`, both [unit] of zeros and ones, paired.

    >>> [round(bound, 3) for bound in newcombe(np.ones(20), np.zeros(20))]
    [0.772, 1.0]
    """
    n, rates = len(first), (float(first.mean()), float(second.mean()))
    (low_1, high_1), (low_2, high_2) = (wilson(round(float(each.sum())), n, level) for each in (first, second))
    phi = _phi(first, second)
    down, up = rates[0] - low_1, high_2 - rates[1]
    difference = rates[0] - rates[1]
    low = difference - math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))
    up, down = high_1 - rates[0], rates[1] - low_2
    high = difference + math.sqrt(max(0.0, up**2 - 2 * phi * up * down + down**2))
    return max(-1.0, low), min(1.0, high)


def _phi(first: Array, second: Array) -> float:
    """Correlation of two columns of zeros and ones, with Newcombe's continuity correction where it is positive."""
    n = len(first)
    both, one, other = (
        float((first * second).sum()),
        float((first * (1 - second)).sum()),
        float(((1 - first) * second).sum()),
    )
    none = n - both - one - other
    margins = (both + one) * (other + none) * (both + other) * (one + none)
    if margins == 0:
        return 0.0
    product = both * none - one * other
    product = max(product - n / 2, 0.0) if product > 0 else product
    return product / math.sqrt(margins)


def mcnemar_p(difference: Array) -> float:
    """Exact one-sided p value of "the first rate is at most the second", from paired differences -1, 0, 1 [unit].

    >>> mcnemar_p(np.array([1.0, 1.0, 1.0, 0.0, 0.0]))
    0.125
    """
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binom.sf(more - 1, more + less, 0.5)) if more + less else 1.0


def rule_of_three(value: float, n: int, within: Bounds, level: float = 0.95) -> Bounds:
    """Bounds of a bounded mean where all `n` values are the same: a share of 3 / n (at 95%) may be elsewhere.

    >>> [round(bound, 2) for bound in rule_of_three(0.5, 30, (0.0, 1.0))]
    [0.45, 0.55]
    """
    share = min(1.0, -math.log(1 - level) / n)
    return value - share * (value - within[0]), value + share * (within[1] - value)
