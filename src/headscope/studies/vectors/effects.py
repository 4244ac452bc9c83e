"""What vectors do for answers: accuracy and probability under every vector, by function and layer.

In: queries with the answers that are looked for, and vectors for them. Out: `Outcomes`, samples whose unit is the
function, since problems of one function share its vectors, or the prompt within one task. Task vectors (Hendel et al.
2023) take the place of the final token's residual stream before the layer from which they come; function vectors
(Todd et al. 2024) are added to it before every layer. Where answers have several tokens, the final token is the one
before the first that tells them apart (tasks.telling): what they share is put after every prompt. What a vector there
does decides that token alone; the probability of all that is left of f(x) stands beside it (`joint_probability`).
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
from headscope.measures import joint_probability
from headscope.measures.clusters import by_cluster
from headscope.measures.intervals import Array
from headscope.measures.samples import LAYER, Samples
from headscope.measures.whole_answers import answer_token, unpacked
from headscope.models.model import Model
from headscope.studies.vectors.problems import Ctx
from headscope.sweeps import Cell
from headscope.sweeps.cell_values import cell_values, values_of
from headscope.tables import Column, Quantity, Table
from headscope.tasks.split import Split
from headscope.tasks.telling import ToldApart, told_apart
from headscope.tasks.transfer import OWN, Transfer
from headscope.vocabulary import Progress, silent

MARGIN = 0.1
"""Accuracy by which a vector must beat its control."""
RECOVERED_MARGIN = 0.5
"""Share of what examples add to accuracy that a vector must recover to transfer the task."""

# The prompts into which vectors are put.
ZERO, FEW, SHUFFLED = "zero-shot", "few-shot", "label-shuffled"

ACCURACY = Quantity("accuracy", "share of problems whose answer is the most likely one", "share", (0.0, 1.0))
PROBABILITY = Quantity("probability", "probability of the answer's telling token", "probability", (0.0, 1.0))
JOINT = Quantity("joint_probability", "probability of all that is left of the answer", "probability", (0.0, 1.0))
BEYOND_HALF = Quantity("beyond_half", "accuracy gained minus half of what examples add", "share", (-1.0, 1.0))
RECOVERED = Quantity("recovered_share", "share of what examples add to accuracy that is recovered", "share")
DIFFERENCE = Quantity("difference", "difference of two accuracies on the same problems", "share", (-1.0, 1.0))

HALF = Column("half", pl.String, "selection: problems that choose layers and heads; estimation: the others")
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
    def of(cls, axes: Sequence[Column], values: Mapping[Any, Tensor], half: Transfer) -> "Outcomes":
        """From accuracy and probability [measure, problem] by cell."""
        both = (by_unit(each, half).T for each in torch.stack(list(values.values()), dim=1))
        accuracy, probability = (dict(zip(values, each, strict=True)) for each in both)
        return cls(
            Samples.of(ACCURACY, axes, accuracy, over=half.over),
            Samples.of(PROBABILITY, axes, probability, over=half.over),
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


def by_unit(values: Any, half: Transfer) -> Array:
    """Means over the problems of each unit, float64 [unit, ...] from [..., problem]."""
    return by_cluster(np.moveaxis(np.asarray(values, np.float64), -1, 0), half.unit)


def asked(model: Model, half: Transfer, kind: str) -> ToldApart:
    """Prompts of this kind into which vectors are put, with every answer that is looked for."""
    return told_apart(model, {ZERO: half.zero, FEW: half.few, SHUFFLED: half.shuffled}[kind], half.answers)


def read(model: Model, told: ToldApart, cells: Sequence[Cell], progress: Progress = silent) -> Tensor:
    """Accuracy and probability of each answer's telling token, float64 [measure, answer, cell, problem]."""
    measures = [answer_token(prompts.answers) for prompts in told.prompts.values()]
    return unpacked(values_of(model, told.first, cells, measures, progress=progress))


