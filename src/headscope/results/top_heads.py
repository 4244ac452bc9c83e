"""Which heads matter most for a measure: the set that ablating each on all prompts gives, at a part of its cost.

In: a model, prompts, a measure, how many heads. Out: one row per head, the ones that matter most first. Every head is
ablated on a few of the prompts, in random order; those that surely are not among the top k are dropped and those that
surely are need no more (measures.elimination), and so on with more prompts for the others, until all are decided or
have been run on all. The target is *these* prompts: what `hs.sweep` over all heads and all of them would give, with a
probability of at least 95%; whether it holds for other prompts is for another sample of them to say. First-order
estimates (sweeps.attribution) take no part: the order in which heads are tried changes nothing here, for all are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from headscope.errors import BadArgument
from headscope.hashing import digests
from headscope.interventions import zero
from headscope.interventions.base import Intervention
from headscope.measures.elimination import Array, Elimination, Indices, check_top, eliminate
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.results.collect import check, head_of, keeping, run_kept
from headscope.results.record import Record
from headscope.sweeps.grid import Cell, each_head
from headscope.sweeps.sweep import Sweep
from headscope.tables import Column, Schema, Table
from headscope.tasks.prompts import PromptsLike
from headscope.vocabulary import Progress, silent, staged

BOUNDED = (
    "of the mean over all prompts given, for all heads and at every look together; empty where the note says why"
)
TOP_HEADS = Schema(
    "top_heads",
    (
        Column("rank", pl.Int64, "place by status and damage; sure is only who is among the top"),
        Column("head", pl.String, "head that is ablated, as in 1.4"),
        Column("status", pl.String, "top, out, or tied: as large as the last of the top on all prompts"),
        Column(
            "mean_damage",
            pl.Float64,
            "how much worse the measure is without it, mean over prompts",
            "that of the measure",
        ),
        Column("low", pl.Float64, f"lower 95% bound {BOUNDED}", "that of the measure"),
        Column("high", pl.Float64, f"upper 95% bound {BOUNDED}", "that of the measure"),
        Column("prompts", pl.Int64, "prompts on which it was ablated, when it was decided"),
        Column("of", pl.Int64, "prompts given"),
        Column("intervention", pl.String, "what is done to it"),
        Column("measure", pl.String, "what is measured"),
        Column("note", pl.String, "why there are no bounds; empty otherwise"),
    ),
)


def top_heads(
    model: Model,
    prompts: PromptsLike,
    measure: Measure,
    k: int = 10,
    *,
    ablation: Intervention | None = None,
    base_interventions: Sequence[Edit] = (),
    seed: int = 0,
    out: Path | str | None = None,
    progress: Progress = silent,
) -> Table:
    """The `k` heads whose ablation makes the measure worst, as the full grid on these prompts would name them.

    What is compared is the mean damage (`Measure.damage`: positive is worse), so a head whose ablation makes the
    measure better is never among the first. `ablation` is a template (default `hs.zero("z")`), `seed` the order of
    the prompts. `base_interventions`, `out` and `progress` are those of `hs.sweep`, and a folder serves both: what a
    sweep ran there is taken, and a sweep takes the heads that ran on all prompts. `share_run` says what part of the
    full grid was run.

    >>> hs.top_heads(model, prompts, hs.measures.logit_difference(), k=5)   # doctest: +SKIP

    Raises:
        BadArgument: if there are fewer heads than k, or the measure is no measure or undefined for some prompts.
        OutputExists, Partial: as `hs.sweep`.
    """
    return top_of(
        heads_sweep(model, prompts, measure, ablation, base_interventions), k, seed=seed, out=out, progress=progress
    )


def heads_sweep(
    model: Model,
    prompts: PromptsLike,
    measure: Measure,
    ablation: Intervention | None = None,
    base_interventions: Sequence[Edit] = (),
) -> Sweep:
    """The full grid: one cell per head."""
    cells = each_head(zero("z") if ablation is None else ablation, model.heads)
    return Sweep(model, model.prompts(prompts), cells, measure, base_interventions)


def top_of(
    sweep: Sweep,
    k: int,
    *,
    seed: int = 0,
    out: Path | str | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Table:
    """The `k` of a sweep's cells, one per head, that damage the measure most; see `top_heads`."""
    check(sweep)
    check_top(k, len(sweep.cells))  # before anything is written
    with keeping(sweep, out, command) as kept:
        damage = _Damage(sweep, np.random.default_rng(seed).permutation(len(sweep.prompts)), kept, progress)
        with sweep.model.unedited():
            found = eliminate(damage.of, arms=len(sweep.cells), units=len(sweep.prompts), k=k, seed=seed)
        table = TOP_HEADS.table(_rows(sweep, found))
        if kept is not None:
            kept.finish(table)
    return table


def share_run(table: Table) -> float:
    """The cell-prompts that a table of top heads took, as a part of those of the full grid."""
    return int(table.frame["prompts"].sum()) / int(table.frame["of"].sum())


class _Damage:
    """How much worse the measure is in each cell, on prompts in random order."""

    def __init__(self, sweep: Sweep, order: Indices, kept: Record | None, progress: Progress) -> None:
        # The model as it is stands first: what a cell damages is measured against the same prompts.
        self._all = Sweep(
            sweep.model, sweep.prompts, [Cell(()), *sweep.cells], sweep.measure, sweep.base_interventions
        )
        self._names = digests(self._all.cells)
        self._ordered, self._order = self._all.ordered(order.tolist()), order.astype(np.int32)
        self._kept, self._progress = kept, progress

    def of(self, cells: Indices, rows: slice) -> Array:
        """Damage [prompt, cell] by these cells of the sweep, on these prompts in their order."""
        which = [0, *(cells + 1).tolist()]
        results = run_kept(
            self._ordered.of(which).part(rows),
            0,
            self._kept,
            staged(self._progress, f"heads in play, prompts {rows.start + 1} to {rows.stop} of {len(self._order)}"),
            names=[self._names[index] for index in which],
            examples=self._order[rows],
        )
        clean, *ablated = (result.values for result in results)
        measure = self._all.measure
        damage: Array = np.stack([measure.damage(clean, values).numpy() for values in ablated], axis=1)
        if np.isnan(damage).any():
            raise BadArgument(
                f"cannot find the heads that matter most: {measure.name!r} is undefined for some of the prompts. "
                "Measure where every prompt has a position."
            )
        return damage


def _rows(sweep: Sweep, found: Elimination) -> list[dict[str, Any]]:
    """A row per head: the top first, by their damage, and those that are out last."""
    places = ("top", "tied", "out")
    order = sorted(range(len(sweep.cells)), key=lambda cell: (places.index(found.status[cell]), -found.mean[cell]))
    return [
        {
            "rank": rank,
            "head": head_of(sweep.cells[cell]),
            "status": str(found.status[cell]),
            "mean_damage": float(found.mean[cell]),
            "low": float(found.low[cell]),
            "high": float(found.high[cell]),
            "prompts": int(found.units[cell]),
            "of": len(sweep.prompts),
            "intervention": str(sweep.cells[cell]),
            "measure": sweep.measure.name,
            "note": str(found.reason[cell]),
        }
        for rank, cell in enumerate(order, 1)
    ]
