"""Peeling: cut the cell that hurts most, then sweep the others again with it cut, round after round.

In: cells, a measure, a number of rounds. Out: per round the values of all cells that are left, and which one
is cut next. A single sweep misses what is redundant, since a backup hides each part by itself; what is still
found after its backups are gone was carried in several places (Rushing & Nanda 2024 on self-repair).
Each round resumes the base run and the cells where the newly cut layer begins.
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
from headscope.sweeps.execute import chunks, execute, prepared, resumes, traits_of
from headscope.sweeps.grid import Cell
from headscope.sweeps.kept import Kept
from headscope.sweeps.naive import CellResult, evaluate
from headscope.tasks.prompts import Prompts

Pick = Callable[[Sequence[CellResult]], CellResult]


@dataclass(frozen=True)
class Round:
    """Values of the cells that are left, in their order, and the one that is cut from the next round on."""

    results: tuple[CellResult, ...]
    picked: CellResult


def peel(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    *,
    rounds: int,
    pick: Pick | None = None,
    under: Sequence[Edit] = (),
    seed: int = 0,
) -> Iterator[Round]:
    """Sweep, pick a cell, and sweep the rest with it cut, `rounds` times.

    `pick` chooses among the results of a round; by default the cell that hurts the measure most. `under` holds
    in every cell of every round.

    Raises:
        BadArgument: if there are fewer cells than rounds.
    """
    if not 1 <= rounds <= len(cells):
        raise BadArgument(
            f"cannot peel {rounds} rounds from {len(cells)} cells: at least 1, at most that many."
        )
    chosen, gone = pick or _worst(measure), set[int]()
    state = _State(model, prompts, list(cells), measure, under, seed)
    for _ in range(rounds):
        results = state.round(gone)
        picked = chosen(results)
        yield Round(tuple(results), picked)
        gone.add(picked.index)
        state.cut(picked.cell)


def _worst(measure: Measure) -> Pick:
    def pick(results: Sequence[CellResult]) -> CellResult:
        return min(results, key=lambda result: float(measure.better * result.values.nanmean()))

    return pick


class _State:
    """Runs the rounds of one peel; what is resumed from is in `_kept`, None where that is not possible."""

    def __init__(
        self,
        model: Model,
        prompts: Prompts,
        cells: Sequence[Cell],
        measure: Measure,
        under: Sequence[Edit],
        seed: int,
    ) -> None:
        self._model, self._prompts, self._measure, self._seed = model, prompts, measure, seed
        self._cells, self._under = cells, list(under)
        self._kept: Kept | None = None
        if len(list(chunks(model, prompts, measure))) == 1 and resumes(
            model, prompts, cells, measure, under, seed=seed
        ):
            self._kept = Kept(model.memory_bytes // 2)

    def round(self, gone: Collection[int]) -> list[CellResult]:
        """The results of the cells that are left, in order."""
        found = None if self._kept is None else self._resumed(self._kept, gone)
        if found is None:
            left = [index for index in range(len(self._cells)) if index not in gone]
            given = [self._cells[index] for index in left]
            swept = execute(
                self._model, self._prompts, given, self._measure, under=self._under, seed=self._seed
            )
            found = [replace(result, index=left[result.index]) for result in swept]
        return sorted(found, key=lambda result: result.index)

    def cut(self, cell: Cell) -> None:
        """From the next round on this cell's interventions hold in every cell."""
        self._under += cell.interventions
        if self._kept is not None:
            self._kept.changed_from = min(edit.footprint().layer for edit in cell.interventions)

    def _resumed(self, kept: Kept, gone: Collection[int]) -> list[CellResult] | None:
        """The round, or None if it does not give what full passes give."""
        model, prompts, every = self._model, self._prompts, slice(0, len(self._prompts))
        setting, works = prepared(model, prompts, self._cells, self._measure, self._under, every, whole=True)
        plain = traits_of(model)
        engine = Engine(model, setting, works, plain, costs_of(model, plain), kept=kept, leave_out=gone)
        found = [CellResult(self._cells[i], values[0], i, "resumed") for i, values in engine.run()]
        key = f"peel {sorted({place.site for work in works for place in work.places})} {prompts.longest}"
        if gone and not model.remember(key, lambda: self._agrees(found)):
            self._kept = None
            return None
        return found

    def _agrees(self, found: Sequence[CellResult]) -> bool:
        """Whether one random cell has the values of a full pass."""
        result = random.Random(self._seed).choice(found)
        edits = [*self._under, *result.cell.interventions]
        expected = evaluate(self._model, self._prompts, [self._measure], edits)[0]
        size = max(float(each.values.abs().nan_to_num().max()) for each in found)
        return bool(((result.values - expected).abs().nan_to_num() <= 1e-3 * size).all())
