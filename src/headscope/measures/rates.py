"""Bounds of rates and of other bounded means that a bootstrap cannot see: exact, or guaranteed.

In: counts of successes, or values between two ends. Out: bounds. A bootstrap resamples what was seen: fifty right
answers of fifty have no spread, and yet the next may be wrong. Rates have Clopper and Pearson's exact bounds (1934);
paired differences of rates Newcombe's square-and-add bounds (1998, method 10), and McNemar's exact p value; a bounded
mean of which every value is the same the rule of three; and one of which nearly every value is the same the bounds of
a bet against every mean (Waudby-Smith and Ramdas 2024, hedged capital), which hold for any distribution on the range.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Bounds = tuple[float, float]
# So many values that differ from the commonest one show a bootstrap what there is to see.
ENOUGH_OTHERS = 5
TOO_ALIKE = f"fewer than {ENOUGH_OTHERS} values differ from the commonest one"
_GRID = 1001
_SAME = 1e-12


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


def bounds_unseen(values: Array, within: Bounds | None, level: float = 0.95) -> Bounds | None:
    """Bounds of a mean of [unit] that a bootstrap cannot see; None where values have no range, or are out of it.

    Clopper and Pearson's where every value is at an end of the range, the rule of three where all are the same, a
    bet's where nearly all are.
    """
    if within is None or not np.isfinite(within).all() or values.min() < within[0] or values.max() > within[1]:
        return None
    low, high = within
    if np.isin(values, within).all():
        rate = clopper_pearson(int((values == high).sum()), len(values), level)
        return low + (high - low) * rate[0], low + (high - low) * rate[1]
    if np.ptp(values) <= _SAME * np.abs(values).max():
        return rule_of_three(float(values[0]), len(values), within, level)
    return betting(values, within, level)


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


def betting(values: Array, within: Bounds, level: float = 0.95, seed: int = 0) -> Bounds:
    """Bounds of a bounded mean, from values [unit], that hold for every distribution on the range.

    A mean is ruled out once a gambler who bets against it, without seeing the next value, has multiplied the stake by
    1 / (1 - level). The values are taken in a random order.
    """
    low, high = within
    scaled = (np.random.default_rng(seed).permutation(values) - low) / (high - low)
    n, alpha = len(scaled), 1 - level
    counts = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(scaled)) / (counts + 1)
    variance = (0.25 + np.cumsum((scaled - mean) ** 2)) / (counts + 1)
    before = np.concatenate(([0.25], variance[:-1]))  # a bet knows only what came before it
    bet = np.sqrt(2 * math.log(2 / alpha) / (n * before))
    grid = np.linspace(0, 1, _GRID)[:, None]
    with np.errstate(divide="ignore"):
        up, down = np.minimum(bet, 0.5 / grid), np.minimum(bet, 0.5 / (1 - grid))
        gains = [np.log1p(sign * each * (scaled - grid)).cumsum(1).max(1) for sign, each in ((1, up), (-1, down))]
    kept = grid[np.maximum(*gains) + math.log(0.5) < math.log(1 / alpha), 0]
    step = 1 / (_GRID - 1)
    return low + (high - low) * max(0.0, kept.min() - step), low + (high - low) * min(1.0, kept.max() + step)
