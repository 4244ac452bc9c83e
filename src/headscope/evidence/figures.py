"""Figures of samples: lines over an axis, and bars with intervals.

In: samples, and which of their axes is drawn how. Out: a finished Figure. The numbers are those of
`evidence.tables.table`; `name` is the table that the page shows beside the picture. Pictures of what is no sample
(grids of heads, attention, drawn puzzles) are made by `figures` from tables.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import polars as pl

from headscope import figures
from headscope.evidence.tables import Several, listing, table
from headscope.measures.samples import Cells, Samples
from headscope.results.study import Figure
from headscope.tables import Column

SERIES = Column("series", pl.String, "which line of the figure")


def lines(samples: Several, x: str, *, colour: str | None = None, name: str, title: str, caption: str) -> Figure:
    """Means over the axis `x` with their bounds as bands, one line for each value of the axis `colour`."""
    value, shown = listing(samples)[0].quantity.name, table(samples, name)
    return figures.lines(shown, x, value, colour, "low", "high", title=title, caption=caption, name=f"{name}-{x}")


def bars(
    samples: Several,
    label: str,
    *,
    colour: str | None = None,
    reference: Cells | None = None,
    name: str,
    title: str,
    caption: str,
) -> Figure:
    """Means with whiskers, one row for each value of the axis `label`, split by the axis `colour`.

    `reference` is what each bar is compared with (a null, the clean value): a stroke on it, named by its quantity.
    """
    return figures.bars_with_intervals(
        table(samples, name, beside=() if reference is None else (reference,)),
        label,
        listing(samples)[0].quantity.name,
        "low",
        "high",
        group=colour,
        reference=None if reference is None else reference.quantity.name,
        title=title,
        caption=caption,
        name=f"{name}-{label}",
    )


def series(drawn: Mapping[str, Samples], level: Mapping[str, Samples] = MappingProxyType({})) -> list[Samples]:
    """Samples of the same cells for a figure with `colour="series"`, each under its name in the legend.

    `level` are single cells that are drawn as level lines: what holds at every cell of the others.
    """
    first = next(iter(drawn.values()))
    every = dict(drawn)
    for name, one in level.items():
        values = np.repeat(one.linear, len(first), axis=1)
        every[name] = replace(one, axes=first.axes, cells=first.cells, values=values, counts=None)
    return [samples.labelled(SERIES, name) for name, samples in every.items()]


def joined(samples: Cells, name: Column, *axes: str) -> Cells:
    """Several axes of samples as one, their values written one after the other, for a legend or a label."""
    places = [samples.axis(axis) for axis in axes]
    kept = [i for i in range(len(samples.axes)) if i not in places]
    cells = tuple((" ".join(str(cell[i]) for i in places), *(cell[i] for i in kept)) for cell in samples.cells)
    return replace(samples, axes=(name, *(samples.axes[i] for i in kept)), cells=cells)
