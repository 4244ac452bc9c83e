"""Samples: values of one quantity by unit of independence, in cells with named coordinates.

In: one value per unit (prompt, function, document, puzzle, training seed) for each cell (a layer, a head, a role, a
checkpoint, or several of these together). Out: the same, sliced, subtracted, split, and bounded: means with intervals
over units, cell by cell or for all cells at once. A unit is what could have come out otherwise independently of the
others; rows that share a document or a function are one unit.

Cells are listed, not a grid, so that axes may be ragged (models with checkpoints of their own). A value that is NaN
leaves its cell undefined, unless `leave_out` says that units without a value do not count there. *Ratio samples* hold
a sum and a count per unit: their mean is the sum of sums over the sum of counts, and units with more rows weigh more.
What is no mean of units (a change point, kappa, an exponent) is `measures.statistics`. Not done here: verdicts.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headscope.hashing import digest
from headscope.measures.intervals import Array, Estimate, interval
from headscope.measures.simultaneous import Simultaneous, simultaneous
from headscope.tables import Column, Quantity
from headscope.tasks.split import ESTIMATION, SELECTION, Split
from headscope.vocabulary import Head

Coordinates = tuple[Any, ...]
# By coordinates: a tuple, or a single value where there is one axis.
ByCell = Mapping[Any, Any]
# Not typing.Self, which the run-time checks of the tests do not take.
C = TypeVar("C", bound="Cells")
S = TypeVar("S", bound="Samples")


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """What every kind of estimate has: a quantity, named coordinates, and a list of cells.

    `axes` are columns: name, type and meaning of each coordinate; `cells` has one coordinate per axis. `over` names
    the unit of independence, in the plural. `reasons` says of cells why they are undefined. `chosen` are coordinates
    of the cell that other units chose, if one was to be chosen; a selection of cells forgets them.
    """

    quantity: Quantity
    axes: tuple[Column, ...] = ()
    cells: tuple[Coordinates, ...] = ((),)
    over: str = "prompts"
    reasons: Mapping[Coordinates, str] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cells)

    def axis(self, name: str) -> int:
        """Which place in every cell's coordinates an axis has."""
        names = [axis.name for axis in self.axes]
        if name not in names:
            raise KeyError(f"{self.quantity.name!r} has the axes {names}, not {name!r}")
        return names.index(name)

    def coordinates(self, name: str) -> tuple[Any, ...]:
        """The values of one axis, each once, in the order of the cells."""
        place = self.axis(name)
        return tuple(dict.fromkeys(cell[place] for cell in self.cells))

    def only(self: C, **where: Any) -> C:
        """The cells whose coordinate is this value, one of these (a list, tuple or set), or passes this function."""
        wanted = [(self.axis(name), value) for name, value in where.items()]
        return self._taken(
            [i for i, cell in enumerate(self.cells) if all(_fits(cell[place], value) for place, value in wanted)]
        )

    def at(self: C, **where: Any) -> C:
        """The cells with these coordinates; the axes that are fixed are dropped."""
        kept = [i for i, axis in enumerate(self.axes) if axis.name not in where]
        found = self.only(**where)
        short = {cell: tuple(cell[i] for i in kept) for cell in found.cells}
        reasons = {short[cell]: reason for cell, reason in found.reasons.items()}
        axes, cells = tuple(self.axes[i] for i in kept), tuple(short[cell] for cell in found.cells)
        return replace(found, axes=axes, cells=cells, reasons=reasons)

    def by(self: C, name: str) -> dict[Any, C]:
        """One for each value of an axis, which is dropped."""
        return {value: self.at(**{name: value}) for value in self.coordinates(name)}

    def labelled(self: C, axis: Column, value: Any) -> C:
        """With one more axis, in front, on which every cell has this value."""
        reasons = {(value, *cell): reason for cell, reason in self.reasons.items()}
        cells = tuple((value, *cell) for cell in self.cells)
        return replace(self, axes=(axis, *self.axes), cells=cells, reasons=reasons)

    def measured_as(self: C, quantity: Quantity) -> C:
        """The same numbers under another name."""
        return replace(self, quantity=quantity)

    def because(self: C, reason: str, **where: Any) -> C:
        """With a reason for the cells (those with these coordinates) that are undefined."""
        return replace(self, reasons={**self.reasons, **dict.fromkeys(self.only(**where).cells, reason)})

    def choosing(self: C, **where: Any) -> C:
        """With the cell at these coordinates as the one that other units chose."""
        return replace(self, chosen=where)

    @property
    def there(self: C) -> C:
        """At the chosen cell."""
        return self.at(**self.chosen)

    def estimate(self, level: float = 0.95) -> Estimate:
        """Mean (or statistic) and bounds of every cell by itself, [cell]; NaN where undefined."""
        raise NotImplementedError

    def together(self, *, above: float = 0.0, level: float = 0.95) -> Simultaneous:
        """Bounds that hold for all cells at once, and p values of "the mean is at most `above`"."""
        raise ValueError(f"{self.quantity.name!r}: joint bounds are those of means")

    @property
    def point(self) -> Array:
        """Mean (or statistic) of every cell without bounds, [cell]."""
        raise NotImplementedError

    @property
    def n(self) -> NDArray[np.int64]:
        """Units behind each cell."""
        raise NotImplementedError

    def _taken(self: C, chosen: list[int], **arrays: Any) -> C:
        """Those cells, in that order, with their `arrays`; subclasses take theirs along."""
        cells = tuple(self.cells[i] for i in chosen)
        reasons = {cell: self.reasons[cell] for cell in cells if cell in self.reasons}
        return replace(self, cells=cells, reasons=reasons, chosen={}, **arrays)


