"""What each further example adds to the final token's residual stream, one function at a time.

In: problems about one function. Out: `Increments`: d_n is the residual stream with n examples minus that with n - 1,
minus the same with shuffled labels; how well the d_n of different n agree, and what noise alone would give. Every
d_n has prompts of its own: increments that share prompts share noise, and look opposed (cosine -.48) where nothing
moves.
"""

from dataclasses import dataclass

import numpy as np

from headscope import tasks
from headscope.measures.directions import agreement, first_share, flipped_means, random_signs
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.studies.bayes.problems import Problems, truncated_context
from headscope.studies.sites import at_final_token, residual_sites, stacked
from headscope.tasks.functions import Ints
from headscope.tasks.shots import Shots

MOST_INCREMENTS = 8
DRAWS = 100


@dataclass(frozen=True)
class Increments:
    """One function's increments: `mean` [site, model] over n; their agreement and its nulls by site.

    `different` is the mean cosine of different increments, `same` that of an increment with itself on other prompts;
    `share` the first component's share. `null_different`, `null_share` [site, draw]: with prompts' signs flipped.
    """

    mean: Array
    different: Array
    same: Array
    share: Array
    null_different: Array
    null_share: Array


def increments_about(
    model: Model, problems: Problems, functions: Ints, *, prompts: int, seed: int
) -> list[Increments]:
    """The increments of each function [function, 2], from `prompts` (an even number) fresh ones for each n."""
    last = min(MOST_INCREMENTS, problems.shots)
    bytes_each = 8 * last * prompts * model.d_model * (model.n_layers + 1)
    at_once = max(1, model.memory_bytes // (8 * bytes_each))
    listed = []
    for start in range(0, len(functions), at_once):
        some = functions[start : start + at_once]
        seeds = [(seed * len(functions) + start) * MOST_INCREMENTS + n for n in range(last)]
        each = [_differences(model, problems, some, n + 1, prompts, seeds[n]) for n in range(last)]
        by_function = np.stack(each, axis=2)
        listed += [agreement_of(values, seeds[0] + index) for index, values in enumerate(by_function)]
    return listed


def agreement_of(values: Array, seed: int, draws: int = DRAWS) -> Increments:
    """From one difference per prompt, [site, increment, prompt, model]."""
    _, steps, prompts, _ = values.shape
    half = prompts // 2
    signs = random_signs(draws, steps, prompts, seed)
    by_site = []
    for site in values:
        means = site.mean(1)
        agreed = agreement(site[:, :half].mean(1), site[:, half:].mean(1))
        first, second = (flipped_means(site[:, h], signs[:, :, h]) for h in (slice(half), slice(half, None)))
        null = [agreement(*pair)[0] for pair in zip(first, second, strict=True)]
        null_share = [first_share(one) for one in flipped_means(site, signs)]
        by_site.append((means.mean(0), *agreed, first_share(means), null, null_share))
    return Increments(*(np.array(column) for column in zip(*by_site, strict=True)))


def _differences(model: Model, problems: Problems, functions: Ints, n: int, prompts: int, seed: int) -> Array:
    """d_n prompt by prompt, [function, site, prompt, model]."""
    # Two pairs at least: a single label has no other place to go to.
    drawn = problems.about(np.repeat(functions, prompts, axis=0), shots=max(n, 2), seed=seed)
    values = _increment(model, drawn, n) - _increment(model, drawn.with_shuffled_labels(seed), n)
    return np.moveaxis(values.reshape(len(values), len(functions), prompts, -1), 1, 0)


def _increment(model: Model, shots: Shots, n: int) -> Array:
    prompts = (tasks.linear(model, truncated_context(shots, count)) for count in (n, n - 1))
    after, before = (stacked(at_final_token(model, each, residual_sites(model))) for each in prompts)
    return after - before
