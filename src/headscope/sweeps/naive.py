"""The naive runner: one full forward pass for every cell. Slow, obviously right, and the reference.

In: a model, prompts, cells and a measure. Out: one row of per-example values for each cell, in order.
Every faster engine must agree with this one. Prompts are run a few rows at a time, so that the logits of
a large vocabulary fit in memory; nothing else is clever here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headscope.measures.readouts import Measure
from headscope.models.certificate import NEXT_TOKEN_LOSS
from headscope.models.kept import kept
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps.grid import Cell
from headscope.tasks.prompts import Prompts

# The role of the position that a cell acts on: loss("cell") is read at each cell's own position.
OWN = "cell"


@dataclass(frozen=True)
class CellResult:
    """The measure of every example under one cell's interventions, float64 [example].

    `index` is the cell's place among the cells given; `path` says how it was run, `note` why so if a faster
    way was left; `beside` are the values of further measures.
    """

    cell: Cell
    values: Tensor
    index: int = 0
    path: str = "full pass"
    note: str = ""
    beside: tuple[Tensor, ...] = ()


def execute(
    model: Model,
    prompts: Prompts,
    cells: Iterable[Cell],
    measure: Measure,
    *,
    base_interventions: Sequence[Edit] = (),
    beside: Sequence[Measure] = (),
) -> Iterator[CellResult]:
    """Run every cell with a full forward pass and yield its values as they come.

    `base_interventions` hold in every cell, before its own; `beside` are further measures.
    """
    for index, cell in enumerate(cells):
        own = prompts if measure.read_out.positions.role != OWN else with_own_position(prompts, cell.position)
        values, *more = measured(model, own, [measure, *beside], [*base_interventions, *cell.interventions])
        yield CellResult(cell, values, index, beside=tuple(more))


def evaluate(
    model: Model, prompts: Prompts, measures: Sequence[Measure], interventions: Sequence[Edit] = ()
) -> list[Tensor]:
    """Several measures of the same forward passes: float64 [example] each, on the CPU; see models.kept."""
    asked = (prompts, tuple(measures), tuple(interventions))
    return kept("evaluate", model, asked, lambda: measured(model, prompts, measures, interventions))


def measured(
    model: Model, prompts: Prompts, measures: Sequence[Measure], interventions: Sequence[Edit] = ()
) -> list[Tensor]:
    """As `evaluate`, and run in any case."""
    require_meaning(model, measures)
    # Logits, the read ones among them, their log-probabilities, and as much again for what is on the way.
    bytes_each = 32 * model.vocab_size * prompts.longest
    parts: list[list[Tensor]] = [[] for _ in measures]
    for rows in model.batches(len(prompts), bytes_each=bytes_each):
        whole = rows == slice(0, len(prompts))
        some = prompts if whole else prompts.rows(rows)
        edits = list(interventions) if whole else [edit.rows(rows) for edit in interventions]
        with model.batch_rows(rows):
            logits = model.logits_at(some, read_positions(some, measures), interventions=edits)
        for index, measure in enumerate(measures):
            own = measure if whole else measure.rows(rows)
            parts[index].append(own(logits, some).double().cpu())
    return [torch.cat(part) for part in parts]


def read_positions(prompts: Prompts, measures: Sequence[Measure]) -> Tensor:
    """The positions that any of the measures reads, bool [batch, position]."""
    where = torch.zeros(len(prompts), prompts.longest + 1, dtype=torch.bool)
    for measure in measures:
        at = measure.read_out.cells(prompts)
        where.scatter_(1, torch.where(at < 0, prompts.longest, at), True)
    return where[:, :-1]


def require_meaning(model: Model, measures: Iterable[Measure]) -> None:
    """Raise UnservedSite where tokens are to be predicted by a model that has seen them."""
    if any(measure.next_token for measure in measures):
        model.require_service(NEXT_TOKEN_LOSS)


def with_own_position(prompts: Prompts, position: int | None) -> Prompts:
    """The prompts, with the role "cell" at this position; as they are if there is none."""
    if position is None:
        return prompts
    marked = tuple((position % length,) for length in prompts.lengths)
    return replace(prompts, roles={**prompts.roles, OWN: marked})
