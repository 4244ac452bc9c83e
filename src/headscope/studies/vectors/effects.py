"""What vectors do for answers: accuracy and probability under every vector, by function and layer.

In: queries with the answers that are looked for, and vectors for them. Out: `Outcomes`, samples whose unit is the
function, since problems of one function share its vectors. Task vectors (Hendel et al. 2023) take the place of the
final token's residual stream before the layer from which they come; function vectors (Todd et al. 2024) are added to
it before every layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from headscope.evidence import Test, any_of, table
from headscope.interventions import set_values
from headscope.measures.clusters import by_cluster
from headscope.measures.intervals import Array
from headscope.measures.samples import LAYER, Samples
from headscope.measures.whole_answers import unpacked, whole_answer
from headscope.models.model import Model
from headscope.studies.vectors.problems import Ctx
from headscope.sweeps import Cell, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column, Quantity, Table
from headscope.tasks import linear
from headscope.tasks.functions import Ints
from headscope.tasks.prompts import Prompts
from headscope.tasks.split import Split
from headscope.tasks.transfer import Transfer

MARGIN = 0.1
"""Accuracy by which a vector must beat its control."""
RECOVERED_MARGIN = 0.5
"""Share of what examples add to accuracy that a vector must recover to transfer the task."""

# The answers that are looked for, and the prompts into which vectors are put.
OWN, OTHERS, DUMMYS = "f(x)", "g(x)", "f(dummy)"
ZERO, FEW, SHUFFLED = "zero-shot", "few-shot", "label-shuffled"

ACCURACY = Quantity("accuracy", "share of problems whose answer is the most likely one", "share", (0.0, 1.0))
PROBABILITY = Quantity("probability", "probability of the whole answer", "probability", (0.0, 1.0))
BEYOND_HALF = Quantity("beyond_half", "accuracy gained minus half of what examples add", "share", (-1.0, 1.0))
RECOVERED = Quantity("recovered_share", "share of what examples add to accuracy that is recovered", "share")
DIFFERENCE = Quantity("difference", "difference of two accuracies on the same problems", "share", (-1.0, 1.0))

HALF = Column("half", pl.String, "selection: functions that choose layers and heads; estimation: the others")
PROMPTS_KIND = Column("prompts_kind", pl.String, "the query alone, or after examples, label-shuffled or not")
VECTOR = Column("vector", pl.String, "what is put into the residual stream at the final token")
ANSWER = Column("answer", pl.String, "f(x): of the query; g(x): of another function; f(dummy): a copy")
COMPARISON = Column("comparison", pl.String, "which two accuracies are subtracted")

# Draws [layer, problem, model] of one vector; outcomes are averaged over them.
Draws = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Accuracy and probability of the answer in the same cells, [function, cell]."""

    accuracy: Samples
    probability: Samples

    @classmethod
    def of(cls, axes: Sequence[Column], values: Mapping[Any, Tensor], function: Ints) -> "Outcomes":
        """From accuracy and probability [measure, problem] by cell."""
        both = (by_function(each, function).T for each in torch.stack(list(values.values()), dim=1))
        accuracy, probability = (dict(zip(values, each, strict=True)) for each in both)
        return cls(
            Samples.of(ACCURACY, axes, accuracy, over="functions"),
            Samples.of(PROBABILITY, axes, probability, over="functions"),
        )

    def labelled(self, axis: Column, value: str) -> "Outcomes":
        """With one more axis, on which every cell has this value."""
        return Outcomes(self.accuracy.labelled(axis, value), self.probability.labelled(axis, value))

    def best_layer(self, **where: str) -> dict[str, int]:
        """The layer of largest mean accuracy in these cells, as a coordinate; of equal ones the most probable."""
        accuracy, probability = self.accuracy.at(**where), self.probability.at(**where)
        # Rounded: accuracies are counts of problems, and means of means must not tell equal counts apart.
        ranked = zip(accuracy.mean.round(9), probability.mean, accuracy.coordinates("layer"), strict=True)
        return {"layer": max(ranked, key=lambda each: each[:2])[2]}


