"""Midpoints of changes over training seeds: when, with an interval, which is earlier, what comes first.

In: change points (measures.change_point), one per training seed. Out: estimates over seeds. A midpoint is a place in
log step, so means are geometric and differences are ratios of steps. Five to ten log midpoints are too few to
resample and about normal: intervals are Student's and Welch's. A seed without a change has no midpoint, and to leave
it out would make every change look sure: a test by ranks (exact) counts it as later than all others, and a mean over
such seeds is undefined, with the reason. Fewer than five seeds say nothing. Not done here: training.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from scipy import stats

from headscope.errors import BadArgument
from headscope.measures.change_point import ChangePoint
from headscope.measures.intervals import MIN_UNITS, Array

LEVEL: Final = 0.95
# So many ways of dealing seeds to two sides are all tried; of more, so many are drawn.
_DEALT: Final = 20_000


@dataclass(frozen=True)
class OverSeeds:
    """The geometric mean of the midpoints of `seeds` runs, of which `shown` show a change, with bounds, in steps."""

    midpoint: float
    low: float
    high: float
    shown: int
    seeds: int
    reason: str = ""


@dataclass(frozen=True)
class Earlier:
    """Whether a change comes earlier in `first` than in `second`.

    `ratio` is the geometric mean midpoint of `first` over that of `second`, with bounds; NaN where a seed shows no
    change. `p` belongs to "not earlier", by ranks, with seeds without a change as the latest. `shown` counts seeds
    that show a change on either side, of `seeds`.
    """

    ratio: float
    low: float
    high: float
    p: float
    shown: tuple[int, int]
    seeds: tuple[int, int]
    level: float = LEVEL
    reason: str = ""

    @property
    def earlier(self) -> bool:
        """By the interval of the ratio; by the ranks where a seed shows no change."""
        return self.high < 1 if math.isfinite(self.high) else self.p <= 1 - self.level


@dataclass(frozen=True)
class Order:
    """Events by their mean midpoint, those without one last; `pairs` compares each with each that follows.

    The intervals of all pairs hold together (Bonferroni).
    """

    names: tuple[str, ...]
    events: Mapping[str, OverSeeds]
    pairs: Mapping[tuple[str, str], Earlier]

    @property
    def settled(self) -> tuple[tuple[str, str], ...]:
        """The pairs of which the first surely comes earlier."""
        return tuple(names for names, pair in self.pairs.items() if pair.earlier)


def log_midpoints(curves: Sequence[ChangePoint]) -> Array:
    """Natural logarithms of the midpoints, in steps: infinite where no change is shown, NaN where undefined.

    >>> shown, none, undefined = ChangePoint(True, midpoint=1.0), ChangePoint(False, p_none=0.4), ChangePoint(False)
    >>> log_midpoints([shown, none, undefined])
    array([ 0., inf, nan])
    """
    return np.array([math.log(c.midpoint) if c.shown else math.inf if c.defined else math.nan for c in curves])


def over_seeds(curves: Sequence[ChangePoint], *, level: float = LEVEL) -> OverSeeds:
    """The midpoint over training seeds, with Student's interval of the mean of its logarithm."""
    logs = log_midpoints(curves)
    shown, reason = int(np.isfinite(logs).sum()), _lacking(logs)
    if reason or shown < len(logs):
        reason = reason or f"{len(logs) - shown} of {len(logs)} seeds show no change"
        return OverSeeds(math.nan, math.nan, math.nan, shown, len(logs), reason)
    if np.ptp(logs) == 0:
        reason = "all midpoints are the same"
        return OverSeeds(float(np.exp(logs[0])), math.nan, math.nan, shown, len(logs), reason)
    low, high = stats.ttest_1samp(logs, 0.0).confidence_interval(level)
    return OverSeeds(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)), shown, len(logs))


