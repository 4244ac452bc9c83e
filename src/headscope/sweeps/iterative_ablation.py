"""Iterative ablation: ablate the cell that hurts most, then sweep the others again with it ablated, and so on.

In: cells, a measure, a number of rounds. Out: per round the values of all cells that are left, and which one is
ablated next. A single sweep misses what is redundant, since a backup hides each part (Rushing & Nanda 2024 on
self-repair). Each round resumes the base run and the cells where the newly ablated layer begins.
"""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from headscope.errors import BadArgument
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps.calibrate import costs_of
from headscope.sweeps.engine import Engine
from headscope.sweeps.execute import resumes, run, traits_of
from headscope.sweeps.grid import Cell
from headscope.sweeps.kept_streams import KeptStreams
from headscope.sweeps.naive import CellResult, evaluate
from headscope.sweeps.sweep import Sweep, prepared
from headscope.tasks.prompts import Prompts

Pick = Callable[[Sequence[CellResult]], CellResult]


@dataclass(frozen=True)
class Round:
    """Values of the cells that are left, in their order, and the one that is ablated from the next round on."""

    results: tuple[CellResult, ...]
    picked: CellResult


def iterative_ablation(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    *,
    rounds: int,
    pick: Pick | None = None,
    base_interventions: Sequence[Edit] = (),
) -> Iterator[Round]:
    """Sweep, pick a cell, and sweep the rest with it ablated, `rounds` times.

    `pick` chooses among the results of a round; by default the cell that hurts the measure most. `base_interventions`
    hold in every cell of every round.

    Raises:
        BadArgument: if there are fewer cells than rounds.
    """
    if not 1 <= rounds <= len(cells):
        raise BadArgument(
            f"cannot ablate {rounds} of {len(cells)} cells one after another: at least 1, at most that many."
        )
    sweep, gone = Sweep(model, prompts, list(cells), measure, tuple(base_interventions)), set[int]()
    resumable = len(sweep.parts()) == 1 and resumes(sweep)
    kept = KeptStreams(model.memory_bytes // 2) if resumable else None
    for _ in range(rounds):
        results = None if kept is None else _resumed(sweep, kept, gone)
        if results is None:
            kept, left = None, [index for index in range(len(cells)) if index not in gone]
            results = [replace(result, index=left[result.index]) for result in run(sweep.of(left))]
        results.sort(key=lambda result: result.index)
        picked = min(results, key=lambda result: float(measure.better * result.values.nanmean()))
        if pick is not None:
            picked = pick(results)
        yield Round(tuple(results), picked)
        gone.add(picked.index)
        edits = picked.cell.interventions
        sweep = replace(sweep, base_interventions=(*sweep.base_interventions, *edits))
        if kept is not None:
            kept.changed_from = min(edit.footprint().layer for edit in edits)


def _resumed(sweep: Sweep, kept: KeptStreams, gone: Collection[int]) -> list[CellResult] | None:
    """A round that resumes what was kept, or None if it does not give what full passes give."""
    model = sweep.model
    setting, works = prepared(sweep)
    traits = traits_of(model)
    engine = Engine(model, setting, works, traits, costs_of(model, traits), kept=kept, leave_out=gone)
    results = [CellResult(sweep.cells[i], values[0], i, "resumed") for i, values in engine.run()]
    sites = sorted({place.site for work in works for place in work.places})
    key = f"iterative ablation {sites} {sweep.prompts.longest}"
    return results if not gone or model.cached(key, lambda: _agrees(sweep, results)) else None


def _agrees(sweep: Sweep, results: Sequence[CellResult]) -> bool:
    """Whether one random cell has the values of a full pass."""
    result = random.Random(0).choice(results)
    edits = [*sweep.base_interventions, *result.cell.interventions]
    (expected,) = evaluate(sweep.model, sweep.prompts, [sweep.measure], edits)
    size = max(float(each.values.abs().nan_to_num().max()) for each in results)
    return bool(((result.values - expected).abs().nan_to_num() <= 1e-3 * size).all())
