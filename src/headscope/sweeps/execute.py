"""Running a sweep: plan it, check it, run it, and fall back to full passes where the check says so.

In: a model, prompts, cells, a measure. Out: values per cell and example, with the path that each took. A
cell costs only the layers and positions that it can change (sweeps.plan); what decides between the paths is
a comparison with full passes on the model at hand (sweeps.check), never the name of an architecture. Prompts
whose base run does not fit in the memory at once are run part by part: `run_by_part` yields a cell once per
part, so that whoever keeps results loses no more than one, and leaves out what is done; `run` joins the parts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps import naive
from headscope.sweeps.calibrate import costs_of
from headscope.sweeps.check import FULL, Choice, Path, choose
from headscope.sweeps.engine import Engine
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import CellResult
from headscope.sweeps.plan import OF_ATTENTION, Traits
from headscope.sweeps.sweep import Setting, Sweep, Work, chunks, prepared, recomputes
from headscope.tasks.prompts import Prompts

# All cells prepared at once, each with another run's values, would fill the memory.
_RECOMPUTED = "its values come from other runs of these tokens, made cell by cell"

# Whether the cell of this index needs no run on these prompts.
Done = Callable[[int, slice], bool]


def execute(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    *,
    base_interventions: Sequence[Edit] = (),
) -> Iterator[CellResult]:
    """Run every cell and yield its values, in the order in which they are done.

    `base_interventions` hold in every cell, before its own. A measure at the role "cell" is read at each
    cell's own position.
    """
    return run(Sweep(model, prompts, list(cells), measure, base_interventions))


def run(sweep: Sweep) -> Iterator[CellResult]:
    """Every cell of a sweep, once it is done on all prompts; see `execute`."""
    waiting: dict[int, list[CellResult]] = defaultdict(list)
    for _, result in run_by_part(sweep):
        waiting[result.index].append(result)
        if sum(len(part.values) for part in waiting[result.index]) == len(sweep.prompts):
            whole = torch.cat([part.values for part in waiting.pop(result.index)])
            yield replace(result, values=whole)


def run_by_part(sweep: Sweep, done: Done = lambda index, rows: False) -> Iterator[tuple[slice, CellResult]]:
    """Every cell once per part of the prompts, with the rows of that part, but for what is `done`.

    The parts of a cell come in the order of the prompts; one that is done only in part is run as a whole.
    """
    base = sweep.base_interventions
    reason = refusal(sweep.model) or (_RECOMPUTED if any(map(recomputes, base)) else "")
    alone = [i for i, cell in enumerate(sweep.cells) if reason or any(map(recomputes, cell.interventions))]
    yield from _by_full_passes(sweep, alone, reason or _RECOMPUTED, done)
    left = [index for index in range(len(sweep.cells)) if index not in set(alone)]
    for rows, result in _resumed(sweep.of(left), lambda index, rows: done(left[index], rows)):
        yield rows, replace(result, index=left[result.index])


def _resumed(sweep: Sweep, done: Done) -> Iterator[tuple[slice, CellResult]]:
    """Cells that are prepared once for all of a part of the prompts."""
    choices: list[Choice] = []
    for part in sweep.parts():
        assert part.rows is not None
        left = [index for index in range(len(sweep.cells)) if not done(index, part.rows)]
        if not left:
            continue
        setting, works = prepared(part)
        if not choices:
            costs, choices = costs_of(sweep.model, traits_of(sweep.model)), _choices(part, setting, works)
            for index, choice in enumerate(choices):
                if choice.path == FULL:
                    yield from _by_full_passes(sweep, [index], choice.note, done)
        for path in dict.fromkeys(choices[index].path for index in left if choices[index].path != FULL):
            # All of them, done or not: what runs side by side is what it would be if none were.
            mine = [index for index, choice in enumerate(choices) if choice.path == path]
            known = {local for local, index in enumerate(mine) if index not in set(left)}
            assert path.traits is not None
            own = [works[index] for index in mine]
            engine = Engine(sweep.model, setting, own, path.traits, costs, own_positions=path.own_positions)
            for local, (measured,) in engine.run(known):
                index = mine[local]
                if local in known:  # ran beside one that was not done
                    continue
                yield part.rows, CellResult(sweep.cells[index], measured, index, path.name, choices[index].note)


def refusal(model: Model) -> str:
    """Why no cell of this model can resume from a base run; empty if that may be tried."""
    if not all(layer.streams for layer in model.anatomy.layers):
        return "what passes between its layers is not one vector per token"
    if getattr(model.text_config, "num_kv_shared_layers", 0):
        return "its later layers take keys and values from earlier ones"
    return ""


def traits_of(model: Model) -> Traits:
    """What the planner must know of a model."""
    layers = model.anatomy.layers
    return Traits(
        inside=tuple(layer.attention is not None and layer.projection is not None for layer in layers),
        calls=tuple(layer.attention is not None and not layer.inline and not layer.gated for layer in layers),
        positions=all(layer.attention is not None for layer in layers),
    )


def resumes(sweep: Sweep) -> bool:
    """Whether every one of these cells resumes exactly, at whatever position it starts."""
    edits = [*sweep.base_interventions, *(edit for cell in sweep.cells for edit in cell.interventions)]
    if refusal(sweep.model) or any(map(recomputes, edits)):
        return False
    return all(choice.path.name == "resumed" for choice in _choices(sweep, *prepared(sweep)))


def _choices(sweep: Sweep, setting: Setting, works: Sequence[Work]) -> list[Choice]:
    """The path of every cell."""
    traits, paths = traits_of(sweep.model), []
    if traits.positions:
        if not any(place.site in OF_ATTENTION for place in setting.base_places):
            paths.append(Path("resumed, positions side by side", traits, own_positions=True))
        paths.append(Path("resumed", traits))
    paths.append(Path("resumed from position 0", replace(traits, positions=False)))
    return choose(sweep, setting, works, paths, costs_of(sweep.model, traits))


def _by_full_passes(sweep: Sweep, which: Sequence[int], note: str, done: Done) -> Iterator[tuple[slice, CellResult]]:
    model, measure = sweep.model, sweep.measure
    for index in which:
        for rows in chunks(model, sweep.prompts, measure):
            if done(index, rows):
                continue
            one = sweep.of([index]).part(rows)
            with model.batch_rows(rows):
                base = one.base_interventions
                (result,) = naive.execute(model, one.prompts, one.cells, one.measure, base_interventions=base)
            yield rows, replace(result, cell=sweep.cells[index], index=index, note=note)
