"""Estimates that are no mean of units: statistics by resampling units, and differences of unpaired samples.

In: samples (measures.samples), and a function of their means over units: a change point, an exponent, kappa, a
share of variance, an area under a curve. Out: cells with an estimate and percentile bounds, from fitting again on
resampled units (Efron & Tibshirani 1993, chapter 13). Samples of the same units are resampled together, those of
different units apart. Unpaired differences (two sets of training seeds) have Welch's t interval, which needs no
pairing and holds for five values of each where they are about normal. Not done here: means (measures.samples).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from headscope.measures.intervals import MIN_UNITS, Array, Estimate
from headscope.measures.samples import Cells, Coordinates, Samples
from headscope.tables import Column, Quantity

RESAMPLES = 400
T = TypeVar("T", bound="Statistic")


class Means(NamedTuple):
    """What a statistic is computed from: the coordinates of cells along the axes it is over, and their means."""

    at: tuple[Coordinates, ...]
    value: Array

    @property
    def x(self) -> Array:
        """The coordinates of a single axis, as numbers."""
        return np.array([cell[0] for cell in self.at], np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistic(Cells):
    """`value` [cell] of a statistic and `draws` [resample, cell] of it on resampled units; `count` units behind it.

    `drawn_from` names the units and the seed: draws of the same are paired.
    """

    value: Array
    draws: Array
    count: int
    drawn_from: Any = None

    @classmethod
    def of(cls: type[T], quantity: Quantity, axes: Sequence[Column], fitted: Mapping[Any, Any], **kwargs: Any) -> T:
        """From value and draws [resample] of each cell, by coordinates, where a fit has its own way to resample."""
        cells = tuple(key if isinstance(key, tuple) else (key,) for key in fitted)
        value = np.array([value for value, _ in fitted.values()], np.float64)
        draws = np.stack([np.asarray(each, np.float64) for _, each in fitted.values()], axis=1)
        return cls(quantity=quantity, axes=tuple(axes), cells=cells, value=value, draws=draws, **kwargs)

    @property
    def point(self) -> Array:
        return self.value

    @property
    def n(self) -> NDArray[np.int64]:
        return np.full(len(self), self.count)

    def estimate(self, level: float = 0.95) -> Estimate:
        bounds = np.array([percentile_bounds(draws, level=level) for draws in self.draws.T]).reshape(-1, 2).T
        if self.count < MIN_UNITS:  # resamples of so few show next to nothing of what others would do
            bounds = np.full_like(bounds, np.nan)
        if self.quantity.within is not None:
            bounds = bounds.clip(*self.quantity.within)
        return Estimate(self.value, bounds[0], bounds[1], self.count)

    def __sub__(self, other: "Statistic") -> "Statistic":
        """Resample by resample where both were drawn from the same units; the range widens."""
        if (
            self.drawn_from is None
            or self.drawn_from != other.drawn_from
            or self.draws.shape[0] != other.draws.shape[0]
        ):
            raise ValueError(f"{self.quantity.name!r}: the statistics were drawn from different {self.over}")
        return replace(
            self, quantity=self.quantity.difference(), value=self.value - other.value, draws=self.draws - other.draws
        )

    def _taken(self, chosen: list[int], **arrays: Any) -> "Statistic":
        return super()._taken(chosen, value=self.value[chosen], draws=self.draws[:, chosen], **arrays)


def percentile_bounds(draws: Array, *, level: float = 0.95) -> tuple[float, float]:
    """The middle 95% (or `level`) of a statistic on resampled units, [resample].

    A statistic that often does not exist on resamples has no bounds: what is left would look too sure.

    >>> [round(bound, 6) for bound in percentile_bounds(np.linspace(0, 1, 101))]
    [0.025, 0.975]
    """
    known = draws[np.isfinite(draws)]
    if not len(known) or len(known) < level * len(draws):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def statistic(
    function: Callable[..., float],
    *samples: Samples,
    over: str | Sequence[str],
    quantity: Quantity,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Statistic:
    """`function(means, ...)` of one or several samples along the axes `over`, for each cell of the other axes.

    `function` gets one `Means` for each of `samples` and returns a number, NaN where there is none. The samples must
    share the axes that are left.

    >>> from headscope.tables import Column
    >>> import polars as pl
    >>> step = Column("step", pl.Int64, "training step")
    >>> score = Samples.grid(Quantity("score", "a score"), {step: [1, 2, 4]}, np.array([[0.0, 1.0, 1.0]] * 8))
    >>> rise = Quantity("rise", "first step with a score above .5")
    >>> statistic(lambda means: means.x[means.value > 0.5][0], score, over="step", quantity=rise).value
    array([2.])
    """
    along = (over,) if isinstance(over, str) else tuple(over)
    first = samples[0]
    left = [axis for axis in first.axes if axis.name not in along]
    cells = tuple(dict.fromkeys(tuple(cell[first.axis(axis.name)] for axis in left) for cell in first.cells))
    parts = [[each.at(**dict(zip((a.name for a in left), cell, strict=True))) for each in samples] for cell in cells]
    counts = _counts_of(samples, resamples, seed)
    value = [function(*(Means(part.cells, part.mean) for part in own)) for own in parts]
    draws = [
        [function(*(Means(p.cells, _weighted(p, c[r])) for p, c in zip(own, counts, strict=True))) for own in parts]
        for r in range(resamples)
    ]
    return Statistic(
        quantity=quantity,
        axes=tuple(left),
        cells=cells,
        over=first.over,
        value=np.array(value, np.float64),
        draws=np.array(draws, np.float64).reshape(resamples, len(cells)),
        count=min(len(each.units) for each in samples),
        drawn_from=(tuple(each.units for each in samples), seed),
    )


def _counts_of(samples: Sequence[Samples], resamples: int, seed: int) -> list[Array]:
    """How often each unit is drawn, [resample, unit], for every sample; the same where units are the same."""
    generator, known = np.random.default_rng(seed), {}
    for each in samples:
        n = len(each.units)
        if each.units not in known:
            known[each.units] = generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    return [known[each.units] for each in samples]


def _weighted(part: Samples, counts: Array) -> Array:
    """The cells' means with every unit counted so often."""
    values, rows = part.values, part.counts
    if rows is None and not part.leave_out:
        return np.asarray(counts @ values / counts.sum())
    if rows is None:
        known = ~np.isnan(values)
        values, rows = np.where(known, values, 0.0), known.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts @ values / (counts @ rows))


