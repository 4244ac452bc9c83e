"""The k largest of many means over a given list of units, without measuring every arm on every unit.

In: a function that measures some arms (heads) on some units (prompts), whose order is random. Out: which k arms have
the largest means *over exactly these units*, the set that the full matrix gives, with a probability of at least
`LEVEL`; and the mean of each arm on the units that it was measured on, with bounds of its mean over all of them.
After each look at more units, arms whose upper bound is below the k-th largest lower bound are out, arms whose lower
bound is above all but k - 1 upper bounds are in, and neither is measured further ("racing": Maron & Moore 1994).
Units are drawn without replacement from a finite list, so errors are smaller by sqrt(1 - n / N), and the last look is
exact. The chance of an error is divided equally among the looks before it.

- *Who is out* is decided by a band for all arms in play at once: the largest t over arms where the deviations of
  every unit are multiplied by a normal number that all arms share, each t studentised anew (Gaussian multipliers:
  Chernozhukov, Chetverikov & Kato 2013), so that arms that vary together are not paid for twice, as by Bonferroni. An
  error of the set needs an arm of the top to be underestimated or one below to be overestimated, so each is bounded
  on that side alone, the top being the one that is seen. Bounds are moved out for the skewness that is seen (Hall
  1983). A band of this kind covers skewed means too seldom to be shown, but a wrong set takes two arms of nearly the
  same mean that err against each other. `pytest tests/test_elimination.py -s -k worlds` prints how often the set is
  right in worlds made to break it.
- *Bounds that are shown* are those of measures.simultaneous, two or three times wider, which hold for skewed units.

Arms whose values are too alike (measures.rates) stay in play until the end. No bounds know of a rare unit that was
not seen: where half of the arms are lognormal, the others nearly constant and all means nearly the same, the set is
right in nine of ten orders, and an arm that matters on one unit in ten, and there alone, can be lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument
from headscope.measures.rates import seen_to_vary
from headscope.measures.simultaneous import MIN_UNITS_TOGETHER, RESAMPLES, simultaneous

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Statuses = NDArray[np.object_]
# Effects [unit, arm] of the arms with these indices on the units of a slice.
Effects = Callable[[Indices, slice], Array]

TOP, OUT, TIED = "top", "out", "tied"
LEVEL = 0.95


@dataclass(frozen=True)
class Elimination:
    """Where every arm ended; all arrays are [arm].

    `status` is "top", "out", or "tied": over all units as large as the k-th, and more such arms than places.
    `mean` is over the `units` that an arm was measured on; `low` and `high` bound its mean over all units, for all
    arms and looks together; NaN where `reason` says why.
    """

    mean: Array
    low: Array
    high: Array
    units: Indices
    status: Statuses
    reason: Statuses


def looks_before(units: int) -> tuple[int, ...]:
    """The looks before the last: 10, 15, 20, 30, 40, 60 ... units.

    >>> looks_before(96)
    (10, 15, 20, 30, 40, 60, 80)
    """
    ladder = (MIN_UNITS_TOGETHER * part * 2**step // 2 for step in range(units.bit_length()) for part in (2, 3))
    return tuple(look for look in ladder if look < units)


def check_top(k: int, arms: int) -> None:
    """Raise BadArgument unless so many arms can be the top."""
    if not 1 <= k <= arms:
        raise BadArgument(f"cannot find the top {k} of {arms}: ask for 1 to {arms}.")


def eliminate(
    effects: Effects,
    *,
    arms: int,
    units: int,
    k: int,
    looks: Sequence[int] | None = None,
    seed: int = 0,
    bounded: bool = True,
) -> Elimination:
    """The `k` arms of largest mean over `units` units, which must come in random order.

    Without `bounded`, `low` and `high` of arms that were not measured on all units are NaN, which saves time.

    >>> matrix = np.arange(3.0) + np.random.default_rng(0).normal(0, 0.1, (40, 3))
    >>> found = eliminate(lambda arms, rows: matrix[rows][:, arms], arms=3, units=40, k=1)
    >>> found.status.tolist(), found.units.tolist()
    (['out', 'out', 'top'], [10, 10, 10])

    Raises:
        BadArgument: for fewer arms than k, or no units.
    """
    check_top(k, arms)
    if units < 1:
        raise BadArgument(f"cannot find the top {k} over no prompts: give some, better 50.")
    early = [look for look in (looks_before(units) if looks is None else looks) if look < units]
    tail = (1 - LEVEL) / max(1, len(early))
    mean, low, high = np.full((3, arms), np.nan)
    used, seen = np.zeros(arms, np.int64), np.full((units, arms), np.nan)
    status, reason = np.full(arms, "", object), np.full(arms, "", object)
    before = 0
    for n in (*early, units):
        playing = np.flatnonzero(status == "")
        if not len(playing):
            break
        seen[before:n, playing] = effects(playing, slice(before, n))
        before, values, places = n, seen[:n, playing], k - int((status == TOP).sum())
        mean[playing] = low[playing] = high[playing] = values.mean(0)
        used[playing] = n
        if n == units:
            status[playing] = _exact(mean[playing], places)
            break
        status[playing] = _sure(values, places, units, tail, seed)
        if not bounded:
            low[playing] = high[playing] = np.nan
            continue
        bounds, left = simultaneous(values, level=1 - tail, seed=seed), np.sqrt(1 - n / units)
        low[playing] += (bounds.low - bounds.mean) * left
        high[playing] += (bounds.high - bounds.mean) * left
        reason[playing] = bounds.reason
    reason[used == units] = ""
    return Elimination(mean, low, high, used, status, reason)


def _sure(values: Array, places: int, units: int, tail: float, seed: int) -> Statuses:
    """What is sure of the arms of [unit, arm], of which `places` are to be found; "" where nothing is."""
    arms = values.shape[1]
    status, mean = np.full(arms, "", object), values.mean(0)
    side = np.ones(arms)
    side[np.argsort(-mean, kind="stable")[:places]] = -1
    below, above = _margins(values, side, units, tail, seed)
    lowest, highest = np.sort(mean - below)[::-1], np.sort(mean + above)[::-1]
    status[mean + above < lowest[places - 1]] = OUT
    status[mean - below > (highest[places] if places < arms else -np.inf)] = TOP
    if places == arms:
        status[:] = TOP
    return status


def _margins(values: Array, side: Array, units: int, tail: float, seed: int) -> tuple[Array, Array]:
    """How far the mean over all units may lie below and above that of [unit, arm]; infinite where they are too alike.

    `side` [arm] is 1 for arms that must not be overestimated, -1 for those that must not be underestimated.
    """
    n, arms = values.shape
    below, above, varies = np.full(arms, np.inf), np.full(arms, np.inf), seen_to_vary(values)
    if varies.any():
        centred = values[:, varies] - values[:, varies].mean(0)
        spread = centred.std(0)
        scaled = centred / spread
        errors = spread / np.sqrt(n - 1) * np.sqrt(1 - n / units)
        reach = _largest_t(scaled * side[varies], tail, seed)
        # Of t, to second order; the factor makes up for the skewness of few units being too small.
        skew = (scaled**3).mean(0) * np.sqrt(n * (n - 1)) / (n - 2) * (2 * reach**2 + 1) / (6 * np.sqrt(n))
        below[varies], above[varies] = (errors * (reach + (way * skew).clip(min=0)) for way in (-1, 1))
    return below, above


def _largest_t(scaled: Array, tail: float, seed: int) -> float:
    """What the largest t of all cells [unit, cell], of mean 0 and variance 1, exceeds with a chance of `tail`."""
    n = len(scaled)
    drawn = np.random.default_rng([seed, n]).standard_normal((RESAMPLES, n))
    means = drawn @ scaled / n
    variances = (drawn**2 @ scaled**2 / n - means**2).clip(min=1e-9)
    largest = np.sort((means / np.sqrt(variances / (n - 1))).max(1))
    return float(largest[-max(1, int(np.floor(tail * (1 + RESAMPLES) + 1e-9)))])


def _exact(mean: Array, places: int) -> Statuses:
    """What arms are, once their means over all units are known."""
    last = np.sort(mean)[::-1][places - 1]
    at = TOP if (mean >= last).sum() == places else TIED
    return np.where(mean > last, TOP, np.where(mean == last, at, OUT)).astype(object)