@dataclass(frozen=True, eq=False, kw_only=True)
class Samples(Cells):
    """`values` [unit, cell] of a quantity.

    `counts` [unit, cell], where given, makes them ratio samples: `values` are sums over so many rows. `units` tells
    the units apart: two samples are paired where these agree. `minus` [unit, cell] is what was subtracted, where
    these are differences: those of rates have bounds of their own.
    """

    values: Array
    counts: Array | None = None
    units: tuple[Hashable, ...] = ()
    leave_out: bool = False
    minus: Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", self.units or tuple(range(len(self.values))))
        if self.values.shape != (len(self.units), len(self.cells)):
            raise ValueError(
                f"samples of {self.quantity.name!r}: {self.values.shape} values for {len(self.units)} "
                f"{self.over} and {len(self.cells)} cells"
            )

    @classmethod
    def of(cls: type[S], quantity: Quantity, axes: Sequence[Column], values: ByCell, **kwargs: Any) -> S:
        """From one array [unit] per cell, by coordinates: a tuple, or a single value where there is one axis."""
        cells = tuple(key if isinstance(key, tuple) else (key,) for key in values)
        arrays = [np.asarray(each, np.float64) for each in values.values()]
        units = len(arrays[0]) if arrays else len(kwargs.get("units", ()))
        stacked = np.stack(arrays, axis=1) if arrays else np.empty((units, 0))
        return cls(quantity=quantity, axes=tuple(axes), cells=cells, values=stacked, **kwargs)

    @classmethod
    def one(cls: type[S], quantity: Quantity, values: Any, **kwargs: Any) -> S:
        """A single cell, from [unit]."""
        return cls(quantity=quantity, values=np.asarray(values, np.float64)[:, None], **kwargs)

    @classmethod
    def grid(cls: type[S], quantity: Quantity, axes: Mapping[Column, Iterable[Any]], values: Any, **kwargs: Any) -> S:
        """Every combination of coordinates, from [unit, axis, axis, ...]."""
        array = np.asarray(values, np.float64)
        cells = tuple(product(*(tuple(along) for along in axes.values())))
        flat = array.reshape(len(array), len(cells))
        return cls(quantity=quantity, axes=tuple(axes), cells=cells, values=flat, **kwargs)

    @classmethod
    def ratio(
        cls: type[S], quantity: Quantity, axes: Sequence[Column], sums: ByCell, counts: ByCell, **kwargs: Any
    ) -> S:
        """Ratio samples, from a sum and a count per unit for every cell."""
        counted = cls.of(quantity, axes, {cell: counts[cell] for cell in sums}, **kwargs)
        return replace(cls.of(quantity, axes, sums, **kwargs), counts=counted.values)

    @property
    def linear(self) -> Array:
        """Values [unit, cell] whose plain mean is the cell's mean, and whose spread is that of the mean.

        Of ratio samples their linear part (Taylor's): ratio + (sum - ratio * count) / mean count.
        """
        if self.counts is None:
            return self.values
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.values.sum(0) / self.counts.sum(0)
            return np.asarray(ratio + (self.values - ratio * self.counts) / self.counts.mean(0))

    @property
    def mean(self) -> Array:
        """Mean of each cell, [cell]."""
        linear = self.linear
        if not self.leave_out:
            return np.asarray(linear.mean(0))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nansum(linear, 0) / np.count_nonzero(~np.isnan(linear), axis=0))

    @property
    def point(self) -> Array:
        return self.mean

    @property
    def n(self) -> NDArray[np.int64]:
        if self.leave_out:
            return np.asarray(np.count_nonzero(~np.isnan(self.linear), axis=0))
        return np.full(len(self), len(self.units))

    def estimate(self, level: float = 0.95) -> Estimate:
        values, within, minus = self.linear, self.quantity.within, self.minus
        if not self.leave_out or not np.isnan(values).any():
            return interval(values, level=level, within=within, minus=minus)
        rows, reasons = np.full((3, len(self)), np.nan), dict[int, str]()
        for cell, column in enumerate(values.T):
            known = ~np.isnan(column)
            if known.any():
                taken = None if minus is None else minus[known, cell]
                bounded = interval(column[known], level=level, within=within, minus=taken)
                rows[:, cell] = bounded.mean, bounded.low, bounded.high
                reasons |= dict.fromkeys([cell] if bounded.reasons else [], "".join(bounded.reasons.values()))
        return Estimate(rows[0], rows[1], rows[2], len(self.units), reasons)

    def together(self, *, above: float = 0.0, level: float = 0.95) -> Simultaneous:
        return simultaneous(self.linear, margin=above, level=level, within=self.quantity.within)

    def __sub__(self, other: "Samples") -> "Samples":
        """Paired by unit, cell by cell (or every cell minus the one of `other`); the range widens."""
        if self.units != other.units or self.over != other.over:
            raise ValueError(
                f"{self.quantity.name!r} and {other.quantity.name!r} are of different {self.over}: their difference "
                "is not paired (measures.statistics.unpaired)"
            )
        if len(other) != 1 and self.cells != other.cells:
            raise ValueError(f"{self.quantity.name!r} minus {other.quantity.name!r}: the cells differ")
        plain = self.counts is None and other.counts is None
        values, taken = self.linear - other.linear, np.broadcast_to(other.linear, self.values.shape)
        return replace(
            self,
            quantity=self.quantity.difference(),
            values=values,
            counts=None,
            leave_out=self.leave_out or other.leave_out,
            minus=taken if plain else None,
        )

    def __neg__(self) -> "Samples":
        within = self.quantity.within
        quantity = replace(self.quantity, within=None if within is None else (-within[1], -within[0]))
        taken = None if self.minus is None else self.values + self.minus
        return replace(self, quantity=quantity, values=-self.values, minus=taken)

    def changed(self, quantity: Quantity, change: Callable[[Array], Any]) -> "Samples":
        """Another quantity of the same units and cells: `change` of all values [unit, cell]."""
        return replace(
            self, quantity=quantity, values=np.asarray(change(self.linear), np.float64), counts=None, minus=None
        )

    def over_share(self, share: float, quantity: Quantity) -> "Samples":
        """Of ratio samples: sums minus this share of counts, whose mean is above 0 where the ratio exceeds the share.

        It is the same question for counts that are surely positive, and one with a range where a ratio has none.
        """
        counts = np.full_like(self.values, np.nan) if self.counts is None else self.counts
        return replace(self, quantity=quantity, values=self.values - share * counts, counts=None)

    def rows(self: S, chosen: slice | NDArray[Any] | Sequence[int]) -> S:
        """Some of the units."""
        places = np.arange(len(self.units))[chosen]
        arrays = {name: array[places] for name, array in self._arrays.items()}
        return replace(self, units=tuple(self.units[place] for place in places), **arrays)

    def halves(self: S) -> Split[S]:
        """Units of even place select, those of odd place estimate."""
        return Split(self.rows(SELECTION), self.rows(ESTIMATION))

    def halves_by_hash(self: S) -> Split[S]:
        """Each unit in the half that its own name decides, whatever else is in the sample or comes later."""
        first = np.array([int(digest(unit), 16) % 2 == 0 for unit in self.units], bool)
        return Split(self.rows(first), self.rows(~first))

    def best(self, name: str, *, above: float | None = None) -> Any:
        """The coordinate on this axis of the cell with the largest mean; None if none is defined, or over `above`."""
        if not len(self) or np.isnan(mean := self.mean).all() or (above is not None and not np.nanmax(mean) > above):
            return None
        return self.cells[int(np.nanargmax(mean))][self.axis(name)]

    def named(self: S, *, above: float) -> S:
        """The cells whose mean surely exceeds a margin, by a bound that holds for all cells at once."""
        return self._taken(np.flatnonzero(self.together(above=above).at_least > above).tolist())

    def _taken(self: S, chosen: list[int], **arrays: Any) -> S:
        return super()._taken(chosen, **{name: array[:, chosen] for name, array in self._arrays.items()}, **arrays)

    @property
    def _arrays(self) -> dict[str, Any]:
        """Everything that is [unit, cell], by its field."""
        named = {"values": self.values, "counts": self.counts, "minus": self.minus}
        return {name: array for name, array in named.items() if array is not None}


