"""Sweeps as tables: `sweep` runs cells and files each under its coordinates, with an interval.

In: model, prompts, cells or a grid, a measure. Out: one row per cell: mean over prompts and its bounds.
"""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from headscope.errors import BadArgument
from headscope.measures.intervals import interval
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps import execute
from headscope.sweeps.grid import Cell, Grid
from headscope.tables import Column, Schema, Table
from headscope.tasks.prompts import PromptsLike

SWEEP = Schema(
    "sweep",
    (
        Column("layer", pl.Int64, "layer that is acted on; empty if not an axis"),
        Column("head", pl.Int64, "head that is acted on; empty if not an axis"),
        Column("position", pl.Int64, "position that is acted on; empty if not an axis"),
        Column("intervention", pl.String, "what is done there"),
        Column("measure", pl.String, "what is measured"),
        Column("value", pl.Float64, "mean of the measure over prompts", "unit of the measure"),
        Column("low", pl.Float64, "lower 95% bound over prompts", "unit of the measure"),
        Column("high", pl.Float64, "upper 95% bound over prompts", "unit of the measure"),
        Column("prompts", pl.Int64, "prompts behind the mean"),
    ),
)


def sweep(
    model: Model,
    prompts: PromptsLike,
    cells: Grid | Sequence[Cell],
    measure: Measure,
    *,
    under: Sequence[Edit] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Table:
    """Apply every cell's interventions to the same prompts and measure.

    `under` are interventions that hold in every cell, before its own. `progress(done, of)` is called after
    each cell.

    >>> cells = hs.grid(hs.patch("resid_pre", source=clean), layers="all", positions="all")   # doctest: +SKIP
    >>> hs.sweep(model, corrupted, cells, measure=hs.measures.logit_difference())             # doctest: +SKIP

    Raises:
        BadArgument: if cells are no cells, or the measure is no measure.
    """
    if not isinstance(measure, Measure):
        raise BadArgument(
            f"cannot sweep with the measure {_named(measure)}: give a measure, for example hs.measures.loss()."
        )
    wrong = [] if isinstance(cells, Grid) else [cell for cell in cells if not isinstance(cell, Cell)]
    if wrong:
        raise BadArgument(
            f"cannot sweep over {_named(wrong[0])}: it is no cell. Build cells with hs.grid(..., layers=...)."
        )
    checked = model.prompts(prompts)
    if isinstance(cells, Grid):
        cells = cells.cells(model.n_layers, model.heads, min(checked.lengths))
    rows: dict[int, dict[str, Any]] = {}
    for result in execute(model, checked, cells, measure, under=under):
        estimate = interval(result.values.numpy())
        rows[result.index] = {
            "layer": result.cell.layer,
            "head": result.cell.head,
            "position": result.cell.position,
            "intervention": "; ".join(map(str, result.cell.interventions)),
            "measure": measure.name,
            "value": float(estimate.mean),
            "low": float(estimate.low),
            "high": float(estimate.high),
            "prompts": estimate.n,
        }
        if progress is not None:
            progress(len(rows), len(cells))
    return SWEEP.table(rows[index] for index in sorted(rows))


def _named(given: object) -> str:
    """A value as a message shows it: a function by its name, anything else as it is written."""
    return repr(getattr(given, "__name__", None) or str(given))
