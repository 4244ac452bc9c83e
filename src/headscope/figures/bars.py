"""Bars with intervals: one value per row, what it could also be, and what it is compared with.

In: a table and the names of its columns. Out: a finished Figure. Rows stand in the order of the table,
since a sorted table says what it is sorted by and a chart that sorts again does not. The interval is a
whisker over the bar; a reference (a null, the value before an intervention) is an upright stroke on it,
so that "is the interval beyond the null" is one look. Not done here: computing either.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt

from headscope.figures.theme import INK, LINE, MUTED, OKABE_ITO, finish, wrapped
from headscope.figures.tokens import legible
from headscope.figures.words import axis_title, column_of, drawn, extremes, number, rows_of, value_of
from headscope.results.study import Figure
from headscope.tables import Table

_UPRIGHT = "M0,-1L0,1"
_WIDTH = 560
_LINE_HEIGHT = 13  # of a label, in pixels
# Bars in colours of a ramp that a whisker in dark ink can be seen on.
_BAR_OPACITY = 0.55


def bars_with_intervals(
    table: Table,
    label: str,
    value: str,
    low: str | None = None,
    high: str | None = None,
    *,
    group: str | None = None,
    reference: str | float | None = None,
    reference_name: str = "",
    title: str,
    caption: str,
    name: str | None = None,
) -> Figure:
    """Horizontal bars of the column `value`, named by `label`, in the order of the table.

    `low` and `high` name the ends of the interval, in the unit of `value`. `group` names a column that
    splits each label into several bars, told apart by colour and by their order. `reference` names a
    column with the value that each row is compared with, or is one number for all; the legend calls it
    `reference_name`, else by the column's words or the number. A row whose value is NaN keeps its place
    and reads "undefined".

    Raises:
        UnknownName: if a column does not exist.
        BadArgument: if the table is empty.
    """
    per_row = reference if isinstance(reference, str) else None
    rows = rows_of(table, f"bars of {value!r}", label, value, low, high, group, per_row)
    mark = legible(reference_name) or _reference_words(table, value, reference)
    numbers = {"value": value, "low": low, "high": high, "reference": reference}
    records = [
        {
            "label": legible(str(row[label])),
            "group": "" if group is None else legible(str(row[group])),
            "mark": mark,
            **{key: drawn(row[given] if isinstance(given, str) else given) for key, given in numbers.items()},
        }
        for row in rows
    ]
    alt_text = _alt(table, value, records, grouped=group is not None, compared=reference is not None)
    chart = _chart(records, axis_title(table, value), mark, group)
    return Figure(name or f"{table.name}-{value}-bars", title, caption, alt_text, finish(chart), table.name)


def _reference_words(table: Table, value: str, reference: str | float | None) -> str:
    if isinstance(reference, str):
        return axis_title(table, reference)
    return "" if reference is None else f"{number(reference)} {column_of(table, value).unit}".rstrip()


def _chart(
    records: Sequence[dict[str, Any]], value_title: str, reference_title: str, group: str | None
) -> alt.TopLevelMixin:
    groups = list(dict.fromkeys(record["group"] for record in records))
    placed, height = _placed(records, groups)
    base = alt.Chart().encode(y=_row("middle"))
    zero = alt.Chart().mark_rule(color=LINE).encode(x=alt.datum(0, type="quantitative"))
    names = base.transform_filter("datum.first").mark_text(align="right", baseline="middle", color=INK)
    labels = names.encode(y=_row("named"), x=alt.value(-4), text="label:N")
    layers = [_bars(base, value_title, group, groups), zero, labels, _undefined(base)]
    if any(record["low"] is not None for record in records):
        layers += _whiskers(base)
    if any(record["reference"] is not None for record in records):
        layers.append(_references(base, reference_title, placed[0]["bottom"] - placed[0]["top"]))
    return alt.layer(*layers, data=alt.InlineData(values=placed)).properties(width=_WIDTH, height=height)


def _row(place: str) -> alt.Y:
    """A place in pixels: without a scale, a number is one."""
    return alt.Y(f"{place}:Q", scale=None, axis=None)


def _placed(records: Sequence[dict[str, Any]], groups: Sequence[str]) -> tuple[list[dict[str, Any]], float]:
    """Every bar with its place in pixels, and the height of all: those of one label stand together about it.

    A nested scale would leave a gap for each group that a label lacks, and draw bars off the middle of their band.
    """
    labelled: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda record: groups.index(record["group"])):
        labelled.setdefault(record["label"], []).append(record)
    bar, gap = (17, 5) if len(labelled) == len(records) else (12, 10)
    placed, top = [], gap / 2
    for label in dict.fromkeys(record["label"] for record in records):
        own = labelled[label]
        below = wrapped(label).count("\n") * _LINE_HEIGHT
        room = max(bar * len(own), below + _LINE_HEIGHT)
        start, named = top + (room - bar * len(own)) / 2, top + (room - below) / 2
        for index, record in enumerate(own):
            place = {"top": start + 0.5, "middle": start + bar / 2, "bottom": start + bar - 0.5}
            placed.append({**record, **place, "named": named, "first": index == 0})
            start += bar
        top += room + gap
    return placed, top - gap / 2


def _bars(base: alt.Chart, title: str, group: str | None, groups: Sequence[str]) -> alt.Chart:
    colours = [OKABE_ITO[index % len(OKABE_ITO)] for index in range(len(groups))]
    legend = None if group is None else alt.Legend(title=group.replace("_", " "), symbolType="square")
    scale = alt.Scale(domain=list(groups), range=colours)
    fill = alt.Fill("group:N", sort=list(groups), scale=scale, legend=legend)
    axis = alt.Axis(grid=True, tickCount=6, domain=False, ticks=False, labelFlush=False)
    x = alt.X("value:Q", title=title, axis=axis)
    outline = alt.Stroke("group:N", sort=list(groups), scale=scale, legend=None)
    bar = base.mark_bar(fillOpacity=_BAR_OPACITY, strokeWidth=1, orient="horizontal")
    return bar.encode(y=_row("top"), y2="bottom:Q", x=x, x2=alt.datum(0), fill=fill, stroke=outline)


def _whiskers(base: alt.Chart) -> list[alt.Chart]:
    shown = base.transform_filter("datum.low !== null && datum.high !== null")
    end = shown.mark_tick(orient="vertical", color=INK, thickness=1.3, size=5)
    rule = shown.mark_rule(color=INK, strokeWidth=1.3).encode(x="low:Q", x2="high:Q")
    return [rule, end.encode(x="low:Q"), end.encode(x="high:Q")]


def _references(base: alt.Chart, title: str, length: float) -> alt.Chart:
    legend = alt.Legend(title=None, symbolSize=110, symbolStrokeColor=INK, symbolStrokeWidth=2)
    upright = alt.Scale(domain=[title], range=[_UPRIGHT])
    stroke = alt.Shape("mark:N", scale=upright, legend=legend)
    shown = base.transform_filter("datum.reference !== null")
    mark = shown.mark_point(stroke=INK, strokeWidth=2, size=length**2, opacity=1, filled=False, strokeDash=[2, 1.5])
    return mark.encode(x="reference:Q", shape=stroke)


def _undefined(base: alt.Chart) -> alt.Chart:
    missing = base.transform_filter("datum.value === null")
    return missing.mark_text(text="undefined", align="left", dx=4, color=MUTED, fontStyle="italic").encode(
        x=alt.datum(0, type="quantitative")
    )


def _alt(table: Table, value: str, records: Sequence[dict[str, Any]], *, grouped: bool, compared: bool) -> str:
    named = [
        (f"{record['label']}, {record['group']}" if grouped else record["label"], value_of(record["value"]))
        for record in records
    ]
    signed = any(shown < 0 for _, shown in named)
    sentences = [f"Bars of {axis_title(table, value)}, {len(records)} rows: {extremes(named, signed=signed)}."]
    if compared:
        judged = [r for r in records if None not in (r["low"], r["high"], r["reference"])]
        beyond = [r for r in judged if not r["low"] <= r["reference"] <= r["high"]]
        if judged:
            sentences.append(f"{len(beyond)} of {len(judged)} intervals exclude their reference.")
    return " ".join(sentences)
