"""Heads and positions as grids: layer x head, and layer x position.

In: a table and the names of its columns. Out: a finished Figure, with the words for who cannot see it computed from
the same rows. A head grid is the picture in which the field reads scores of heads; a layer x position grid is that of
activation patching (Meng et al. 2022, causal tracing). Layer 0 is on top. Not done here: averaging. A table with
several rows for one cell is refused, since what to do with them is the study's decision.
"""

import math
from collections import Counter
from collections.abc import Sequence

from headscope.errors import BadArgument
from headscope.figures.heat import Cell, Frame, Scale, heat_map
from headscope.figures.theme import finish
from headscope.figures.tokens import legible, visible
from headscope.figures.words import axis_title, extremes, rows_of, value_of
from headscope.results.study import Figure
from headscope.tables import Table
from headscope.vocabulary import Head

_LONGEST_TOKEN = 14  # characters


def head_grid(
    table: Table,
    value: str,
    *,
    facet: str | None = None,
    low: float | None = None,
    high: float | None = None,
    diverging: bool = False,
    title: str,
    caption: str,
    name: str | None = None,
) -> Figure:
    """Layer x head heat map of the column `value`, with the number in each cell where it fits.

    The table has a column `layer`, and a column `head` with the index of the head or its written form
    (`1.4`). `facet` names a column whose values each get a grid of their own, on one scale. `low` and
    `high` fix the ends of the colour scale, in the unit of `value`; values beyond them get the colour
    of the end and keep their number. `diverging` puts white at 0 and makes the ends symmetric. NaN is
    drawn as undefined; heads without a row stay blank.

    Raises:
        UnknownName: if a column does not exist.
        BadArgument: if the table is empty or has two rows for one cell.
    """
    return _grid(table, value, "head", facet, (low, high, diverging), (title, caption, name))


def layer_position_grid(
    table: Table,
    value: str,
    *,
    token_labels: Sequence[str | None] | None = None,
    facet: str | None = None,
    low: float | None = None,
    high: float | None = None,
    diverging: bool = False,
    title: str,
    caption: str,
    name: str | None = None,
) -> Figure:
    """Layer x position heat map of the column `value`, for patching and tracing.

    The table has columns `layer` and `position`. `token_labels` are the decoded tokens of the prompt
    by position (untrusted text; negative positions count from their end); they stand under their
    columns, each with its position. None leaves a position with its number alone. The other arguments
    are those of `head_grid`.

    Raises:
        UnknownName: if a column does not exist.
        BadArgument: if the table is empty, has two rows for one cell, or a position without a label.
    """
    return _grid(table, value, "position", facet, (low, high, diverging), (title, caption, name), token_labels)


def _grid(
    table: Table,
    value: str,
    across: str,
    facet: str | None,
    ends: tuple[float | None, float | None, bool],
    words: tuple[str, str, str | None],
    tokens: Sequence[str | None] | None = None,
) -> Figure:
    """The heat map of layers down and the column `across`, which holds heads or positions."""
    rows = rows_of(table, f"a grid of {value!r}", "layer", across, value, facet)
    cells = [
        Cell(
            int(row["layer"]),
            Head.parse(row[across]).index if isinstance(row[across], str) else int(row[across]),
            "" if facet is None else legible(str(row[facet])),
            value_of(row[value]),
        )
        for row in rows
    ]
    counts = Counter((cell.row, cell.column, cell.facet) for cell in cells)
    (layer, column, own), count = counts.most_common(1)[0]
    if count > 1:
        raise BadArgument(
            f"cannot draw a grid of the table {table.name!r}: it has several rows for layer {layer}, "
            f"{across} {column}{f' of {own!r}' if facet else ''}. Keep one row per cell (table.where(...)), or pass "
            "facet= with the column that tells them apart."
        )
    labels = None if tokens is None else _position_labels(cells, tokens)
    frame = Frame(across if labels is None else "position and token", axis_title(table, value), labels)
    alt_text = _alt(table, value, cells, across, signed=ends[-1])
    svg = finish(heat_map(cells, frame, Scale.over(cells, *ends)))
    title, caption, name = words
    return Figure(name or f"{table.name}-{value}-by-{across}s", title, caption, alt_text, svg, table.name)


def _position_labels(cells: Sequence[Cell], tokens: Sequence[str | None]) -> tuple[str, ...]:
    first, last = min(cell.column for cell in cells), max(cell.column for cell in cells)
    if last >= len(tokens) or first < -len(tokens):
        raise BadArgument(
            f"cannot label positions {first} to {last}: token_labels has {len(tokens)} tokens. "
            "Pass the tokens of the whole prompt."
        )
    places = range(first, last + 1)
    shown = ["" if (token := tokens[position]) is None else visible(token) for position in places]
    short = [text if len(text) <= _LONGEST_TOKEN else text[: _LONGEST_TOKEN - 1] + "…" for text in shown]
    return tuple(f"{text} {position}".lstrip() for text, position in zip(short, places, strict=True))


def _alt(table: Table, value: str, cells: Sequence[Cell], across: str, *, signed: bool) -> str:
    place = "{row}.{column}" if across == "head" else "layer {row}, position {column}"
    layers = len({cell.row for cell in cells})
    columns = len({cell.column for cell in cells})
    facets = list(dict.fromkeys(cell.facet for cell in cells))
    extent = f"{layers} {'layer' if layers == 1 else 'layers'} and {columns} {across}s"
    sentences = [f"Heat map of {axis_title(table, value)} over {extent}."]
    for facet in facets:
        named = [
            (place.format(row=cell.row, column=cell.column), cell.value) for cell in cells if cell.facet == facet
        ]
        said = extremes(named, signed=signed or any(v < 0 for _, v in named if not math.isnan(v)))
        sentences.append(f"{facet}: {said}." if facet else f"{said[0].upper()}{said[1:]}.")
    return " ".join(sentences)