def _fits(value: Any, wanted: Any) -> bool:
    if callable(wanted):
        return bool(wanted(value))
    return value in wanted if isinstance(wanted, list | tuple | set | frozenset | range) else bool(value == wanted)


def stacked(listed: Sequence[Samples]) -> Samples:
    """The cells of several samples of the same quantity, axes and units as one.

    Raises:
        ValueError: for none, or if one of these differs.
    """
    if len({(each.quantity, each.axes, each.units, each.over, each.counts is None) for each in listed}) != 1:
        named = ", ".join(repr(each.quantity.name) for each in listed) or "nothing"
        raise ValueError(f"cannot stack samples of {named}: quantity, axes and units must be the same")

    return replace(
        listed[0],
        chosen={},
        cells=tuple(cell for each in listed for cell in each.cells),
        reasons={cell: why for each in listed for cell, why in each.reasons.items()},
        values=np.concatenate([each.values for each in listed], axis=1),
        counts=_joined([each.counts for each in listed]),
        minus=_joined([each.minus for each in listed]),
    )


def _joined(arrays: Sequence[Array | None]) -> Array | None:
    """Side by side, where none is missing."""
    there = [array for array in arrays if array is not None]
    return np.concatenate(there, axis=1) if len(there) == len(arrays) else None


class Tally:
    """Ratio samples filled while streaming: unit by unit, a sum and a count for each cell."""

    def __init__(self, quantity: Quantity, axes: Sequence[Column], *, over: str = "documents") -> None:
        self._made_of: dict[str, Any] = {"quantity": quantity, "axes": tuple(axes), "over": over}
        self._sums: dict[Hashable, dict[Coordinates, tuple[float, float]]] = {}

    def add(self, unit: Hashable, sums: ByCell, counts: ByCell) -> None:
        """Add rows of a unit, which may come in several pieces."""
        own = self._sums.setdefault(unit, {})
        for key, value in sums.items():
            cell = key if isinstance(key, tuple) else (key,)
            total, count = own.get(cell, (0.0, 0.0))
            own[cell] = (total + float(value), count + float(counts[key]))

    def samples(self) -> Samples:
        """What was added; a unit without rows in a cell counts nothing there."""
        cells = tuple(dict.fromkeys(cell for own in self._sums.values() for cell in own))
        listed = np.array([[own.get(cell, (0.0, 0.0)) for cell in cells] for own in self._sums.values()])
        listed = listed.reshape(len(self._sums), len(cells), 2)
        values, counts = np.moveaxis(listed, -1, 0)
        return Samples(cells=cells, units=tuple(self._sums), values=values, counts=counts, **self._made_of)


LAYER = Column("layer", pl.Int64, "layer, from 0")
HEAD = Column("head", pl.String, "head, as layer.index, both from 0")


def over_heads(quantity: Quantity, heads: Collection[Head], values: Any, **kwargs: Any) -> Samples:
    """Samples of heads, from [unit, head]: cells with the axes `layer` and `head` ("1.4")."""
    cells = tuple((head.layer, str(head)) for head in heads)
    return Samples(
        quantity=quantity, axes=(LAYER, HEAD), cells=cells, values=np.asarray(values, np.float64), **kwargs
    )
