"""Tables as a page shows them: short numbers with the full ones behind them, and what columns mean.

In: a Table. Out: plain records of text for the template, which decides nothing. A number has three
significant digits and its full value as a tooltip; NaN reads "undefined" and a missing value is a dash,
never 0. The first rows are shown, more are folded, and past `MOST_ROWS` the page says where the Parquet
file is: a page is for reading, a Parquet file for computing. Not done here: escaping (the template's
autoescape) and rounding of anything that is written to disk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headscope.figures.tokens import legible
from headscope.figures.words import number
from headscope.tables import Column, Table

FIRST_ROWS = 20
MOST_ROWS = 500
MOST_WIDTH = 40  # characters to which a column is at least as wide; longer text wraps


@dataclass(frozen=True)
class CellView:
    """Text, the tooltip with the full value ("" for none), and the CSS class that aligns it."""

    text: str
    title: str
    kind: str


@dataclass(frozen=True)
class ColumnView:
    """A header: the column's words, unit and meaning; `width` in characters holds every cell."""

    name: str
    unit: str
    meaning: str
    kind: str
    width: int

    @property
    def tooltip(self) -> str:
        return f"{self.meaning} (in {self.unit})" if self.unit else self.meaning


@dataclass(frozen=True)
class TableView:
    """One table on the page; `left_out` rows are only in the file."""

    name: str
    anchor: str
    columns: tuple[ColumnView, ...]
    first: tuple[tuple[CellView, ...], ...]
    folded: tuple[tuple[CellView, ...], ...]
    total: int

    @property
    def left_out(self) -> int:
        return self.total - len(self.first) - len(self.folded)

    @property
    def parquet(self) -> str:
        """Where the whole table is, seen from the folder of the report."""
        return f"tables/{self.name}.parquet"


def table_view(name: str, anchor: str, table: Table) -> TableView:
    """What the page shows of a table, which keeps its own order."""
    names = [column.name for column in table.schema.columns]
    shown = [tuple(map(cell_view, row)) for row in table.frame.head(MOST_ROWS).select(names).iter_rows()]
    columns = tuple(_column_view(each, [row[i] for row in shown]) for i, each in enumerate(table.schema.columns))
    return TableView(name, anchor, columns, tuple(shown[:FIRST_ROWS]), tuple(shown[FIRST_ROWS:]), len(table))


def cell_view(value: Any) -> CellView:
    """One value as text.

    >>> cell_view(0.123456)
    CellView(text='0.123', title='0.123456', kind='number')
    >>> cell_view(float("nan")).text, cell_view(None).text, cell_view(True).text, cell_view(12345).text
    ('undefined', '–', 'yes', '12345')
    """
    if value is None:
        return CellView("–", "no value", "missing")
    if isinstance(value, bool):
        return CellView("yes" if value else "no", "", "text")
    if isinstance(value, int):
        return CellView(str(value), "", "number")
    if isinstance(value, float):
        if math.isnan(value):
            return CellView("undefined", "NaN: this value does not exist", "undefined")
        return CellView(number(value, padded=True), repr(value), "number")
    if isinstance(value, list | tuple):
        return CellView(", ".join(cell_view(item).text for item in value), "", "text")
    return CellView(legible(str(value)), "", "text")


def _column_view(column: Column, cells: Sequence[CellView]) -> ColumnView:
    # Two tables stand under one header (first rows, folded rows): the same width keeps them aligned.
    longest = max((len(cell.text) for cell in cells), default=0)
    width = min(max(longest, len(column.name) + 1, len(column.unit)), MOST_WIDTH)
    kind = "number" if column.dtype.is_numeric() else "text"
    return ColumnView(column.name.replace("_", " "), column.unit, column.meaning, kind, width)
