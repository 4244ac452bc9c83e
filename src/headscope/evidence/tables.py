"""Tables of samples: one row per cell, with its coordinates, mean, bounds and number of units.

In: samples (or statistics), and what stands beside them. Out: a Table whose columns are declared by the quantity and
the axes, so that no table is written by hand and a column means the same in all of them. Several samples with the
same axes make one table.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from headscope.measures.samples import Cells
from headscope.tables import Column, Schema, Table

Several = Cells | Sequence[Cells]
Further = dict[Column, dict[Any, Any]]

CHOSEN = Column("chosen", pl.Boolean, "whether the units that select chose this cell")
REASON = Column("reason", pl.String, "why there is no number; empty where there is one")


def table(
    samples: Several,
    name: str,
    *,
    beside: Sequence[Cells] = (),
    bounded: Sequence[Cells] = (),
    more: Mapping[Column, Mapping[Any, Any]] | None = None,
    jointly: bool = False,
) -> Table:
    """Coordinates, mean, `low`, `high` (95% bounds) and units of every cell; a reason where any cell has one.

    Each cell is bounded by itself, or `jointly` with all others of its samples. `beside` are further estimates whose
    mean stands in a column of its quantity's name: of the same cell, or of its only one. `bounded` are samples of
    one further quantity, such as those of two halves, that stand there with their bounds. `more` has columns by the
    cell's coordinates. Samples of which other units chose a cell have it marked.
    """
    listed = listing(samples)
    first = listed[0]
    further: dict[Column, Mapping[Any, Any]] = {**_bounded(bounded), **(more or {}), **_marks(listed)}
    means = [(other, dict(zip(other.cells, other.point.tolist(), strict=True))) for other in beside]
    rows, reasoned = [], False
    for each in listed:
        joint, units = each.together() if jointly else None, each.n.tolist()
        bounds: Any = joint or each.estimate()
        told = dict(enumerate(joint.reason.tolist())) if joint else bounds.reasons
        why = {each.cells[place]: reason for place, reason in told.items() if reason} | {**each.reasons}
        reasoned |= bool(why)
        numbers = zip(bounds.mean.tolist(), bounds.low.tolist(), bounds.high.tolist(), strict=True)
        for cell, (mean, low, high), n in zip(each.cells, numbers, units, strict=True):
            row = [*map(_plain, cell), mean, low, high]
            # The mean of the cell that has the same coordinates on the axes that both have.
            row += [own.get(tuple(cell[first.axis(a.name)] for a in other.axes), math.nan) for other, own in means]
            row += [values.get(cell, values.get(cell[0] if cell else ())) for values in further.values()]
            rows.append([*row, n, why.get(cell, "") if math.isnan(mean) or math.isnan(low) else ""])
    which = "for all rows at once" if jointly else "by itself"
    columns = (
        *first.axes,
        first.quantity.column,
        *(_bound(end, end, f"over {first.over}, {which}", first.quantity.unit) for end in _ENDS),
        *(other.quantity.column for other in beside),
        *further,
        Column(first.over.replace(" ", "_"), pl.Int64, f"{first.over} behind the mean"),
        *([REASON] if reasoned else []),
    )
    names = [column.name for column in columns]
    return Schema(name, columns).table(dict(zip(names, row, strict=False)) for row in rows)


def listing(samples: Several) -> Sequence[Cells]:
    """One or several samples as a list; they must fit into one table."""
    listed = [samples] if isinstance(samples, Cells) else list(samples)
    first = listed[0]
    for each in listed[1:]:
        if [a.name for a in each.axes] != [a.name for a in first.axes] or each.quantity.name != first.quantity.name:
            raise ValueError(f"{first.quantity.name!r} and {each.quantity.name!r} do not fit into one table")
    return listed


_ENDS = {"low": "lower", "high": "upper"}


def _bound(name: str, end: str, of: str, unit: str) -> Column:
    return Column(name, pl.Float64, f"{_ENDS[end]} 95% bound {of}", unit)


def _bounded(samples: Sequence[Cells]) -> Further:
    """Mean and bounds of one quantity by cell, as further columns."""
    columns: Further = {}
    for each in samples:
        name, unit, bounds = each.quantity.name, each.quantity.unit, each.estimate()
        ends = [_bound(f"{name}_{end}", end, f"of it over {each.over}", unit) for end in _ENDS]
        for column, values in zip((each.quantity.column, *ends), (bounds.mean, bounds.low, bounds.high), strict=True):
            columns.setdefault(column, {}).update(zip(each.cells, values.tolist(), strict=True))
    return columns


def _marks(listed: Sequence[Cells]) -> Further:
    """Which cells were chosen; no column where nothing was to be chosen."""
    marks: dict[Any, bool] = {}
    for each in listed:
        if each.chosen:
            marks |= dict.fromkeys(each.cells, False) | dict.fromkeys(each.only(**each.chosen).cells, True)
    return {CHOSEN: marks} if marks else {}


def _plain(value: Any) -> Any:
    """A coordinate as a table holds it."""
    return value.item() if hasattr(value, "item") else value
