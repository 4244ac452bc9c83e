"""What j times a vector does to the answer when it is added to the final token of a run without examples.

In: a function's mean increment by layer, and vectors of the same length that should do nothing. Out: log-odds of the
function's answers by direction, layer and dose j. Three controls: random directions; another function's increment,
which has what examples of any function bring; and the answer that the function gives to *another* input, which rises
too if the increment only tells which numbers are frequent. Steering by added vectors: Turner et al. 2023.
"""

from collections.abc import Sequence

import numpy as np

from headscope import tasks
from headscope.interventions import add
from headscope.measures.directions import random_like
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.studies.bayes.activations import answer_log_odds, log_odds_under
from headscope.studies.bayes.problems import Ctx, Problems, truncated_context
from headscope.sweeps import Cell
from headscope.tasks.functions import Ints

OWN, OTHER, RANDOM = "own increment", "another function's increment", "random directions"
ELSEWHERE = "own increment, other answer"
CONTROLS = (OTHER, RANDOM, ELSEWHERE)
RANDOM_DIRECTIONS = 3
QUERIES = 10


def effects_of_adding(
    ctx: Ctx, asked: tasks.Shots, own: Array, other: Array, doses: Sequence[int], seed: int
) -> dict[str, Array]:
    """Mean log-odds over inputs, [layer, dose], for every direction; `own` and `other` are [layer, model].

    Every vector is scaled to the length of `own`. NaN for the last control where all answers are equal.
    """
    model = ctx.model
    layers = range(model.n_layers)
    vectors = {
        OWN: [own[layer][None] for layer in layers],
        OTHER: [_as_long(other[layer], own[layer])[None] for layer in layers],
        RANDOM: [random_like(own[layer], RANDOM_DIRECTIONS, seed + layer) for layer in layers],
    }
    prompts, means = tasks.linear(model, asked), {}
    for direction, by_layer in vectors.items():
        values = log_odds_under(ctx, prompts, _cells(by_layer, doses), f"adding {direction}")
        means[direction] = values.reshape(len(layers), len(by_layer[0]), len(doses), -1).mean(axis=(1, 3))
    swapped = np.roll(asked.answer, 1)
    differs = swapped != asked.answer
    elsewhere = tasks.linear(model, asked, answers=swapped)
    values = log_odds_under(ctx, elsewhere, _cells(vectors[OWN], doses), f"adding {OWN}")
    kept = values[:, differs].mean(1) if differs.any() else np.full(len(values), np.nan)
    return {**means, ELSEWHERE: kept.reshape(len(layers), len(doses))}


def with_examples(model: Model, problems: Problems, functions: Ints, doses: Sequence[int], seed: int) -> Array:
    """Mean log-odds of each function's answers after so many real examples, [function, dose]."""
    drawn = problems.about(np.repeat(functions, QUERIES, axis=0), shots=max(doses), seed=seed)
    values = [answer_log_odds(model, tasks.linear(model, truncated_context(drawn, dose))) for dose in doses]
    by_query = np.stack(values, axis=1).reshape(len(functions), QUERIES, len(doses))
    return np.asarray(by_query.mean(axis=1), np.float64)


def zero_shot(problems: Problems, function: Ints, seed: int) -> tasks.Shots:
    """Different inputs of one function, without examples."""
    low, high = problems.functions.inputs
    inputs = np.random.default_rng((problems.seed, seed)).permutation(np.arange(low, high + 1))[:QUERIES]
    parameters = np.tile(function, (len(inputs), 1))
    return problems.about(parameters, shots=2, seed=seed).without_context().asking(inputs)


def _cells(vectors: Sequence[Array], doses: Sequence[int]) -> list[Cell]:
    """Layer by layer, vector by vector, dose by dose."""
    return [
        Cell((add(("resid_pre", layer), vector, scale=float(dose), positions="readout"),), layer, None, None)
        for layer, several in enumerate(vectors)
        for vector in several
        for dose in doses
    ]


def _as_long(vector: Array, pattern: Array) -> Array:
    length = float(np.linalg.norm(vector))
    return vector * (float(np.linalg.norm(pattern)) / length) if length else vector
