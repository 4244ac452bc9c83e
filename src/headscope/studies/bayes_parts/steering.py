"""Whether j times a function's step, added to a run without examples, acts like j examples.

In: a function's mean step by layer, and vectors of the same length that should do nothing. Out: log-odds of the
function's answers by layer, direction and dose j, from sweeps over `add` cells at the read-out. Three controls:
random directions; another function's step, which carries what examples of any function do; and the answer that
the function gives to *another* input, which rises too if the step only says which numbers are frequent.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from headscope import tasks
from headscope.interventions import add
from headscope.measures.directions import random_like
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.studies.bayes_parts.inside import Progress, answer_log_odds, log_odds_under
from headscope.studies.bayes_parts.problems import Problems, first_pairs
from headscope.sweeps import Cell
from headscope.tasks.functions import Ints

OWN, OTHER, RANDOM, ELSEWHERE = (
    "its own step",
    "another function's step",
    "random directions",
    "its own step, another input's answer",
)
CONTROLS = (OTHER, RANDOM, ELSEWHERE)
REAL = "real examples"
RANDOM_DIRECTIONS = 3
QUERIES = 10


def steered(
    model: Model,
    problems: Problems,
    function: Ints,
    own: Array,
    other: Array,
    doses: Sequence[int],
    seed: int,
    progress: Progress,
) -> Mapping[str, Array]:
    """Mean log-odds over inputs, [layer, dose], for every direction; `own` and `other` are [layer, model].

    Every vector is scaled to the length of `own`. NaN for the last control where all answers are equal.
    """
    asked = _asked(problems, function, seed)
    swapped = np.roll(asked.answer, 1)
    layers = range(model.n_layers)
    vectors = {
        OWN: [own[layer][None] for layer in layers],
        OTHER: [_as_long(other[layer], own[layer])[None] for layer in layers],
        RANDOM: [random_like(own[layer], RANDOM_DIRECTIONS, seed + layer) for layer in layers],
    }
    prompts = tasks.linear(model, asked)
    found = {}
    for direction, by_layer in vectors.items():
        count = len(by_layer[0])
        values = log_odds_under(model, prompts, _cells(by_layer, doses), f"adding {direction}", progress)
        shaped = values.reshape(model.n_layers, count, len(doses), -1)
        found[direction] = shaped.mean(axis=(1, 3))
    differs = swapped != asked.answer
    elsewhere = tasks.linear(model, asked, answers=swapped)
    values = log_odds_under(model, elsewhere, _cells(vectors[OWN], doses), f"adding {OWN}", progress)
    kept = values[:, differs].mean(1) if differs.any() else np.full(len(values), np.nan)
    return {**found, ELSEWHERE: kept.reshape(model.n_layers, len(doses))}


def with_examples(
    model: Model, problems: Problems, functions: Ints, doses: Sequence[int], seed: int
) -> Array:
    """Mean log-odds of each function's answers after so many real examples, [function, dose]."""
    each = np.repeat(functions, QUERIES, axis=0)
    drawn = problems.about(each, shots=max(doses), seed=seed)
    values = [answer_log_odds(model, tasks.linear(model, first_pairs(drawn, dose))) for dose in doses]
    by_query = np.stack(values, axis=1).reshape(len(functions), QUERIES, len(doses))
    return np.asarray(by_query.mean(axis=1), np.float64)


def _asked(problems: Problems, function: Ints, seed: int) -> tasks.Shots:
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
