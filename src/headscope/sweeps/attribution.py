"""Attribution patching: what every cell of a grid would do to first order, from one forward and one backward pass.

In: a model, prompts, cells, a measure. Out: per cell and example the clean measure plus an estimate of its change,
(what the cell puts in place - what stands there) . d measure / d what stands there, summed over the sites of the
cell (Nanda 2023, "Attribution Patching"; Syed et al. 2023 for edges). What an intervention puts in place it says
itself, so whatever edits sites can be estimated; what redirects attention (to BOS) puts another z in place, which the
clean call gives. Not done here: the corrections of Kramár et al. 2024 ("AtP*"), who
show where the estimate fails: saturated attention, whose gradient is near zero however large the change; direct and
indirect effects that cancel; and whole residual streams, whose changes are too large for a straight line. So it
ranks cells, and `verified` runs those that it ranks highest.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from headscope.errors import BadArgument, UnservedSite
from headscope.interventions.references import by_cell
from headscope.measures.readouts import Measure
from headscope.models.attention import AttentionCall
from headscope.models.execution import edited
from headscope.models.kept import kept
from headscope.models.layout import Layout
from headscope.models.model import Model
from headscope.models.protocols import CallEdit, Edit, SiteEdit
from headscope.models.unembedding import read_only_at, worth_it
from headscope.sweeps.execute import run
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import OWN, CellResult, read_positions, with_own_position
from headscope.sweeps.sweep import Setting, Sweep, Work, prepared, recomputes
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Progress, silent

FIRST_ORDER = "attribution (first order)"
APPROXIMATE = "approximate: the clean value plus a first-order estimate of the change; nothing was run"

Place = tuple[str, int]
Edits = Mapping[Place, Sequence[SiteEdit | CallEdit]]


@dataclass(frozen=True)
class _Clean:
    """What the clean run left: sites with the graph between them and the logits, and calls that may be redirected."""

    logits: Tensor
    captured: Mapping[Place, Tensor]
    calls: Mapping[int, AttentionCall]
    layout: Layout


def attribute(
    model: Model,
    prompts: Prompts,
    cells: Sequence[Cell],
    measure: Measure,
    *,
    base_interventions: Sequence[Edit] = (),
) -> Iterator[CellResult]:
    """The estimated measure of every example in every cell, in the order of the cells.

    `base_interventions` hold in every cell, before its own; they are applied, not estimated.

    Raises:
        BadArgument: for a measure without gradients (rank), and for cells that take their values from runs of their
            own.
    """
    estimates = estimated_changes(Sweep(model, prompts, cells, measure, base_interventions))
    for index, (cell, (clean, change)) in enumerate(zip(cells, estimates, strict=True)):
        yield CellResult(cell, clean + change, index, FIRST_ORDER, APPROXIMATE)


def verified(sweep: Sweep, top: int) -> Iterator[tuple[CellResult, Tensor]]:
    """Every cell's result with its estimate, float64 [example]; the `top` cells of largest mean change are run.

    The result of a cell that was run is exact and says so by its path; that of any other is the estimate.
    """
    changes = estimated_changes(sweep)
    sizes = [float(change.nanmean().abs().nan_to_num(-1.0)) for _, change in changes]
    chosen = sorted(sorted(range(len(sizes)), key=lambda index: -sizes[index])[:top])
    estimates = [clean + change for clean, change in changes]
    for index in sorted(set(range(len(sizes))) - set(chosen)):
        cell, estimate = sweep.cells[index], estimates[index]
        yield CellResult(cell, estimate, index, FIRST_ORDER, APPROXIMATE), estimate
    for result in run(sweep.of(chosen)):
        index = chosen[result.index]
        yield replace(result, index=index), estimates[index]


def estimated_changes(sweep: Sweep, progress: Progress = silent) -> list[tuple[Tensor, Tensor]]:
    """For every cell the measure without its interventions and the estimated change, float64 [example] each."""
    for cell in sweep.cells:
        if any(map(recomputes, cell.interventions)):
            raise BadArgument(
                f"cannot estimate '{cell}' to first order: its values come from runs of its own, so that nothing "
                "would be saved. Run it exactly."
            )
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sweep.cells]
    for rows in _chunks(sweep.model, sweep.prompts) if sweep.cells else ():
        progress("prompts", rows.start, len(sweep.prompts))
        some = sweep.part(rows)
        asked = (some.prompts, some.measure, tuple(some.base_interventions), tuple(some.cells))
        for index, both in enumerate(kept("first order", sweep.model, asked, partial(_both, some))):
            parts[index].append((both[0], both[1]))
    return [(torch.cat([clean for clean, _ in own]), torch.cat([change for _, change in own])) for own in parts]


def _both(sweep: Sweep) -> list[Tensor]:
    """Of every cell, in order, clean measure and estimated change, [2, example]."""
    by_cell = {index: torch.stack(estimated) for index, estimated in _of_part(sweep)}
    return [by_cell[index] for index in range(len(sweep.cells))]


def _of_part(sweep: Sweep) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Clean measure and estimated change of every cell on prompts whose gradients fit in the memory."""
    setting, works = prepared(sweep)
    own = [_by_place(cell, work, setting) for cell, work in zip(sweep.cells, works, strict=True)]
    places = list(dict.fromkeys(place for edits in own for place in edits))
    redirected = {edit.layer for work in works for edit in work.edits if isinstance(edit, CallEdit)}
    own_position = sweep.measure.read_out.positions.role == OWN
    where = None if own_position else read_positions(sweep.prompts, [sweep.measure])
    clean = _forward(sweep.model, setting, places, redirected, where)
    measure = sweep.measure
    # Read at each cell's own position, a measure is another one, with a way back of its own, per position.
    reads = [work.position if own_position else None for work in works]
    different = list(dict.fromkeys(reads))
    for position in different:
        mine = [index for index, read in enumerate(reads) if read == position]
        with torch.enable_grad():
            values = measure(clean.logits, with_own_position(setting.prompts, position))
        gradients = _gradients(measure, values, clean.captured, keep=position != different[-1])
        measured = values.detach().double().cpu()
        for index in mine:
            yield index, (measured, _change(own[index], clean, gradients, measured))