def earlier(
    first: Sequence[ChangePoint],
    second: Sequence[ChangePoint],
    *,
    paired: bool = False,
    level: float = LEVEL,
    seed: int = 0,
) -> Earlier:
    """Compare the midpoints of two sets of training runs, or of two curves of the same runs (`paired`, in order).

    Raises:
        BadArgument: for unequally many runs that are to be paired.
    """
    a, b = log_midpoints(first), log_midpoints(second)
    if paired and len(a) != len(b):
        raise BadArgument(f"cannot pair {len(a)} training runs with {len(b)}: give the same runs in the same order.")
    counts = (int(np.isfinite(a).sum()), int(np.isfinite(b).sum())), (len(a), len(b))
    reason = _lacking(a) or _lacking(b)
    if reason:
        return Earlier(math.nan, math.nan, math.nan, math.nan, *counts, level, reason)
    p = _sign_p(a, b) if paired else _rank_p(a, b, seed)
    if counts[0] != counts[1]:
        none = tuple(n - shown for shown, n in zip(*counts, strict=True))
        reason = f"{none[0]} of {len(a)} and {none[1]} of {len(b)} seeds show no change"
        return Earlier(math.nan, math.nan, math.nan, p, *counts, level, reason)
    ratio = float(np.exp(a.mean() - b.mean()))
    spread = np.ptp(a - b) if paired else max(np.ptp(a), np.ptp(b))
    if spread == 0:
        return Earlier(ratio, math.nan, math.nan, p, *counts, level, "the seeds do not differ")
    test = stats.ttest_1samp(a - b, 0.0) if paired else stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(level)
    return Earlier(ratio, float(np.exp(low)), float(np.exp(high)), p, *counts, level)


def order_of_events(events: Mapping[str, Sequence[ChangePoint]], *, level: float = LEVEL) -> Order:
    """Which of several curves of the same training runs changes first, and which pairs are surely in that order.

    Every event has one curve per run, runs in the same order; pairs are compared run by run.

    Raises:
        BadArgument: for fewer than two events, or unequally many runs.
    """
    if len(events) < 2 or len({len(curves) for curves in events.values()}) > 1:
        told = ", ".join(f"{name}: {len(curves)}" for name, curves in events.items())
        raise BadArgument(f"cannot order events ({told}): give two or more, each with a curve of every run.")
    each = {name: over_seeds(curves, level=level) for name, curves in events.items()}
    names = tuple(sorted(events, key=lambda name: (math.isnan(each[name].midpoint), each[name].midpoint)))
    pairs = list(combinations(names, 2))
    joint = 1 - (1 - level) / len(pairs)
    compared = {pair: earlier(events[pair[0]], events[pair[1]], paired=True, level=joint) for pair in pairs}
    return Order(names, each, compared)


def _lacking(logs: Array) -> str:
    if np.isnan(logs).any():
        return f"{int(np.isnan(logs).sum())} of {len(logs)} curves are undefined"
    return f"{len(logs)} training seeds, and {MIN_UNITS} are needed" if len(logs) < MIN_UNITS else ""


def _rank_p(first: Array, second: Array, seed: int) -> float:
    """Chance that seeds dealt at random give `first` ranks as early as these; ties share their ranks."""
    ranks, n = stats.rankdata(np.concatenate((first, second))), len(first)
    if math.comb(len(ranks), n) <= _DEALT:
        dealt = ranks[np.array(list(combinations(range(len(ranks)), n)))].sum(1)
        return float((dealt <= ranks[:n].sum()).mean())
    dealt = np.random.default_rng(seed).permuted(np.tile(ranks, (_DEALT, 1)), axis=1)[:, :n].sum(1)
    return float((1 + (dealt <= ranks[:n].sum()).sum()) / (1 + _DEALT))


def _sign_p(first: Array, second: Array) -> float:
    """Chance of so many runs or more with `first` earlier, were either as likely; runs without an order are none."""
    before, after = int((first < second).sum()), int((first > second).sum())
    return float(stats.binom.sf(before - 1, before + after, 0.5)) if before + after else 1.0
