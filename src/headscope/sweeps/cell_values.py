"""Values of many cells as one tensor: what studies take from a sweep.

In: a model, prompts, cells, a measure. Out: values or damages [cell, example], in the order of the cells,
whatever the order in which the engine was done with them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.measures.readouts import Measure
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
    return values_of(model, prompts, cells, [measure], progress=progress)[0]


def values_of(
    model: Model, prompts: Prompts, cells: Sequence[Cell], measures: Sequence[Measure], *, progress: Progress = silent
) -> Tensor:
    """Several measures that are read at the same place, float64 [measure, cell, example], at the price of one."""
    values = torch.empty(len(measures), len(cells), len(prompts), dtype=torch.float64)
    done, (first, *beside) = 0, measures
    if cells:
        progress("cells", done, len(cells))
    for rows, result in run_by_part(Sweep(model, prompts, cells, first, beside=tuple(beside))):
        values[:, result.index, rows] = torch.stack([result.values, *result.beside])
        done += len(result.values)
        progress("cells", done // len(prompts), len(cells))
    return values


def damages(
    model: Model, prompts: Prompts, cells: Sequence[Cell], measure: Measure, *, progress: Progress = silent
) -> Tensor:
    """How much every cell harms the measure, float64 [cell, example]; see `Measure.damage`."""
    (clean,) = evaluate(model, prompts, [measure])
    return measure.damage(clean, cell_values(model, prompts, cells, measure, progress=progress))