def plain_outcomes(model: Model, told: ToldApart) -> dict[str, Tensor]:
    """Accuracy and probability of each answer with nothing changed, float64 [measure, problem]."""
    return dict(zip(told.prompts, read(model, told, [Cell(())])[:, :, 0].unbind(1), strict=True))


def joint(model: Model, told: ToldApart, cells: Sequence[Cell], progress: Progress = silent) -> Tensor:
    """Probability of all that is left of f(x), float64 [cell, problem]."""
    return cell_values(model, told.prompts[OWN].answered(), cells, joint_probability(), progress=progress)


def put(vectors: Tensor, *, added: bool) -> list[Cell]:
    """Cells that put vectors [layer, problem, model] into the final token, one before each layer."""
    return [
        Cell((set_values(("resid_pre", layer), own, added=added, positions=-1),), layer)
        for layer, own in enumerate(vectors)
    ]


def outcomes_under(ctx: Ctx, half: Transfer, kind: str, vectors: Mapping[str, Draws], *, added: bool) -> Outcomes:
    """Outcomes of prompts of this kind under every vector before every layer, with the axes vector, answer and layer.

    `added`: the vector is added to the residual stream there instead of taking its place.
    """
    progress = ctx.stage(f"{'adding' if added else 'patching in'} vectors ({kind})")
    draws = [(name, draw) for name, own in vectors.items() for draw in own]
    told = asked(ctx.model, half, kind)
    values = read(ctx.model, told, [cell for _, draw in draws for cell in put(draw, added=added)], progress)
    by_draw = values.reshape(*values.shape[:2], len(draws), -1, len(half))  # [measure, answer, draw, layer, problem]
    by_cell: dict[tuple[str, str, int], Tensor] = {}
    for name in vectors:
        mean = by_draw[:, :, [place for place, (known, _) in enumerate(draws) if known == name]].mean(2)
        for answer, own in zip(told.prompts, mean.unbind(1), strict=True):
            by_cell |= {(name, answer, layer): each for layer, each in enumerate(own.unbind(1))}
    return Outcomes.of((VECTOR, ANSWER, LAYER), by_cell, half)


def joint_under(ctx: Ctx, half: Transfer, vectors: Mapping[str, Tensor], *, added: bool) -> Samples | None:
    """The joint probability of f(x) of zero-shot prompts under vectors, by vector and layer.

    None where every answer is one token from its telling one on: then it is that token's probability.
    """
    told = asked(ctx.model, half, ZERO)
    if all(len(answer) == 1 for answer in told.prompts[OWN].answer_tokens):
        return None
    progress = ctx.stage("reading whole answers")
    cells = [cell for own in vectors.values() for cell in put(own, added=added)]
    values = joint(ctx.model, told, cells, progress).reshape(len(vectors), -1, len(half))
    axes = {VECTOR: list(vectors), LAYER: range(ctx.model.n_layers)}
    return Samples.grid(JOINT, axes, by_unit(values, half), over=half.over)


def difference(first: Samples, second: Samples) -> Samples:
    """The first accuracy minus the second, paired by unit."""
    return (first - second).measured_as(DIFFERENCE)


def recovers_half(vector: str, share: Samples) -> Test:
    """Whether a vector recovers more than half of what examples add; `share` are ratio samples, [unit, layer]."""
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


def outcome_table(name: str, *outcomes: Outcomes, beside: Sequence[Samples] = ()) -> Table:
    """Accuracy with bounds, and probability with bounds beside it; the means of what else is of the same cells."""
    probability = [each.probability for each in outcomes]
    return table([each.accuracy for each in outcomes], name, bounded=probability, beside=beside)


def of_halves(outcomes: Split[Outcomes]) -> tuple[Outcomes, Outcomes]:
    """Both halves, told apart by an axis."""
    return outcomes.selection.labelled(HALF, "selection"), outcomes.estimation.labelled(HALF, "estimation")
