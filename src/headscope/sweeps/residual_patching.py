"""Activation patching of the residual stream: the clean run's, put into a corrupted run, by layer and position.

In: a model, and pairs of clean and corrupted prompts with answers, foils and roles. Out: how much of the logit
difference comes back, as a share of the gap between the two runs: samples [pair, (layer, position, role)], 0 for
nothing and 1 for all of it (Wang et al. 2023; Meng et al. 2022). The gap is a mean over pairs and is taken as known;
where it is not surely above zero, there is nothing to recover, and the shares are undefined.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import polars as pl

from headscope.interventions import patch
from headscope.measures import logit_difference
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import evaluate
from headscope.tables import Column, Quantity
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Progress, silent

OTHERS = "others"
GAP = Quantity("gap", "logit difference of the answer, clean minus corrupted run", "logits")
RECOVERED = Quantity("recovered", "share of the mean gap between clean and corrupted run", "share")
AXES = (
    Column("layer", pl.Int64, "the residual stream before this layer is patched; the last is the final one"),
    Column("position", pl.Int64, "patched position, from 0; the first of several"),
    Column("role", pl.String, "what stands there, by the roles of the prompts; empty for none; others: for several"),
)


def patched_residual(
    model: Model,
    clean: Prompts,
    corrupted: Prompts,
    positions: Iterable[int],
    *,
    others: Sequence[int] = (),
    progress: Progress = silent,
) -> tuple[Samples, Samples]:
    """Shares recovered [pair, (layer, position, role)] at these positions and every layer, and the gap [pair].

    `others` are patched together.
    """
    measure = logit_difference()
    sites = [*(("resid_pre", layer) for layer in range(model.n_layers)), ("resid_post", model.n_layers - 1)]
    source = model.run(clean, capture=sites)
    high, low = (evaluate(model, shown, [measure])[0] for shown in (clean, corrupted))
    roles = {marked[0][0]: role for role, marked in clean.roles.items()}
    places = [(layer, at, roles.get(at, "")) for layer, at in product(range(len(sites)), positions)]
    cells = [Cell((patch(sites[k], source=source, positions=at),), k, None, at) for k, at, _ in places]
    if others:
        places += [(layer, others[0], OTHERS) for layer in range(len(sites))]
        cells += [Cell((patch(site, source=source, positions=others),), k) for k, site in enumerate(sites)]
    values = cell_values(model, corrupted, cells, measure, progress=progress)
    gap = Samples.one(GAP, high - low, over="pairs")
    moved = Samples.of(RECOVERED, AXES, dict(zip(places, values - low, strict=True)), over="pairs")
    return share_of_gap(moved, gap), gap


def share_of_gap(moved: Samples, gap: Samples) -> Samples:
    """What moved as a share of the mean gap; undefined where that is not surely above zero."""
    estimate = gap.estimate()
    size = float(estimate.mean[0]) if float(estimate.low[0]) > 0 else float("nan")
    return moved.changed(RECOVERED, lambda values: values / size)
