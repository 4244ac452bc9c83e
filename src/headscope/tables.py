"""Tables with declared columns: every column has a type, a unit and a meaning.

A table that leaves headscope (on screen, as Parquet, as JSON, in a report) carries what its columns mean,
so that a figure can be read a year later. Rows are checked against the declaration when a table is made:
a missing or a surplus column is a defect, not a surprise for the reader. Undefined values are NaN and
stay NaN; the column beside them gives the reason where there is one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import polars as pl

from headscope.errors import system_errors


@dataclass(frozen=True)
class Column:
    """One declared column: `unit` is "" for a pure number, a name or a flag."""

    name: str
    dtype: type[pl.DataType]
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Quantity:
    """What is measured: its column's name, what it means, its unit, and the range that no bound may leave.

    `within` is the range of single values and so of their mean; None where there is none.
    """

    name: str
    meaning: str
    unit: str = ""
    within: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.within is not None and not self.within[0] < self.within[1]:
            raise ValueError(f"quantity {self.name!r}: the range {self.within} is empty")

    @property
    def column(self) -> Column:
        return Column(self.name, pl.Float64, self.meaning, self.unit)

    def difference(self) -> "Quantity":
        """The difference of two such values: its range is as wide as the span, on both sides of 0.

        >>> Quantity("accuracy", "share of right answers", within=(0.0, 1.0)).difference().within
        (-1.0, 1.0)
        """
        if self.within is None:
            return self
        span = self.within[1] - self.within[0]
        return replace(self, within=(-span, span))


@dataclass(frozen=True)
class Schema:
    """The declared columns of a kind of table, in their order."""

    name: str
    columns: tuple[Column, ...]

    def table(self, rows: Iterable[Mapping[str, Any]]) -> "Table":
        """A table of these rows.

        Raises:
            ValueError: if a row has other keys than the declared columns (a defect of the caller).
        """
        names = [column.name for column in self.columns]
        listed = list(rows)
        for row in listed:
            if set(row) != set(names):
                raise ValueError(f"table {self.name!r}: row has {sorted(row)}, declared are {sorted(names)}")
        data = {name: [row[name] for row in listed] for name in names}
        types = {column.name: column.dtype for column in self.columns}
        return Table(self, pl.DataFrame(data, schema=types))


@dataclass(frozen=True)
class Table:
    """A polars frame together with what its columns mean."""

    schema: Schema
    frame: pl.DataFrame

    @property
    def name(self) -> str:
        return self.schema.name

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        return repr(self.frame)

    def rows(self, **equal: Any) -> list[dict[str, Any]]:
        """The rows whose columns have these values, as dictionaries.

        >>> schema = Schema("t", (Column("layer", pl.Int64, "layer"),))
        >>> schema.table([{"layer": 0}, {"layer": 1}]).rows(layer=1)
        [{'layer': 1}]
        """
        return list(self.where(**equal).frame.iter_rows(named=True))

    def where(self, **equal: Any) -> Self:
        """The same table with only the rows whose columns have these values."""
        frame = self.frame
        for name, value in equal.items():
            frame = frame.filter(pl.col(name) == value)
        return type(self)(self.schema, frame)

    def sorted(self, *by: str, descending: bool = False) -> Self:
        """The same table in another order; rows without a value come last."""
        return type(self)(self.schema, self.frame.sort(*by, descending=descending, nulls_last=True))

    def to_records(self) -> list[dict[str, Any]]:
        """Rows for JSON: NaN, which JSON lacks, becomes None."""
        floats = [name for name, dtype in self.frame.schema.items() if dtype.is_float()]
        return list(self.frame.with_columns(pl.col(floats).fill_nan(None)).iter_rows(named=True))

    def describe(self) -> list[dict[str, str]]:
        """What each column means, for a report or a README beside a Parquet file."""
        return [
            {"name": column.name, "unit": column.unit, "meaning": column.meaning} for column in self.schema.columns
        ]

    def write_parquet(self, path: Path) -> None:
        """Raises OSError where it cannot be written."""
        with system_errors():
            self.frame.write_parquet(path)
