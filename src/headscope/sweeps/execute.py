"""Running a sweep: plan it, check it, run it, and fall back to full passes where the check says so.

In: a model, prompts, cells, a measure. Out: values per cell and example, with the path that each took. A
cell costs only the layers and positions that it can change (sweeps.plan); what decides between the paths is
a comparison with full passes on the model at hand (sweeps.check), never the name of an architecture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import CallEdit, Edit, SiteEdit
from headscope.sweeps import naive
from headscope.sweeps.calibrate import PARTS, costs_of
from headscope.sweeps.check import FULL, Choice, Path, choose, kind_of
from headscope.sweeps.engine import Engine, Setting, Work
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import OWN, CellResult, with_own_position
from headscope.sweeps.plan import OF_ATTENTION, Costs, Place, Traits
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions

# All cells prepared at once, each with another run's values, would fill the memory.
_FOLLOWS = "its values come from other runs of these tokens, made cell by cell"


def execute(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    *,
    under: Sequence[Edit] = (),
    seed: int = 0,
) -> Iterator[CellResult]:
    """Run every cell and yield its values, in the order in which they are done.

    `under` are interventions that hold in every cell, before its own; `seed` draws the cells that are checked
    against full passes. A measure at the role "cell" is read at each cell's own position.
    """
    given = list(cells)
    reason = refusal(model) or (_FOLLOWS if any(map(_follows, under)) else "")
    following = [i for i, cell in enumerate(given) if reason or any(map(_follows, cell.interventions))]
    yield from _by_full_passes(model, prompts, given, following, measure, under, reason or _FOLLOWS)
    left = [index for index in range(len(given)) if index not in set(following)]
    for result in _resumed(model, prompts, [given[i] for i in left], measure, under, seed):
        yield replace(result, index=left[result.index])


def _resumed(
    model: Model, prompts: Prompts, cells: list[Cell], measure: Measure, under: Sequence[Edit], seed: int
) -> Iterator[CellResult]:
    """Cells that are prepared once for all their prompts."""
    if not cells:
        return
    plain = traits_of(model)
    costs = costs_of(model, plain)
    choices: dict[int, Choice] | None = None
    parts: dict[int, list[Tensor]] = {}
    every = list(chunks(model, prompts, measure))
    for number, rows in enumerate(every):
        some = prompts if len(every) == 1 else prompts.rows(rows)
        setting, works = prepared(model, some, cells, measure, under, rows, whole=len(every) == 1)
        if choices is None:
            shown, shared = _of_rows(cells, under, rows, whole=len(every) == 1)
            choices = _choices(model, setting, works, shown, shared, plain, costs, seed)
            full = [index for index in range(len(cells)) if choices[index].path == FULL]
            for index in full:
                note = choices[index].note
                yield from _by_full_passes(model, prompts, cells, [index], measure, under, note)
        for path in dict.fromkeys(choice.path for choice in choices.values() if choice.path != FULL):
            mine = [index for index, choice in choices.items() if choice.path == path]
            assert path.traits is not None
            own = [works[index] for index in mine]
            engine = Engine(model, setting, own, path.traits, costs, own_positions=path.own_positions)
            for local, values in engine.run():
                index = mine[local]
                parts.setdefault(index, []).append(values[0])
                if number == len(every) - 1:
                    found = torch.cat(parts.pop(index))
                    yield CellResult(cells[index], found, index, path.name, choices[index].note)


def prepared(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    under: Sequence[Edit],
    rows: slice,
    *,
    whole: bool,
) -> tuple[Setting, list[Work]]:
    """What all cells share, and each cell's edits with their places."""

    def of_rows(edits: Sequence[Edit]) -> list[Edit]:
        return list(edits) if whole else [edit.rows(rows) for edit in edits]

    with model.taking(rows):
        _, given = model.prepare(prompts, of_rows(under))
    works = []
    with model.unedited():
        shared = [_placed(model, prompts, edit) for edit in given]
        for cell in cells:
            own = [_placed(model, prompts, edit) for edit in of_rows(cell.interventions)]
            edits = tuple(edit for edits, _ in own for edit in edits)
            works.append(Work(edits, tuple(place for _, places in own for place in places), cell.position))
    setting = Setting(
        prompts,
        tuple(edit for edits, _ in shared for edit in edits),
        tuple(place for _, places in shared for place in places),
        (measure if whole else measure.rows(rows),),
    )
    return setting, works


