"""Tables of samples: one row per cell, with its coordinates, mean, bounds and number of units.

In: samples (or statistics), and what stands beside them. Out: a Table whose columns are declared by the quantity and
the axes, so that no table is written by hand and a column means the same in all of them. Several samples with the
same axes make one table.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from headscope.measures.samples import Cells, Samples
from headscope.tables import Column, Schema, Table

Several = Cells | Sequence[Cells]


def table(
    samples: Several,
    name: str,
    *,
    beside: Sequence[Cells] = (),
    more: Mapping[Column, Mapping[Any, Any]] | None = None,
) -> Table:
    """Every cell by itself: coordinates, mean, `low`, `high` (95% bounds) and units; a reason where any cell has one.

    `beside` are further estimates whose mean stands in a column of its quantity's name: of the same cell, or of its
    only one. `more` has further columns, by the cell's coordinates.
    """
    listed = _listed(samples)
    bounded = [(each, each.estimate()) for each in listed]
    rows = [
        (each, cell, (found.mean[i], found.low[i], found.high[i]), int(each.n[i]))
        for each, found in bounded
        for i, cell in enumerate(each.cells)
    ]
    return _made(listed, name, rows, "by itself", beside, more or {})


def joint_table(
    samples: Samples,
    name: str,
    *,
    beside: Sequence[Cells] = (),
    more: Mapping[Column, Mapping[Any, Any]] | None = None,
) -> Table:
    """The same with bounds that hold for all cells at once."""
    found = samples.together()
    told = {cell: str(why) for cell, why in zip(samples.cells, found.reason, strict=True) if why}
    samples = replace(samples, reasons={**told, **samples.reasons})
    rows = [
        (samples, cell, (found.mean[i], found.low[i], found.high[i]), found.n) for i, cell in enumerate(samples.cells)
    ]
    return _made([samples], name, rows, "for all rows at once", beside, more or {})


def beside(*samples: Cells) -> dict[Column, dict[Any, Any]]:
    """Mean and bounds of samples as further columns (`more=`) of a table whose rows are the same cells.

    Several have cells of their own, such as those of two halves.
    """
    quantity, over = samples[0].quantity, samples[0].over
    low, high = (
        Column(f"{quantity.name}_{end}", pl.Float64, f"{which} 95% bound of it over {over}", quantity.unit)
        for end, which in (("low", "lower"), ("high", "upper"))
    )
    columns: dict[Column, dict[Any, Any]] = {quantity.column: {}, low: {}, high: {}}
    for each in samples:
        bounded = each.estimate()
        for column, values in zip(columns, (bounded.mean, bounded.low, bounded.high), strict=True):
            columns[column] |= dict(zip(each.cells, values.tolist(), strict=True))
    return columns


def _made(
    listed: Sequence[Cells],
    name: str,
    rows: Sequence[tuple[Cells, tuple[Any, ...], tuple[float, float, float], int]],
    bounds: str,
    beside: Sequence[Cells],
    more: Mapping[Column, Mapping[Any, Any]],
) -> Table:
    first = listed[0]
    quantity, over = first.quantity, first.over
    units = Column(over.replace(" ", "_"), pl.Int64, f"{over} behind the mean")
    reasoned = any(each.reasons for each in listed)
    columns = [
        *first.axes,
        quantity.column,
        Column("low", pl.Float64, f"lower 95% bound over {over}, {bounds}", quantity.unit),
        Column("high", pl.Float64, f"upper 95% bound over {over}, {bounds}", quantity.unit),
        *(each.quantity.column for each in beside),
        *more,
        units,
        *([REASON] if reasoned else []),
    ]
    # The mean of the cell that has the same coordinates on the axes that both have.
    known = [(other, dict(zip(other.cells, other.point.tolist(), strict=True))) for other in beside]
    made = []
    for each, cell, (mean, low, high), n in rows:
        row = dict(zip((axis.name for axis in first.axes), map(_plain, cell), strict=True))
        row |= {quantity.name: float(mean), "low": float(low), "high": float(high), units.name: n}
        row |= {
            other.quantity.name: means.get(tuple(cell[first.axis(axis.name)] for axis in other.axes), math.nan)
            for other, means in known
        }
        row |= {column.name: values.get(cell, values.get(cell[0] if cell else ())) for column, values in more.items()}
        if reasoned:
            row["reason"] = each.reasons.get(cell, "") if math.isnan(mean) or math.isnan(low) else ""
        made.append(row)
    return Schema(name, tuple(columns)).table(made)


REASON = Column("reason", pl.String, "why there is no number; empty where there is one")


def _listed(samples: Several) -> Sequence[Cells]:
    listed = [samples] if isinstance(samples, Cells) else list(samples)
    first = listed[0]
    for each in listed[1:]:
        if [a.name for a in each.axes] != [a.name for a in first.axes] or each.quantity.name != first.quantity.name:
            raise ValueError(f"{first.quantity.name!r} and {each.quantity.name!r} do not fit into one table")
    return listed


def _plain(value: Any) -> Any:
    """A coordinate as a table holds it."""
    return value.item() if hasattr(value, "item") else value
