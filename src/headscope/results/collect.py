"""Sweeps as tables: runs cells, files each under its coordinates with an interval, and keeps a record if asked.

In: model, prompts, cells or a grid, a measure; perhaps a folder. Out: one row per cell: mean over prompts and its
bounds. What the folder holds, of cells and of parts of their prompts, is not run again. With a precision, batches of
prompts are added until every interval is that narrow. Approximate sweeps estimate all cells to first order and run
those of the largest effect.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from headscope.errors import BadArgument
from headscope.hashing import digest, digests, outlines
from headscope.measures.intervals import interval
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.results import record
from headscope.results.provenance import circumstances
from headscope.results.record import Examples, Record, Values
from headscope.sweeps import Cell, Grid
from headscope.sweeps.attribution import verified
from headscope.sweeps.execute import run_by_part
from headscope.sweeps.naive import CellResult, require_meaning, with_own_position
from headscope.sweeps.sweep import Sweep
from headscope.tables import Column, Schema, Table
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import Head, Progress, silent

SWEEP = Schema(
    "sweep",
    (
        Column("layer", pl.Int64, "layer that is acted on; empty if not an axis"),
        Column("head", pl.String, "head that is acted on, as in 1.4; empty if not an axis"),
        Column("position", pl.Int64, "position that is acted on; empty if not an axis"),
        Column("intervention", pl.String, "what is done there"),
        Column("measure", pl.String, "what is measured"),
        Column("value", pl.Float64, "mean of the measure over prompts", "unit of the measure"),
        Column("low", pl.Float64, "lower 95% bound over prompts", "unit of the measure"),
        Column("high", pl.Float64, "upper 95% bound over prompts", "unit of the measure"),
        Column("prompts", pl.Int64, "prompts behind the mean"),
        Column("path", pl.String, "how the cell was run; see sweeps.execute"),
        Column("note", pl.String, "why a faster way was left; empty otherwise"),
    ),
)
APPROXIMATE = Schema(
    "approximate sweep",
    (*SWEEP.columns, Column("estimate", pl.Float64, "first-order estimate of the value", "unit of the measure")),
)
# Batches of prompts that are tried for a precision before it is given up.
MOST_BATCHES = 40


def sweep(
    model: Model,
    prompts: PromptsLike,
    cells: Grid | Sequence[Cell],
    measure: Measure,
    *,
    base_interventions: Sequence[Edit] = (),
    out: Path | str | None = None,
    progress: Progress = silent,
    approximate: bool = False,
    verify_top: int = 0,
) -> Table:
    """Apply every cell's interventions to the same prompts and measure.

    `base_interventions` hold in every cell, before its own. `out` is a folder that keeps what is finished
    (results.record): run again, the sweep goes on there. `progress("cells", done, of)` is called before the first
    cell, and after each on each part of the prompts; `done` counts cells by their share of the prompts.
    `approximate` estimates all cells from one forward and one backward pass and runs the `verify_top` of largest
    mean change; the column `path` says which a row is.

    >>> cells = hs.grid(hs.patch("resid_pre", source=clean), layers="all", positions="all")   # doctest: +SKIP
    >>> hs.sweep(model, corrupted, cells, measure=hs.measures.logit_difference())             # doctest: +SKIP

    Raises:
        BadArgument: if cells are no cells, the measure is no measure, or cells that cannot be estimated are to be.
        OutputExists: if the folder holds something else.
        Partial: if the disk is full; what was finished is kept.
    """
    checked = model.prompts(prompts)
    asked = Sweep(model, checked, _cells_on(model, checked, cells), measure, base_interventions)
    if approximate and out is not None:
        raise BadArgument(
            "cannot keep approximate values in a folder, where they would pass for exact ones: leave out= or "
            "approximate= away."
        )
    if approximate:
        return sweep_approximately(asked, verify_top=verify_top, progress=progress)
    if verify_top:
        raise BadArgument(
            f"cannot verify the top {verify_top} of a sweep that is exact: pass approximate=True, or leave "
            "verify_top= away."
        )
    return sweep_batches(lambda _: asked, out=out, progress=progress)


def _cells_on(model: Model, prompts: Prompts, cells: Grid | Sequence[Cell]) -> list[Cell]:
    if isinstance(cells, Grid):
        return cells.cells(model.n_layers, model.heads, min(prompts.lengths))
    wrong = [cell for cell in cells if not isinstance(cell, Cell)]
    if wrong:
        raise BadArgument(
            f"cannot sweep over {named(wrong[0])}: it is no cell. Build cells with hs.grid(..., layers=...)."
        )
    return list(cells)


def sweep_batches(
    batches: Callable[[int], Sweep],
    *,
    precision: float | None = None,
    out: Path | str | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Table:
    """A sweep over batch 0, and over as many more as it takes until every 95% interval is within `precision`.

    The cells of all batches stand in the same order. `precision` is half of the widest interval, in the unit of the
    measure. Looking again after each batch makes intervals that stopped it a little too narrow. Without a precision
    there is one batch.

    Raises:
        BadArgument: if the measure is no measure, or the precision not above 0.
    """
    if precision is not None and not precision > 0:
        raise BadArgument(f"cannot sweep to a precision of {precision}: give a number above 0.")
    shown = [batches(0)]
    check(shown[0])
    with keeping(shown[0], out, command) as kept:
        values = [run_kept(shown[0], 0, kept, progress)]
        while precision is not None and len(shown) < MOST_BATCHES and _widest(values) > precision:
            more = batches(len(shown))
            if any(more.prompts.tokens == before.prompts.tokens for before in shown):
                raise BadArgument(
                    "cannot add prompts until the precision is reached: there are no others than these. Leave the "
                    "precision away, or use prompts that are generated from a seed."
                )
            shown.append(more)
            if kept is not None:
                kept.add_prompts(_recipe(shown[-1].prompts))
            values.append(run_kept(shown[-1], len(shown) - 1, kept, progress))
        table = SWEEP.table(_rows(shown[0], values))
        if kept is not None:
            kept.finish(table)
    return table


def check(sweep: Sweep) -> None:
    """Raise for what the model or the prompts do not have, before anything is run or written."""
    if not isinstance(sweep.measure, Measure):
        raise BadArgument(
            f"cannot sweep with the measure {named(sweep.measure)}: give a measure, for example hs.measures.loss()."
        )
    require_meaning(sweep.model, [sweep.measure])
    # What the measure would raise on these prompts, by the logits of nothing.
    first = slice(0, 1)
    prompts = with_own_position(sweep.prompts.rows(first), sweep.cells[0].position if sweep.cells else None)
    sweep.measure.rows(first)(torch.zeros(1, prompts.longest, sweep.model.vocab_size), prompts)
    for edit in itertools.chain.from_iterable(cell.interventions for cell in sweep.cells):
        for given in edit.targets:
            for target in given.within(sweep.model):
                target.check(sweep.model, edit.verb)
        sweep.prompts.check(edit.positions)


def sweep_approximately(sweep: Sweep, *, verify_top: int = 0, progress: Progress = silent) -> Table:
    """A sweep to first order, in which the `verify_top` cells of largest mean change are run.

    Raises:
        BadArgument: if the measure is none or has no gradient, a cell cannot be estimated, or fewer than 0 are
            to be run.
    """
    check(sweep)
    if verify_top < 0:
        raise BadArgument(f"cannot verify the top {verify_top} cells: give a whole number from 0.")
    progress("cells", 0, len(sweep.cells))
    ran: dict[int, CellResult] = {}
    estimates: dict[int, float] = {}
    for result, estimate in verified(sweep, verify_top):
        ran[result.index] = result
        estimates[result.index] = float(interval(estimate.numpy()).mean)
        progress("cells", len(ran), len(sweep.cells))
    rows = _rows(sweep, [[ran[index] for index in range(len(sweep.cells))]])
    return APPROXIMATE.table({**row, "estimate": estimates[index]} for index, row in enumerate(rows))


def run_kept(
    sweep: Sweep,
    number: int,
    kept: Record | None,
    progress: Progress,
    *,
    names: Sequence[str] = (),
    examples: Examples | None = None,
) -> list[CellResult]:
    """Every cell of a batch, in order; what is in the record is taken from there.

    Where the sweep is some of a batch, in another order, `names` are those of its cells in the record, and
    `examples` the numbers of its prompts in the batch.
    """
    names, prompts = names or digests(sweep.cells), len(sweep.prompts)
    examples = np.arange(prompts, dtype=np.int32) if examples is None else examples
    values = np.full((len(names), prompts), np.nan)
    known = np.zeros(values.shape, dtype=bool)
    if kept is not None:
        for index, name in enumerate(names):
            values[index], known[index] = kept.take(number, name, examples)
    finished = int(known.sum())
    progress("cells", finished // prompts, len(names))
    left = np.flatnonzero(~known.all(axis=1)).tolist()
    how = [("record", "")] * len(names)
    for rows, result in run_by_part(sweep.of(left), lambda index, rows: bool(known[left[index], rows].all())):
        index = left[result.index]
        finished += int((~known[index, rows]).sum())
        values[index, rows], known[index, rows] = result.values.numpy(), True
        how[index] = result.path, result.note
        if kept is not None:
            kept.add(number, names[index], examples[rows], result.values.numpy())
        progress("cells", finished // prompts, len(names))
    own = enumerate(zip(sweep.cells, values, how, strict=True))
    return [CellResult(cell, torch.from_numpy(row), index, *told) for index, (cell, row, told) in own]


def _widest(values: Sequence[Sequence[CellResult]]) -> float:
    """Half of the widest interval of any cell."""
    if not values[0]:
        return 0.0
    joined = np.stack([_joined(values, cell) for cell in range(len(values[0]))], axis=1)
    if np.isnan(joined).any():
        raise BadArgument(
            "cannot add prompts until the precision is reached: the measure is undefined for some of them. Measure "
            "where every prompt has a position."
        )
    estimate = interval(joined)
    # Too few prompts for an interval are not narrow.
    return float(np.nan_to_num((estimate.high - estimate.low) / 2, nan=np.inf).max())


def _joined(values: Sequence[Sequence[CellResult]], cell: int) -> Values:
    return np.concatenate([batch[cell].values.numpy() for batch in values])


def _rows(sweep: Sweep, values: Sequence[Sequence[CellResult]]) -> list[dict[str, Any]]:
    rows = []
    for index, cell in enumerate(sweep.cells):
        joined = _joined(values, index)
        estimate, missing = interval(joined), int(np.isnan(joined).sum())
        undefined = f"undefined for {missing} of {len(joined)} prompts, so there is no mean" if missing else ""
        rows.append(
            {
                "layer": cell.layer,
                "head": head_of(cell),
                "position": cell.position,
                "intervention": str(cell),
                "measure": sweep.measure.name,
                "value": float(estimate.mean),
                "low": float(estimate.low),
                "high": float(estimate.high),
                "prompts": estimate.n,
                "path": values[0][index].path,
                "note": undefined or values[0][index].note,
            }
        )
    return rows


def head_of(cell: Cell) -> str | None:
    """The head that a cell is filed under, if it is."""
    return None if cell.layer is None or cell.head is None else str(Head(cell.layer, cell.head))


@contextmanager
def keeping(sweep: Sweep, out: Path | str | None, command: str) -> Iterator[Record | None]:
    """The record that a sweep keeps, if it keeps one."""
    if out is None:
        yield None
        return
    measure, cells = sweep.measure, sweep.cells
    everywhere = (*sweep.model.active_edits, *sweep.base_interventions)
    base = {
        **circumstances(sweep.model),
        "measure": {"name": measure.name, "version": measure.version, "hash": digest(measure)},
        "interventions in every cell": {"hash": digest(everywhere), "done": list(map(str, everywhere))},
        "command": command,
    }
    names = digests(cells)
    described = [{"hash": name, **outline} for name, outline in zip(names, outlines(cells), strict=True)]
    with record.opened(Path(out), base, _recipe(sweep.prompts), described) as kept:
        yield kept


def _recipe(prompts: Prompts) -> Mapping[str, Any]:
    return {**prompts.made_by, "count": len(prompts), "hash": digest(prompts)}


def named(given: object) -> str:
    """A value as a message shows it: a function by its name, anything else as it is written."""
    return repr(getattr(given, "__name__", None) or str(given))