def _by_place(cell: Cell, work: Work, setting: Setting) -> Edits:
    """The edits of a cell by the site that they change, in their order; a redirected call changes z."""
    by_place: dict[Place, list[SiteEdit | CallEdit]] = {}
    for edit in work.edits:
        if isinstance(edit, CallEdit):
            by_place.setdefault(("z", edit.layer), []).append(edit)
    for place, redirects in by_place.items():
        # What holds in every cell comes after a call, and before what the cell itself does to z.
        redirects += [
            edit for edit in setting.base_edits if isinstance(edit, SiteEdit) and (edit.site, edit.layer) == place
        ]
    for edit in work.edits:
        if isinstance(edit, SiteEdit):
            by_place.setdefault((edit.site, edit.layer), []).append(edit)
    return by_place


def _forward(
    model: Model, setting: Setting, places: Sequence[Place], redirected: Collection[int], where: Tensor | None
) -> _Clean:
    """Logits [batch, position, vocab] and the sites they come from, and the calls of the redirected layers.

    Logits are computed where they are read, `where` [batch, position]; None: everywhere.
    """
    prompts = setting.prompts
    if prompts.ragged:
        model.require_service("prompts of unequal length")
    layout = Layout.of(prompts, model.device)
    calls: dict[int, AttentionCall] = {}

    def keep(call: AttentionCall, own: Layout) -> None:
        calls[call.layer] = call.part(own)

    kept = [CallEdit(layer, keep) for layer in sorted(redirected)]
    edits = [*setting.base_edits, SiteEdit("embed", 0, _followed), *kept]
    read = None if where is None or not worth_it(where) else where.to(model.device)
    some = nullcontext() if read is None else read_only_at(model.anatomy.unembedding, read)
    with torch.enable_grad():
        with edited(model.hf, model.anatomy, layout, edits=edits, wanted=places) as captured, some:
            logits = model.hf(prompts.ids.to(model.device), use_cache=False).logits
        # What a measure makes of padding (a reference may be NaN there) must not come back through the graph.
        logits = torch.where(prompts.real.to(logits.device)[..., None], logits, 0)
    return _Clean(logits, captured, calls, layout)


def _followed(value: Tensor, _: Layout) -> Tensor:
    """What enters the model, such that gradients flow even where all its weights are frozen."""
    return value if value.requires_grad else value.detach().requires_grad_()


def _gradients(
    measure: Measure, values: Tensor, captured: Mapping[Place, Tensor], *, keep: bool
) -> Mapping[Place, Tensor]:
    """Of every site the gradient of each example's own value: examples do not meet in a forward pass."""
    if not values.requires_grad:
        raise BadArgument(
            f"cannot estimate {measure.name!r} to first order: it has no gradient. Measure something smooth, for "
            "example logit_difference, or run the cells exactly."
        )
    gradients = torch.autograd.grad(values.sum(), list(captured.values()), retain_graph=keep, allow_unused=True)
    for (site, layer), gradient in zip(captured, gradients, strict=True):
        if gradient is None:
            raise UnservedSite(
                f"cannot estimate {site!r} in layer {layer} to first order: no gradient comes back to it in this "
                "model. Run the cells exactly."
            )
    return dict(zip(captured, gradients, strict=True))


@torch.no_grad()
def _change(edits: Edits, clean: _Clean, gradients: Mapping[Place, Tensor], like: Tensor) -> Tensor:
    """The estimated change of one cell, float64 [example]."""
    total = torch.zeros_like(like)
    for place, own in edits.items():
        there = by_cell(place[0], clean.captured[place])
        put = there
        call = clean.calls[place[1]].part(clean.layout) if isinstance(own[0], CallEdit) else None
        for edit in own:
            if isinstance(edit, SiteEdit):
                put = edit.change(put, clean.layout)
            elif call is not None:
                edit.change(call, clean.layout)
                put = call.out
        weighted = (put - there).float() * by_cell(place[0], gradients[place]).float()
        total += weighted.flatten(1).sum(1).cpu().double()
    return total


def _chunks(model: Model, prompts: Prompts) -> Iterator[slice]:
    """Prompts in parts whose graph fits in the memory.

    A layer keeps some 40 vectors and four patterns of each head for the way back, the measure its logits four times.
    """
    widest = max(model.d_model, *(layer.heads * layer.head_dim for layer in model.anatomy.layers))
    heads = max(layer.heads for layer in model.anatomy.layers)
    of_token = model.n_layers * model.dtype.itemsize * (40 * widest + 4 * heads * prompts.longest)
    each = prompts.longest * (of_token + 16 * model.vocab_size)
    return model.batches(len(prompts), bytes_each=each)
