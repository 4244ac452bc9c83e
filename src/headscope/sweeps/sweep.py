"""What a sweep is asked for, whole or on some of its prompts, and its cells prepared for the engine.

In: a model, prompts, cells, a measure, interventions that hold in every cell. Out: parts that fit in the memory, and
of each part the edits of single sites with their places, which is all that planner and engine see of an intervention.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headscope.interventions.references import extent
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import CallEdit, Edit, SiteEdit
from headscope.sweeps.calibrate import PARTS
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import OWN, require_meaning, with_own_position
from headscope.sweeps.plan import Place
from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class Sweep:
    """Cells on the same prompts, which are `rows` of a larger sweep; `base_interventions` hold in each, first.

    `beside` are further measures of the same cells, read where `measure` is.
    """

    model: Model
    prompts: Prompts
    cells: Sequence[Cell]
    measure: Measure
    base_interventions: Sequence[Edit] = ()
    rows: slice | None = None
    beside: tuple[Measure, ...] = ()

    def of(self, which: Sequence[int]) -> "Sweep":
        """Only these cells."""
        return replace(self, cells=[self.cells[index] for index in which])

    def part(self, rows: slice) -> "Sweep":
        """Only these prompts."""
        if rows == slice(0, len(self.prompts)):
            return replace(self, rows=rows)
        cells = [
            replace(cell, interventions=tuple(edit.rows(rows) for edit in cell.interventions)) for cell in self.cells
        ]
        prompts, measure = self.prompts.rows(rows), self.measure.rows(rows)
        base = [edit.rows(rows) for edit in self.base_interventions]
        beside = tuple(each.rows(rows) for each in self.beside)
        return Sweep(self.model, prompts, cells, measure, base, rows, beside)

    def ordered(self, order: list[int]) -> "Sweep":
        """With the prompts in another order; edits of `editing` blocks are then in its base: it is run unedited."""
        return Sweep(
            self.model,
            self.prompts.rows(order),
            [
                replace(cell, interventions=tuple(edit.rows(order) for edit in cell.interventions))
                for cell in self.cells
            ],
            self.measure.rows(order),
            [edit.rows(order) for edit in (*self.model.active_edits, *self.base_interventions)],
        )

    def parts(self) -> "list[Sweep]":
        """Parts whose base run and read logits fit in the memory."""
        return [self.part(rows) for rows in chunks(self.model, self.prompts, self.measure)]


@dataclass(frozen=True)
class Work:
    """One cell, prepared: its edits and their places, and the position that it is about, if any."""

    edits: tuple[SiteEdit | CallEdit, ...]
    places: tuple[Place, ...]
    position: int | None = None


@dataclass(frozen=True)
class Setting:
    """What all cells of a sweep share: prompts, edits of the base run with their places, measures."""

    prompts: Prompts
    base_edits: tuple[SiteEdit | CallEdit, ...]
    base_places: tuple[Place, ...]
    measures: tuple[Measure, ...]


def prepared(sweep: Sweep) -> tuple[Setting, list[Work]]:
    """What all cells share, and each cell's edits with their places."""
    model, prompts = sweep.model, sweep.prompts
    measures = (sweep.measure, *sweep.beside)
    require_meaning(model, measures)
    with model.batch_rows(sweep.rows or slice(0, len(prompts))):
        _, everywhere = model.prepare(prompts, sweep.base_interventions)
    with model.unedited():
        shared = _placed(model, prompts, everywhere)
        works = [Work(*_placed(model, prompts, cell.interventions), cell.position) for cell in sweep.cells]
    return Setting(prompts, *shared, measures), works


def recomputes(edit: Edit) -> bool:
    """Whether it takes its values from runs of its own, cell by cell."""
    return edit.footprint().recompute_each_token


def chunks(model: Model, prompts: Prompts, measure: Measure | None = None) -> Iterator[slice]:
    """Prompts in parts whose base run fits in one part of the memory, and what is read in one cell in another."""
    widest = max(layer.heads * layer.head_dim for layer in model.anatomy.layers)
    each = prompts.longest * max(model.d_model, widest) * model.dtype.itemsize * 6 * model.n_layers
    # Logits, once more in float32, and once more as log-probabilities.
    own = 0 if measure is not None and measure.read_out.positions.role == OWN else None
    most = 0 if measure is None else measure.read_out.cells(with_own_position(prompts, own)).shape[1]
    return model.batches(len(prompts), bytes_each=max(each, 12 * most * model.vocab_size), share=PARTS)


def _placed(
    model: Model, prompts: Prompts, interventions: Sequence[Edit]
) -> tuple[tuple[SiteEdit | CallEdit, ...], tuple[Place, ...]]:
    edits: list[SiteEdit | CallEdit] = []
    places: list[Place] = []
    for intervention in interventions:
        positions = intervention.footprint().positions
        prompts.check(positions)
        first, last = extent(prompts, positions)
        for edit in intervention.prepare(model, prompts):
            site = "call" if isinstance(edit, CallEdit) else edit.site
            edits.append(edit)
            places.append(Place(site, edit.layer, first, last))
    return tuple(edits), tuple(places)
