"""The naive runner: one full forward pass for every cell. Slow, obviously right, and the reference.

In: a model, prompts, cells and a measure. Out: one row of per-example values for each cell, in order.
Every faster engine must agree with this one. Prompts are run a few rows at a time, so that the logits of
a large vocabulary fit in memory; nothing else is clever here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps.grid import Cell
from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class CellResult:
    """The measure of every example under one cell's interventions, float64 [example]."""

    cell: Cell
    values: Tensor


def execute(model: Model, prompts: Prompts, cells: Iterable[Cell], measure: Measure) -> Iterator[CellResult]:
    """Run every cell with a full forward pass and yield its values as they come."""
    for cell in cells:
        yield CellResult(cell, evaluate(model, prompts, [measure], cell.interventions)[0])


def evaluate(
    model: Model, prompts: Prompts, measures: Sequence[Measure], interventions: Sequence[Edit] = ()
) -> list[Tensor]:
    """Several measures of the same forward passes: float64 [example] each, on the CPU."""
    # Logits in float32, and once more as log-probabilities.
    step = max(1, model.memory_bytes // (8 * model.vocab_size * prompts.longest))
    parts: list[list[Tensor]] = [[] for _ in measures]
    for start in range(0, len(prompts), step):
        rows = slice(start, min(start + step, len(prompts)))
        whole = start == 0 and rows.stop == len(prompts)
        some = prompts if whole else prompts.rows(rows)
        edits = list(interventions) if whole else [edit.rows(rows) for edit in interventions]
        with model.taking(rows):
            logits = model.run(some, interventions=edits).logits
        for index, measure in enumerate(measures):
            own = measure if whole else measure.rows(rows)
            parts[index].append(own(logits, some).double().cpu())
    return [torch.cat(part) for part in parts]
