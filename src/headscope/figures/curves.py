"""Curves: a value over layers, positions or training steps, one line for each series.

In: a table and the names of its columns. Out: a finished Figure. Series differ by colour, by the shape
of their points and, past eight, by their dashes; intervals are bands. Where a value is undefined the
line breaks and nothing is drawn: a line across the gap would claim what was not measured. Not done here:
smoothing of any kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from headscope.errors import BadArgument
from headscope.figures.theme import OKABE_ITO, finish
from headscope.figures.tokens import legible
from headscope.figures.words import axis_title, extremes, number, rows_of, value_of
from headscope.results.study import Figure
from headscope.tables import Table

_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
_DASHES = ([1, 0], [6, 3], [2, 2])
_MOST_SERIES = len(OKABE_ITO) * len(_DASHES)
_MOST_POINTS = 40  # on one line; beyond it the marks would hide it
_MOST_TICKS = 12
_WIDTH, _HEIGHT = 620, 300


def lines(
    table: Table,
    x: str,
    y: str,
    series: str | None = None,
    low: str | None = None,
    high: str | None = None,
    *,
    log_x: bool = False,
    title: str,
    caption: str,
    name: str | None = None,
) -> Figure:
    """Lines of the column `y` over the column `x`, one for each value of `series`.

    `low` and `high` name the ends of the interval, in the unit of `y`. `log_x` spaces `x` by its
    logarithm, with 0 kept at the left end (training steps begin there). NaN breaks a line.

    Raises:
        UnknownName: if a column does not exist.
        BadArgument: if the table is empty or has more series than can be told apart.
    """
    rows = rows_of(table, f"lines of {y!r}", x, y, series, low, high)
    records = [_record(row, (x, y, series, low, high)) for row in rows]
    names = list(dict.fromkeys(record["series"] for record in records))
    if len(names) > _MOST_SERIES:
        raise BadArgument(
            f"cannot draw {len(names)} lines of the table {table.name!r}: {_MOST_SERIES} can be told apart. "
            f"Keep fewer values of {series!r} (table.where(...)), or draw a grid."
        )
    legend = None if series is None else series.replace("_", " ")
    chart = _chart(records, names, _Titles(axis_title(table, x), axis_title(table, y), legend), log_x)
    alt_text = _alt(table, x, y, records, names)
    return Figure(name or f"{table.name}-{y}-over-{x}", title, caption, alt_text, finish(chart), table.name)


@dataclass(frozen=True)
class _Titles:
    x: str
    y: str
    series: str | None


def _record(row: dict[str, Any], columns: tuple[str, str, str | None, str | None, str | None]) -> dict[str, Any]:
    x, y, series, low, high = columns
    numbers = {"y": value_of(row[y])}
    if low is not None and high is not None:
        numbers |= {"low": value_of(row[low]), "high": value_of(row[high])}
    # JSON has no NaN; null is what breaks a line.
    shown = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    return {"x": float(row[x]), "series": "" if series is None else legible(str(row[series])), **shown}


def _chart(
    records: Sequence[dict[str, Any]], names: Sequence[str], titles: _Titles, log_x: bool
) -> alt.TopLevelMixin:
    count = len(OKABE_ITO)
    key = None if titles.series is None else alt.Legend(title=titles.series, symbolSize=70, symbolOpacity=1)

    def by_series(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=list(names), range=list(values))

    colours = by_series([OKABE_ITO[index % count] for index in range(len(names))])
    dashes = by_series([_DASHES[index // count] for index in range(len(names))])
    shapes = by_series([_SHAPES[index % len(_SHAPES)] for index in range(len(names))])
    colour = alt.Color("series:N", sort=list(names), scale=colours, legend=key)
    base = alt.Chart().encode(x=_x_axis(records, titles.x, log_x), color=colour)
    plain = alt.Axis(tickCount=6, domain=False, ticks=False)
    y = alt.Y("y:Q", title=titles.y, scale=alt.Scale(zero=False), axis=plain)
    layers = []
    if "low" in records[0]:
        layers.append(base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=titles.y), y2="high:Q"))
    dashed = alt.StrokeDash("series:N", sort=list(names), scale=dashes, legend=key)
    layers.append(base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dashed))
    if max(_lengths(records).values()) <= _MOST_POINTS:
        shape = alt.Shape("series:N", sort=list(names), scale=shapes, legend=key)
        points = base.transform_filter("datum.y !== null").mark_point(size=34, filled=True, opacity=1)
        layers.append(points.encode(y=y, shape=shape))
    data = alt.InlineData(values=list(records))
    return alt.layer(*layers, data=data).properties(width=_WIDTH, height=_HEIGHT)


def _lengths(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for record in records:
        lengths[record["series"]] = lengths.get(record["series"], 0) + 1
    return lengths


def _x_axis(records: Sequence[dict[str, Any]], title: str, log_x: bool) -> alt.X:
    values = [record["x"] for record in records]
    whole = all(value == int(value) for value in values)
    axis: dict[str, Any] = {"grid": False, "tickCount": 10}
    if whole:
        axis |= {"format": ",d"}
        # Between few whole numbers Vega puts ticks at halves and writes them rounded: 1, 2, 2.
        if len(set(values)) <= _MOST_TICKS:
            axis["values"] = sorted(set(values))
    scale = alt.Scale(zero=False, nice=False, padding=8)
    if log_x:
        # symlog is the logarithm that has a place for 0; its own ticks are those of a linear axis.
        scale = alt.Scale(type="symlog", nice=False, padding=8)
        powers = [float(10**power) for power in range(0, 13) if 10**power <= max(values)]
        axis["values"] = ([0.0] if min(values) <= 0 else []) + [p for p in powers if p >= min(values)]
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(**axis))


def _alt(table: Table, x: str, y: str, records: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    x_title = axis_title(table, x)
    sentences = [f"Lines of {axis_title(table, y)} over {x_title}."]
    for name in names:
        own = sorted((record for record in records if record["series"] == name), key=lambda r: r["x"])
        first, last = own[0], own[-1]
        course = (
            f"from {number(value_of(first['y']))} at {number(first['x'])} "
            f"to {number(value_of(last['y']))} at {number(last['x'])}"
        )
        places = [(f"{x_title} {number(record['x'])}", value_of(record["y"])) for record in own]
        sentences.append(f"{name + ': ' if name else ''}{course}; {extremes(places)}.")
    return " ".join(sentences)
