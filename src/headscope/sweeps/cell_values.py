"""Values of many cells as one tensor: what studies take from a sweep.

In: a model, prompts, cells, a measure. Out: values or damages [cell, example], in the order of the cells,
whatever the order in which the engine was done with them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.errors import BadArgument
from headscope.hashing import digests
from headscope.measures.readouts import Measure
from headscope.models.kept import Keeper
from headscope.models.model import Model
from headscope.sweeps.execute import run_by_part
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import evaluate
from headscope.sweeps.sweep import Sweep
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Progress, silent


def cell_values(
    model: Model, prompts: Prompts, cells: Sequence[Cell], measure: Measure, *, progress: Progress = silent
) -> Tensor:
    """The measure under every cell, float64 [cell, example]."""
    values = torch.empty(len(cells), len(prompts), dtype=torch.float64)
    keeper = Keeper("cells", model, prompts, measure)
    names = _names(cells) if keeper.keeps else []
    known: set[tuple[int, int]] = set()  # by cell and first example
    done = 0

    def taken(index: int, rows: slice) -> bool:
        """Whether an earlier process ran this cell on these prompts; its values then stand in their place."""
        if names and (index, rows.start) not in known:
            found = keeper.take(f"{names[index]} {rows.start} {rows.stop}")
            if found is None:
                return False
            values[index, rows] = found[0]
            known.add((index, rows.start))
        return bool(names)

    if cells:
        progress("cells", done, len(cells))
    for rows, result in run_by_part(Sweep(model, prompts, cells, measure), taken):
        values[result.index, rows] = result.values
        if names:
            keeper.put([result.values], f"{names[result.index]} {rows.start} {rows.stop}")
        done += len(result.values)
        progress("cells", done // len(prompts), len(cells))
    return values


def _names(cells: Sequence[Cell]) -> list[str]:
    """A name of each cell by what is done in it; none at all where something cannot be written down."""
    try:
        return digests(cells)
    except BadArgument:
        return []


def damages(
    model: Model, prompts: Prompts, cells: Sequence[Cell], measure: Measure, *, progress: Progress = silent
) -> Tensor:
    """How much every cell harms the measure, float64 [cell, example]; see `Measure.damage`."""
    (clean,) = evaluate(model, prompts, [measure])
    return measure.damage(clean, cell_values(model, prompts, cells, measure, progress=progress))
