"""Curves: a value over layers, positions or training steps, one line for each series.

In: a table and names of columns. Out: a finished Figure. Series differ by colour, by the shape of their points
and, past eight, by their dashes; intervals are bands. Where a value is undefined the line breaks: a line across the
gap would claim what was not measured. Not done here: smoothing of any kind.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt

from headscope.errors import BadArgument
from headscope.figures.theme import OKABE_ITO, finish
from headscope.figures.tokens import legible
from headscope.figures.words import axis_title, drawn, extremes, number, rows_of, value_of
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
    along: str | None = None,
    title: str,
    caption: str,
    name: str | None = None,
) -> Figure:
    """Lines of the column `y` over the column `x`, one for each value of `series`.

    `low` and `high` name the ends of the interval, in the unit of `y`. `log_x` spaces `x` by its
    logarithm, with 0 kept at the left end (training steps begin there). NaN breaks a line. `along` names a
    column in whose order points are joined, for paths through a plane; else they are joined from left to right.

    Raises:
        UnknownName: if a column does not exist.
        BadArgument: if the table is empty or has more series than can be told apart.
    """
    rows = rows_of(table, f"lines of {y!r}", x, y, series, low, high, along)
    shown = {"y": y} if low is None or high is None else {"y": y, "low": low, "high": high}
    records: list[dict[str, Any]] = [
        {
            "x": float(row[x]),
            "series": "" if series is None else legible(str(row[series])),
            **({} if along is None else {"along": float(row[along])}),
            **{name: drawn(row[column]) for name, column in shown.items()},
        }
        for row in rows
    ]
    names = list(dict.fromkeys(record["series"] for record in records))
    if len(names) > _MOST_SERIES:
        raise BadArgument(
            f"cannot draw {len(names)} lines of the table {table.name!r}: {_MOST_SERIES} can be told apart. "
            f"Keep fewer values of {series!r} (table.where(...)), or draw a grid."
        )
    legend = None if series is None else alt.Legend(title=series.replace("_", " "), symbolSize=70, symbolOpacity=1)
    chart = _chart(records, names, _x_axis(records, axis_title(table, x), log_x), axis_title(table, y), legend)
    alt_text = _alt(table, x, y, records, names)
    return Figure(name or f"{table.name}-{y}-over-{x}", title, caption, alt_text, finish(chart), table.name)


def _chart(
    records: Sequence[dict[str, Any]], names: Sequence[str], x: alt.X, y_title: str, key: alt.Legend | None
) -> alt.TopLevelMixin:
    def by_series(channel: Any, values: Sequence[Any]) -> Any:
        scale = alt.Scale(domain=list(names), range=[values[index % len(values)] for index in range(len(names))])
        return channel("series:N", sort=list(names), scale=scale, legend=key)

    base = alt.Chart().encode(x=x, color=by_series(alt.Color, OKABE_ITO))
    plain = alt.Axis(tickCount=6, domain=False, ticks=False)
    y = alt.Y("y:Q", title=y_title, scale=alt.Scale(zero=False), axis=plain)
    layers = []
    if "low" in records[0]:
        layers.append(base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q"))
    # The next kind of dash only when the colours are used up.
    dashed = by_series(alt.StrokeDash, [dash for dash in _DASHES for _ in OKABE_ITO])
    joined = {"order": alt.Order("along:Q")} if "along" in records[0] else {}
    layers.append(base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dashed, **joined))
    if max(Counter(record["series"] for record in records).values()) <= _MOST_POINTS:
        points = base.transform_filter("datum.y !== null").mark_point(size=34, filled=True, opacity=1)
        layers.append(points.encode(y=y, shape=by_series(alt.Shape, _SHAPES)))
    data = alt.InlineData(values=list(records))
    return alt.layer(*layers, data=data).properties(width=_WIDTH, height=_HEIGHT)


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
        first, last = (f"{number(value_of(end['y']))} at {number(end['x'])}" for end in (own[0], own[-1]))
        places = [(f"{x_title} {number(record['x'])}", value_of(record["y"])) for record in own]
        sentences.append(f"{name + ': ' if name else ''}from {first} to {last}; {extremes(places)}.")
    return " ".join(sentences)
