"""The heat map under both kinds of grid: cells, numbers where they fit, a colour bar, undefined marked.

In: cells that already have a row, a column, a facet and a value. Out: an Altair chart. What is undefined
is grey with a stroke through it and says so in the legend; it never takes a colour of the scale, since
"we could not measure this" and "we measured 0" are different findings. What was not measured at all stays
blank. Not done here: which column of a table goes where (grids).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from headscope.figures.theme import (
    BLUE_ORANGE,
    CELL_EDGE,
    CIVIDIS,
    INKS,
    PAGE_WIDTH,
    UNDEFINED_FILL,
    UNDEFINED_STROKE,
    ink_on,
    ramp_scale,
)
from headscope.figures.words import drawn

_MOST_NUMBERED = 16  # more rows or columns than this carry no numbers
_DIGIT_WIDTH = 0.57  # of the font size, in Arial
_STROKE_PATH = "M-1,1L1,-1"


@dataclass(frozen=True)
class Cell:
    """One cell of a heat map; `value` is NaN where it is undefined."""

    row: int
    column: int
    facet: str
    value: float


@dataclass(frozen=True)
class Frame:
    """What surrounds the cells: what the columns are and their labels, and the title of the colour bar.

    `column_labels` are distinct and as many as there are columns. They enter the chart as values of the
    column, never as an expression: a token is untrusted text, and expressions are code.
    """

    column_title: str
    bar_title: str
    column_labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Scale:
    """Where the colours begin and end; `diverging` puts white at 0."""

    low: float
    high: float
    diverging: bool

    @classmethod
    def over(cls, cells: Sequence[Cell], low: float | None, high: float | None, diverging: bool) -> "Scale":
        """From the values where an end is not given; a diverging scale is symmetric about 0.

        An amount starts at 0 where all values allow it: a scale that starts at the smallest value
        paints noise in full colour.
        """
        values = [cell.value for cell in cells if not math.isnan(cell.value)] or [0.0]
        if diverging:
            reach = max(abs(low or 0.0), abs(high or 0.0)) or max(map(abs, values)) or 1.0
            return cls(-reach, reach, True)
        bottom = min(0.0, *values) if low is None else low
        top = max(values) if high is None else high
        return cls(bottom, top if top > bottom else bottom + 1.0, False)

    @property
    def ramp(self) -> tuple[str, ...]:
        return BLUE_ORANGE if self.diverging else CIVIDIS


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels that keep a grid within the page; `font` is 0 where numbers do not fit."""

    columns: int
    width: int
    height: int
    font: float

    @classmethod
    def for_grid(cls, rows: int, columns: int, facets: int, widest: int) -> "Layout":
        """For facets of `rows` x `columns` cells whose longest number has `widest` characters."""
        across = min(facets, 2 if facets in (2, 4) else 3)
        room = PAGE_WIDTH / across - (130 if across == 1 else 60)
        width = max(6, min(56, int(room / columns)))
        height = min(width, 30)
        font = min(11.0, (width - 5) / (max(widest, 1) * _DIGIT_WIDTH), height - 6)
        fits = font >= 8 and max(rows, columns) <= _MOST_NUMBERED and widest > 0
        return cls(across, width, height, font if fits else 0.0)


def heat_map(cells: Sequence[Cell], frame: Frame, scale: Scale) -> alt.TopLevelMixin:
    """The chart: one grid for each facet, in the order in which the facets first appear."""
    rows = range(min(cell.row for cell in cells), max(cell.row for cell in cells) + 1)
    columns = range(min(cell.column for cell in cells), max(cell.column for cell in cells) + 1)
    facets = list(dict.fromkeys(cell.facet for cell in cells))
    texts, layout = _fitted([cell.value for cell in cells], len(rows), len(columns), len(facets))
    named: dict[int, Any] = dict(zip(columns, frame.column_labels or columns, strict=True))
    records = [
        {**_record(cell, text, scale), "column": named[cell.column]} for cell, text in zip(cells, texts, strict=True)
    ]
    base = alt.Chart().encode(x=_column_axis(named, frame, layout), y=_row_axis(rows, layout))
    layers = [_filled(base, frame.bar_title, scale, len(rows) * layout.height)]
    if layout.font:
        layers += _numbers(base, layout.font)
    if any(math.isnan(cell.value) for cell in cells):
        layers += _undefined(base, layout)
    chart = alt.layer(*layers, data=alt.InlineData(values=records)).properties(
        width=len(columns) * layout.width, height=len(rows) * layout.height
    )
    if len(facets) == 1:
        return chart
    header = alt.Facet("facet:N", title=None, sort=facets)
    # Fewer facets than columns would leave an empty one, which Vega-Lite still reserves room for.
    return chart.facet(facet=header, columns=layout.columns, spacing=22).resolve_axis(x="independent")


