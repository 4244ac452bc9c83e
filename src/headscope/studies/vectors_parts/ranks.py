"""The heads' part of the vectors study: both rankings of heads, how they agree, and each kind cut without the other.

In: settings, a model, both halves of the problems. Out: tables, and `Picked`, the rankings of the selection half by
which vectors are built and heads are cut. Yin & Steinhardt 2025 ablate the top share of one kind of heads except
those that are also in the top share of the other kind; so do we, beside as many random heads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from headscope.interventions import mean
from headscope.measures import interval, simultaneous
from headscope.models.model import Model
from headscope.studies.vectors_parts import tables
from headscope.studies.vectors_parts.heads import (
    Induction,
    by_function,
    indirect_effects,
    induction_scores,
    judged_kind,
    overlap,
    top_heads,
)
from headscope.studies.vectors_parts.problems import Problems
from headscope.studies.vectors_parts.values import ACCURACY, unpacked, whole_answer
from headscope.sweeps.controls import Control, against_random_sets
from headscope.tables import Table
from headscope.tasks import linear
from headscope.vocabulary import Head, staged

Progress = Callable[[str, int, int], None]

# Prompts of repeated random tokens in each half: as many as detectors take by default.
REPEATED = 50


@dataclass(frozen=True)
class Picked:
    """Full rankings of heads on the selection half; the first `top` of each are its top heads."""

    top: int
    effects: tuple[Head, ...]
    induction: Mapping[str, tuple[Head, ...]]

    def carrying(self) -> tuple[Head, ...]:
        """The top heads by causal indirect effect."""
        return self.effects[: self.top]

    def looking_up(self, kind: str) -> tuple[Head, ...]:
        """The top heads by this induction score; none where it was not measured."""
        return self.induction[kind][: self.top]


def rank_heads(
    model: Model,
    halves: Sequence[Problems],
    means: Sequence[Mapping[int, Tensor]],
    top: int,
    seed: int,
    progress: Progress,
) -> tuple[Picked, Table, Table]:
    """Causal indirect effects and induction scores of all heads on both halves, and how they agree."""
    stage = staged(progress, "replacing each head by its mean")
    effects = [
        indirect_effects(model, half, own_means, stage) for half, own_means in zip(halves, means, strict=True)
    ]
    scores = [
        induction_scores(model, half, n=REPEATED, seed=seed, part=part) for part, half in enumerate(halves)
    ]
    every, judged = len(model.heads), judged_kind(model)
    picked = Picked(
        top,
        top_heads(effects[0], model.heads, every),
        {kind: score.top(every) for kind, score in scores[0].items()},
    )
    mine, theirs = picked.carrying(), picked.looking_up(judged)
    by_head = by_function(effects[1], halves[1].function)
    bounds, joint = interval(by_head), simultaneous(by_head)
    rows = []
    for place, head in enumerate(model.heads):
        words = [
            word for word, chosen in (("function-vector", mine), ("induction", theirs)) if head in chosen
        ]
        rows.append(
            {
                "layer": head.layer,
                "head": head.index,
                "indirect_effect": float(bounds.mean[place]),
                "low": float(bounds.low[place]),
                "high": float(bounds.high[place]),
                "adjusted_low": float(joint.at_least[place]),
                "selection_effect": float(effects[0][place].mean()),
                **scored(scores[1], head),
                "picked": " and ".join(words),
                "functions": bounds.n,
            }
        )
    overlaps = [
        overlap_of(kind, kind == judged, by_head, score, picked, seed) for kind, score in scores[1].items()
    ]
    return picked, tables.HEADS.table(rows), tables.OVERLAP.table(overlaps)


def scored(scores: Mapping[str, Induction], head: Head) -> dict[str, object]:
    """Both induction scores of a head, and whether the detector names it, as cells of a row."""
    cells: dict[str, object] = {}
    for kind, score in scores.items():
        row = score.rows.get(head)
        name = kind.replace(" ", "_")
        cells[name] = float("nan") if row is None else row["score"]
        cells[f"{name}_named"] = row is not None and row["named"]
    return cells


def overlap_of(
    kind: str, judged: bool, effects: np.ndarray, score: Induction, picked: Picked, seed: int
) -> dict[str, object]:
    """One row of the overlap table."""
    if score.reason or not len(score.above):
        return tables.overlap_row(kind, judged, picked.top, None, score.reason or "no prompt could be judged")
    chosen = (picked.carrying(), picked.looking_up(kind))
    if not all(chosen):
        return tables.overlap_row(kind, judged, picked.top, None, "it was not measured on the selection half")
    return tables.overlap_row(kind, judged, picked.top, overlap(effects, score.above, chosen, seed=seed), "")


def cut_heads(
    model: Model,
    halves: Sequence[Problems],
    picked: Picked,
    judged: str,
    control: Control,
    progress: Progress,
) -> tuple[Table, list[dict[str, object]]]:
    """Few-shot accuracy with the top heads of one kind cut and the other's kept, beside random heads.

    Empty where all top heads are common.
    """
    mine, theirs = picked.carrying(), picked.looking_up(judged)
    kinds = {
        "function-vector heads": tuple(head for head in mine if head not in theirs),
        "induction heads": tuple(head for head in theirs if head not in mine),
    }
    groups = {kind: heads for kind, heads in kinds.items() if heads}
    if not groups:
        return tables.ABLATIONS.table([]), []
    # Label-shuffled prompts of other functions hold the form of the task and no function.
    reference, function = linear(model, halves[0].shuffled), halves[1].function
    found = against_random_sets(
        model,
        linear(model, halves[1].few).answered(),
        groups,
        ablation=mean("z", over=reference),
        measure=whole_answer(),
        control=control,
        progress=staged(progress, "cutting heads"),
    )
    rows = [tables.ablation_row(group, beside, function) for group, beside in found.items()]
    if len(found) < 2:
        return tables.ABLATIONS.table(rows), []
    damages = [unpacked(beside.damage)[ACCURACY] for beside in found.values()]
    difference = tables.estimate(damages[0] - damages[1], function, "difference")
    against = {"comparison": tables.MATTER_MORE, "layer": None, "picked": True, **difference}
    return tables.ABLATIONS.table(rows), [against]