@dataclass(frozen=True, eq=False, kw_only=True)
class Unpaired(Cells):
    """The mean of `first` minus that of `second`, whose units have nothing to do with each other."""

    first: Samples
    second: Samples

    @property
    def point(self) -> Array:
        return self.first.mean - self.second.mean

    @property
    def n(self) -> NDArray[np.int64]:
        return np.minimum(self.first.n, self.second.n)

    def estimate(self, level: float = 0.95) -> Estimate:
        """Welch's t interval; NaN where neither side varies or a side has fewer than two values."""
        first, second = (
            [v[~np.isnan(v)] if each.leave_out else v for v in each.linear.T] for each in (self.first, self.second)
        )
        rows = np.array([_welch(a, b, level) for a, b in zip(first, second, strict=True)]).reshape(-1, 3)
        if self.quantity.within is not None:
            rows[:, 1:] = rows[:, 1:].clip(*self.quantity.within)
        return Estimate(rows[:, 0], rows[:, 1], rows[:, 2], int(self.n.min(initial=0)))

    def _taken(self, chosen: list[int], **arrays: Any) -> "Unpaired":
        sides = {"first": self.first._taken(chosen), "second": self.second._taken(chosen)}
        return super()._taken(chosen, **sides, **arrays)


def unpaired(first: Samples, second: Samples) -> Unpaired:
    """The difference of two samples of different units, cell by cell; the range widens."""
    if first.cells != second.cells:
        raise ValueError(f"{first.quantity.name!r} minus {second.quantity.name!r}: the cells differ")
    return Unpaired(
        quantity=first.quantity.difference(),
        axes=first.axes,
        cells=first.cells,
        over=first.over,
        first=first,
        second=second,
    )


def _welch(first: Array, second: Array, level: float) -> tuple[float, float, float]:
    fewest = min(len(first), len(second))
    difference = float(first.mean() - second.mean()) if fewest else math.nan
    squares = [values.var(ddof=1) / len(values) for values in (first, second) if fewest > 1]
    if not sum(squares) > 0:
        return difference, math.nan, math.nan
    parts = (square**2 / (len(values) - 1) for square, values in zip(squares, (first, second), strict=True))
    freedom = sum(squares) ** 2 / sum(parts)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(sum(squares))
    return difference, difference - reach, difference + reach
