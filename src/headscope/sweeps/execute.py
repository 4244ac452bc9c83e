"""Running a sweep: plan it, check it, run it, and fall back to full passes where the check says so.

In: a model, prompts, cells, a measure. Out: values per cell and example, with the path that each took. A
cell costs only the layers and positions that it can change (sweeps.plan); what decides between the paths is
a comparison with full passes on the model at hand (sweeps.check), never the name of an architecture.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

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
from headscope.sweeps.sweep import Setting, Sweep, Work, prepared, recomputes
from headscope.tasks.prompts import Prompts

# All cells prepared at once, each with another run's values, would fill the memory.
_RECOMPUTED = "its values come from other runs of these tokens, made cell by cell"


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
    """Every cell of a sweep; see `execute`."""
    base = sweep.base_interventions
    reason = refusal(sweep.model) or (_RECOMPUTED if any(map(recomputes, base)) else "")
    alone = [i for i, cell in enumerate(sweep.cells) if reason or any(map(recomputes, cell.interventions))]
    yield from _by_full_passes(sweep, alone, reason or _RECOMPUTED)
    left = [index for index in range(len(sweep.cells)) if index not in set(alone)]
    for result in _resumed(sweep.of(left)):
        yield replace(result, index=left[result.index])


def _resumed(sweep: Sweep) -> Iterator[CellResult]:
    """Cells that are prepared once for all their prompts."""
    if not sweep.cells:
        return
    costs, parts = costs_of(sweep.model, traits_of(sweep.model)), sweep.parts()
    choices: list[Choice] = []
    values: dict[int, list[Tensor]] = defaultdict(list)
    for part in parts:
        setting, works = prepared(part)
        if not choices:
            choices = _choices(part, setting, works)
            for index, choice in enumerate(choices):
                if choice.path == FULL:
                    yield from _by_full_passes(sweep, [index], choice.note)
        for path in dict.fromkeys(choice.path for choice in choices if choice.path != FULL):
            mine = [index for index, choice in enumerate(choices) if choice.path == path]
            assert path.traits is not None
            own = [works[index] for index in mine]
            engine = Engine(sweep.model, setting, own, path.traits, costs, own_positions=path.own_positions)
            for local, (measured,) in engine.run():
                index = mine[local]
                values[index].append(measured)
                if part is parts[-1]:
                    whole = torch.cat(values.pop(index))
                    yield CellResult(sweep.cells[index], whole, index, path.name, choices[index].note)


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


def _by_full_passes(sweep: Sweep, which: Sequence[int], note: str) -> Iterator[CellResult]:
    model, prompts, cells, measure = sweep.model, sweep.prompts, sweep.of(which).cells, sweep.measure
    results = naive.execute(model, prompts, cells, measure, base_interventions=sweep.base_interventions)
    for index, result in zip(which, results, strict=True):
        yield replace(result, index=index, note=note)
