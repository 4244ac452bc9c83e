"""What a figure says in words: numbers, labels of axes, and the text for who cannot see it.

In: a table, its columns and the rows that a figure draws. Out: strings, computed from the very numbers
that are drawn. An alternative text names the kind of figure, its extent, what is largest and where, and
how much is undefined; it does not say what the numbers mean, which is the caption's work.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from headscope.errors import BadArgument, UnknownName
from headscope.tables import Column, Table


def number(value: float, *, padded: bool = False) -> str:
    """Three significant digits, written out where that is short; `padded` keeps zeros at the end.

    >>> number(0.12345), number(1234.5), number(2.0), number(1.5e-7), number(float("nan"))
    ('0.123', '1230', '2', '1.5e-7', 'undefined')
    >>> number(2.0, padded=True), number(0.5, padded=True)
    ('2.00', '0.500')
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        rounded = float(f"{value:.3g}")
        return _trimmed(f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}", padded)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{_trimmed(mantissa, padded)}e{int(exponent)}"


def _trimmed(digits: str, padded: bool) -> str:
    return digits if padded or "." not in digits else digits.rstrip("0").rstrip(".")


def column_of(table: Table, name: str) -> Column:
    """The declaration of a column.

    Raises:
        UnknownName: naming the columns that the table has.
    """
    columns = {column.name: column for column in table.schema.columns}
    if name not in columns:
        raise UnknownName.among(f"column of the table {table.name!r}", name, columns)
    return columns[name]


def axis_title(table: Table, name: str) -> str:
    """A column as a reader wants it: words, and its unit where it has one."""
    column = column_of(table, name)
    # A name such as `loss_nats` already carries the unit that stands behind it.
    words = column.name.removesuffix(f"_{column.unit}").replace("_", " ")
    return f"{words} ({column.unit})" if column.unit else words


def rows_of(table: Table, doing: str, *names: str | None) -> list[dict[str, Any]]:
    """The rows of a table that has these columns.

    Raises:
        UnknownName: if a column does not exist.
        BadArgument: if the table is empty.
    """
    for name in names:
        if name is not None:
            column_of(table, name)
    if not len(table):
        raise BadArgument(f"cannot draw {doing}: the table {table.name!r} has no rows.")
    return table.rows()


def value_of(given: Any) -> float:
    """A cell as a number, NaN where the table has none.

    Raises:
        BadArgument: for an infinite value, which has no place on any axis.
    """
    value = math.nan if given is None else float(given)
    if math.isinf(value):
        raise BadArgument("cannot draw an infinite value: leave the row out, or make the value NaN.")
    return value


def drawn(given: Any) -> float | None:
    """A cell for the JSON of a chart, which has no NaN: None where the table has no number."""
    value = value_of(given)
    return None if math.isnan(value) else value


def joined(parts: Sequence[str]) -> str:
    """
    >>> joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def extremes(named: Sequence[tuple[str, float]], *, signed: bool = False) -> str:
    """The largest values and where they are, the middle, and the smallest where the sign counts.

    >>> extremes([("0.0", 0.1), ("0.1", 0.9), ("1.0", float("nan"))])
    'largest at 0.1 (0.9) and 0.0 (0.1); median 0.5; 1 of 3 undefined'
    """
    defined = [(name, value) for name, value in named if not math.isnan(value)]
    missing = len(named) - len(defined)
    if not defined:
        return f"all {len(named)} undefined"
    ordered = sorted(defined, key=lambda pair: -pair[1])
    parts = ["largest at " + joined([f"{name} ({number(value)})" for name, value in ordered[:3]])]
    if signed:
        name, value = ordered[-1]
        parts.append(f"smallest at {name} ({number(value)})")
    parts.append(f"median {number(statistics.median(value for _, value in defined))}")
    if missing:
        parts.append(f"{missing} of {len(named)} undefined")
    return "; ".join(parts)