def by_function(values: Any, function: Ints) -> Array:
    """Means over the problems of each function, float64 [function, ...] from [..., problem]."""
    return by_cluster(np.moveaxis(np.asarray(values, np.float64), -1, 0), function)


def plain_outcomes(model: Model, prompts: Prompts) -> Tensor:
    """Accuracy and probability of each whole answer with nothing changed, float64 [measure, problem]."""
    return unpacked(evaluate(model, prompts.answered(), [whole_answer()])[0])


def asked(model: Model, half: Transfer, kind: str, answer: str) -> Prompts:
    """Prompts of this kind into which vectors are put, with the answer that is looked for."""
    shots = half.shuffled if kind == SHUFFLED else half.zero
    answers = {OWN: None, OTHERS: half.other_answer, DUMMYS: half.dummy.answer}
    return linear(model, shots, answers=answers[answer])


def outcomes_under(
    ctx: Ctx, half: Transfer, kind: str, answers: Sequence[str], vectors: Mapping[str, Draws], *, added: bool
) -> Outcomes:
    """Outcomes of prompts of this kind under every vector before every layer, with the axes vector, answer and layer.

    `added`: the vector is added to the residual stream there instead of taking its place.
    """
    progress = ctx.stage(f"{'adding' if added else 'patching in'} vectors ({kind})")
    names = [(name, draw) for name, draws in vectors.items() for draw in range(len(draws))]
    layers = range(ctx.model.n_layers)
    by_cell: dict[tuple[str, str, int], Tensor] = {}
    cells = [
        Cell((set_values(("resid_pre", layer), vectors[name][draw][layer], added=added, positions=-1),), layer)
        for name, draw in names
        for layer in layers
    ]
    for answer in answers:
        prompts = asked(ctx.model, half, kind, answer).answered()
        values = cell_values(ctx.model, prompts, cells, whole_answer(), progress=progress)
        by_draw = unpacked(values).reshape(2, len(names), len(layers), -1)
        for name in dict.fromkeys(name for name, _ in names):
            mean = by_draw[:, [place for place, (known, _) in enumerate(names) if known == name]].mean(1)
            by_cell |= {(name, answer, layer): mean[:, layer] for layer in layers}
    return Outcomes.of((VECTOR, ANSWER, LAYER), by_cell, half.function)


def difference(first: Samples, second: Samples) -> Samples:
    """The first accuracy minus the second, paired by function."""
    return (first - second).measured_as(DIFFERENCE)


def recovers_half(vector: str, share: Samples) -> Test:
    """Whether a vector recovers more than half of what examples add; `share` are ratio samples, [function, layer]."""
    what = f"accuracy that the {vector} vector adds, minus {RECOVERED_MARGIN:.0%} of what examples add"
    return any_of(what, share.over_share(RECOVERED_MARGIN, BEYOND_HALF), above=0.0)


def recovered(gained: Samples, gap: Samples) -> Samples:
    """`gained` as a share of `gap`, mean by mean, both uncertain; undefined where the gap is not clearly there."""
    share = Samples.ratio(
        RECOVERED,
        gained.axes,
        dict(zip(gained.cells, gained.values.T, strict=True)),
        dict.fromkeys(gained.cells, gap.values[:, 0]),
        over=gained.over,
        units=gained.units,
    )
    if gap.estimate().low[0] > MARGIN:
        return share
    undefined = share.changed(RECOVERED, lambda values: np.full_like(values, np.nan))
    return undefined.because("examples do not clearly raise accuracy")


def outcome_table(name: str, *outcomes: Outcomes) -> Table:
    """Accuracy with bounds, and probability with bounds beside it."""
    return table([each.accuracy for each in outcomes], name, bounded=[each.probability for each in outcomes])


def of_halves(outcomes: Split[Outcomes]) -> tuple[Outcomes, Outcomes]:
    """Both halves, told apart by an axis."""
    return outcomes.selection.labelled(HALF, "selection"), outcomes.estimation.labelled(HALF, "estimation")
