"""What vectors do where they are put: outcomes of every question under every vector, layer by layer.

In: questions with the answers that are looked for, and vectors for them. Out: `Reached`, the accuracy and the
probability of each answer. Task vectors (Hendel et al. 2023) take the place of the stream at the read-out of a
prompt without pairs, at the layer from which they come. Function vectors (Todd et al. 2024) are added to that
stream, the same at every layer, also on prompts whose labels are shuffled. Which layer is looked at is chosen
elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.interventions import set_values
from headscope.models.model import Model
from headscope.studies.vectors_parts.problems import Problems
from headscope.studies.vectors_parts.values import (
    head_outputs,
    means_by,
    outcomes,
    random_like,
    streams,
    through_output,
)
from headscope.sweeps import Cell
from headscope.tasks import linear
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head, Progress, silent

# The answers that are looked for.
OWN, OTHERS, DUMMYS = "own", "other function's", "dummy query's"
# Task vectors, those of single prompts and their means.
TASK, SHUFFLED, OTHER = "task vector", "label-shuffled", "other function"
MEAN, MEAN_SHUFFLED, MEAN_OTHER = "mean task vector", "mean label-shuffled", "mean of other function"
# Function vectors.
FUNCTION, RANDOM_HEADS, RANDOM_DIRECTION = "function vector", "random heads", "random direction"
OTHER_FUNCTION, ALL_HEADS = "other function vector", "all heads"

# Draws [layer, problem, model] of one vector; outcomes are averaged over them.
Draws = Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Reached:
    """Outcomes float64 [measure, layer, problem] by vector and answer, and `plain` [measure, problem] by answer."""

    under: Mapping[tuple[str, str], Tensor]
    plain: Mapping[str, Tensor]


def task_vectors(model: Model, problems: Problems) -> dict[str, Draws]:
    """The stream at the read-out of prompts with dummy queries: single prompts, and means by function."""
    own, seed = problems.dummy, problems.seed
    prompts = {TASK: own, SHUFFLED: own.with_shuffled_labels(seed), OTHER: problems.other}
    found: dict[str, Draws] = {
        name: [streams(model, linear(model, shots))] for name, shots in prompts.items()
    }
    sources = problems.sources
    for name, shots in ((MEAN, sources), (MEAN_SHUFFLED, sources.with_shuffled_labels(seed))):
        by_layer = streams(model, linear(model, shots))
        means = torch.stack([means_by(stream, problems.source_function) for stream in by_layer])
        found[name] = [means[:, problems.function]]
        if name == MEAN:
            found[MEAN_OTHER] = [means[:, problems.partner]]
    return found


def mean_heads(model: Model, problems: Problems) -> dict[int, Tensor]:
    """Mean z at the read-out over each function's sources, [function, head, head_dim] by layer."""
    found = head_outputs(model, linear(model, problems.sources))
    return {layer: means_by(z, problems.source_function) for layer, z in found.items()}


def function_vectors(
    model: Model,
    problems: Problems,
    means: Mapping[int, Tensor],
    top: Sequence[Head],
    random_heads: Sequence[Sequence[Head]],
) -> dict[str, Draws]:
    """What the top heads write on average on clean prompts, and what it is compared with."""

    def everywhere(vectors: Tensor) -> Tensor:
        return vectors.expand(model.n_layers, *vectors.shape)

    whole = through_output(model, means, top)
    own = whole[problems.function]
    drawn = [through_output(model, means, heads)[problems.function] for heads in random_heads]
    directions = [random_like(own, problems.seed + k) for k in range(max(1, len(random_heads)))]
    return {
        FUNCTION: [everywhere(own)],
        RANDOM_HEADS: [everywhere(vectors) for vectors in drawn],
        RANDOM_DIRECTION: [everywhere(vectors) for vectors in directions],
        OTHER_FUNCTION: [everywhere(whole[problems.partner])],
        ALL_HEADS: [everywhere(through_output(model, means, model.heads)[problems.function])],
    }


def questions(model: Model, problems: Problems, *, shuffled: bool = False) -> dict[str, Prompts]:
    """The prompts into which vectors are put, once for each answer that is looked for."""
    shots = problems.shuffled if shuffled else problems.zero
    answers = {OWN: None, OTHERS: problems.other_answer, DUMMYS: problems.dummy.answer}
    return {name: linear(model, shots, answers=values) for name, values in answers.items()}


def reached(
    model: Model,
    asked: Mapping[str, Prompts],
    vectors: Mapping[str, Draws],
    plain: Mapping[str, Tensor],
    *,
    added: bool,
    progress: Progress = silent,
) -> Reached:
    """Outcomes of every question under every vector at every layer's entry.

    `added`: the vector is added to the stream there instead of taking its place.
    """
    names = [(name, draw) for name, draws in vectors.items() for draw in range(len(draws))]
    layers = range(model.n_layers)
    cells = [
        Cell(
            (set_values(("resid_pre", layer), vectors[name][draw][layer], added=added, positions=-1),), layer
        )
        for name, draw in names
        for layer in layers
    ]
    found: dict[tuple[str, str], Tensor] = {}
    for answer, prompts in asked.items():
        values = outcomes(model, prompts, cells, progress)
        # [measure, vector and draw, layer, problem]
        by_name = values.reshape(len(values), len(names), len(layers), -1)
        for name, draws in vectors.items():
            own = [place for place, (known, _) in enumerate(names) if known == name]
            if draws:
                found[name, answer] = by_name[:, own].mean(1)
    return Reached(found, plain)


def best_layer(outcome: Tensor) -> int:
    """The layer of largest mean accuracy in outcomes [measure, layer, problem]; of equal ones the most probable."""
    accuracy, probability = outcome.mean(-1)
    return max(range(len(accuracy)), key=lambda layer: (float(accuracy[layer]), float(probability[layer])))