def _fitted(values: Sequence[float], rows: int, columns: int, facets: int) -> tuple[list[str], Layout]:
    """Two decimals where they fit; one where values beyond 1 leave no room for two."""
    fine = number_texts(values)
    layout = Layout.for_grid(rows, columns, facets, max(map(len, fine)))
    if layout.font or max((abs(value) for value in values if not math.isnan(value)), default=0.0) < 2:
        return fine, layout
    coarse = number_texts(values, decimals=1)
    return coarse, Layout.for_grid(rows, columns, facets, max(map(len, coarse)))


def number_texts(values: Sequence[float], *, decimals: int = 2) -> list[str]:
    """All values with the same number of decimals, none from 10 on: as much as a cell can hold.

    The leading 0 goes, as in a table of correlations. Values so small that two decimals show nothing
    give empty texts: then the colour bar alone carries the numbers.

    >>> number_texts([0.931, -0.12, 0.004, float("nan")]), number_texts([12.3, 4.0])
    (['.93', '-.12', '.00', ''], ['12', '4.00'])
    """
    if max((abs(value) for value in values if not math.isnan(value)), default=0.0) < 0.02:
        return ["" for _ in values]
    return [_short(value, decimals) for value in values]


def _short(value: float, decimals: int) -> str:
    if math.isnan(value):
        return ""
    text = f"{value:.{0 if abs(value) >= 10 else decimals}f}"
    # A rounded -0.00 would claim a sign that the reader cannot see.
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _record(cell: Cell, text: str, scale: Scale) -> dict[str, Any]:
    undefined = math.isnan(cell.value)
    return {
        "row": cell.row,
        "facet": cell.facet,
        "value": drawn(cell.value),
        "state": "undefined" if undefined else "defined",
        "text": text,
        "ink": "" if undefined else ink_on(scale.ramp, scale.low, scale.high, cell.value),
    }


def _filled(base: alt.Chart, title: str, scale: Scale, height: float) -> alt.Chart:
    bar = alt.Legend(title=title, gradientLength=max(60, min(200, height)), gradientThickness=12, tickCount=4)
    fill = alt.Color("value:Q", scale=ramp_scale(scale.ramp, scale.low, scale.high), legend=bar)
    shown = base.transform_filter("datum.value !== null")
    return shown.mark_rect(stroke=CELL_EDGE, strokeWidth=0.5).encode(color=fill)


def _numbers(base: alt.Chart, font: float) -> list[alt.Chart]:
    # One layer for each ink: a second colour scale in the same chart would be merged with that of the cells.
    inked = [(ink, base.transform_filter({"field": "ink", "equal": ink})) for ink in INKS]
    return [own.mark_text(fontSize=font, color=ink).encode(text="text:N") for ink, own in inked]


def _undefined(base: alt.Chart, layout: Layout) -> list[alt.Chart]:
    missing = base.transform_filter("datum.value === null")
    side = min(layout.width, layout.height)
    legend = alt.Legend(title=None, symbolSize=90, symbolStrokeColor=UNDEFINED_STROKE)
    crossed = alt.Scale(domain=["undefined"], range=[_STROKE_PATH])
    stroke = alt.Shape("state:N", scale=crossed, legend=legend)
    mark = missing.mark_point(
        size=(0.6 * side) ** 2, stroke=UNDEFINED_STROKE, strokeWidth=1.2, opacity=1, filled=False
    )
    return [missing.mark_rect(fill=UNDEFINED_FILL, stroke=CELL_EDGE, strokeWidth=0.5), mark.encode(shape=stroke)]


def _row_axis(rows: range, layout: Layout) -> alt.Y:
    # Layer 0 on top, as in the attention view.
    axis = alt.Axis(values=_thinned(rows, layout.height), ticks=False, domain=False)
    return alt.Y("row:O", title="layer", scale=alt.Scale(domain=list(rows)), axis=axis)


def _column_axis(named: dict[int, Any], frame: Frame, layout: Layout) -> alt.X:
    shown = [named[column] for column in _thinned(named, layout.width)]
    plain = frame.column_labels is None
    # Upright labels reach further down in a wider font than the one that Vega measures with.
    turned = {"labelAngle": 0} if plain else {"labelAngle": -90, "titlePadding": 20}
    axis = alt.Axis(values=shown, ticks=False, domain=False, **turned)
    return alt.X("column:O", title=frame.column_title, scale=alt.Scale(domain=list(named.values())), axis=axis)


def _thinned(values: Iterable[int], size: float) -> list[int]:
    """Every value where a label fits its cell, else every second, fifth, tenth ..."""
    step = next((step for step in (1, 2, 4, 8, 16, 32) if size * step >= 13), 64)
    return [value for value in values if value % step == 0]