def _of_rows(
    cells: Sequence[Cell], under: Sequence[Edit], rows: slice, *, whole: bool
) -> tuple[Sequence[Cell], Sequence[Edit]]:
    """Cells and shared interventions for some of the prompts."""
    if whole:
        return cells, under
    some = [
        replace(cell, interventions=tuple(edit.rows(rows) for edit in cell.interventions)) for cell in cells
    ]
    return some, [edit.rows(rows) for edit in under]


def _follows(edit: Edit) -> bool:
    return edit.footprint().follows


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


def resumes(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    under: Sequence[Edit],
    *,
    seed: int,
) -> bool:
    """Whether every one of these cells resumes exactly, at whatever position it starts."""
    edits = [*under, *(edit for cell in cells for edit in cell.interventions)]
    if refusal(model) or any(map(_follows, edits)):
        return False
    plain = traits_of(model)
    setting, works = prepared(model, prompts, cells, measure, under, slice(0, len(prompts)), whole=True)
    choices = _choices(model, setting, works, cells, under, plain, costs_of(model, plain), seed)
    return all(choice.path.name == "resumed" for choice in choices.values())


def _choices(
    model: Model,
    setting: Setting,
    works: Sequence[Work],
    cells: Sequence[Cell],
    under: Sequence[Edit],
    traits: Traits,
    costs: Costs,
    seed: int,
) -> dict[int, Choice]:
    """The path of every cell."""
    paths = []
    from_start = Traits(traits.inside, traits.calls, positions=False)
    if traits.positions:
        if not any(place.site in OF_ATTENTION for place in setting.under_places):
            paths.append(Path("resumed, positions side by side", traits, own_positions=True))
        paths.append(Path("resumed", traits))
    paths.append(Path("resumed from position 0", from_start))
    by_kind = choose(model, setting, dict(enumerate(works)), cells, under, paths, costs, seed)
    return {index: by_kind[kind_of(work, setting.measures)] for index, work in enumerate(works)}


def _by_full_passes(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    which: Sequence[int],
    measure: Measure,
    under: Sequence[Edit],
    note: str,
) -> Iterator[CellResult]:
    for index, result in zip(
        which, naive.execute(model, prompts, [cells[i] for i in which], measure, under=under), strict=True
    ):
        yield CellResult(result.cell, result.values, index, "full pass", note)


def _placed(
    model: Model, prompts: Prompts, intervention: Edit
) -> tuple[list[SiteEdit | CallEdit], list[Place]]:
    footprint = intervention.footprint()
    prompts.check(footprint.positions)
    edits = list(intervention.prepare(model, prompts))
    first, last = _extent(footprint.positions, prompts)
    places = [
        Place("call" if isinstance(edit, CallEdit) else edit.site, edit.layer, first, last) for edit in edits
    ]
    return edits, places


def _extent(positions: Positions, prompts: Prompts) -> tuple[int, int]:
    """The first and the last position, over all examples; (longest, -1) if there is none."""
    if positions.role is not None:
        marked = [position for example in prompts.roles[positions.role] for position in example]
    elif positions.indices is None:
        return 0, prompts.longest - 1
    else:
        ends = set(prompts.ends)
        marked = [i if i >= 0 else end + i for i in positions.indices for end in ends]
    return min(marked, default=prompts.longest), max(marked, default=-1)


def chunks(model: Model, prompts: Prompts, measure: Measure | None = None) -> Iterator[slice]:
    """Prompts in parts whose base run fits in one part of the memory, and what is read in one cell in another."""
    widest = max(layer.heads * layer.head_dim for layer in model.anatomy.layers)
    each = prompts.longest * max(model.d_model, widest) * model.dtype.itemsize * 6 * model.n_layers
    # Logits, once more in float32, and once more as log-probabilities.
    read = 0 if measure is None else 12 * _read_cells(prompts, measure) * model.vocab_size
    return model.batches(len(prompts), bytes_each=max(each, read), share=PARTS)


def _read_cells(prompts: Prompts, measure: Measure) -> int:
    """How many positions of an example a measure reads, at most."""
    own = with_own_position(prompts, 0) if measure.read_out.positions.role == OWN else prompts
    return measure.read_out.cells(own).shape[1]
