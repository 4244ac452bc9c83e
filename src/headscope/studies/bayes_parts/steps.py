"""What each further example adds to the stream at the read-out, one function at a time.

In: problems about one function. Out: `Steps`: the steps d_n, how well they agree over n, and what noise alone
would give. d_n is the stream with n examples minus the stream with n - 1 of them, minus the same with shuffled
labels (which has the examples without the function). Every d_n has prompts of its own: steps that share prompts
share noise, and look opposed (cosine -.48) where nothing moves at all.
"""

from dataclasses import dataclass

import numpy as np

from headscope import tasks
from headscope.measures.directions import agreement, first_share, flipped_means, random_signs
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.studies.bayes_parts.inside import at_readout, stream_sites
from headscope.studies.bayes_parts.problems import Problems, first_pairs
from headscope.tasks.functions import Ints
from headscope.tasks.shots import Shots

MOST_STEPS = 8
DRAWS = 100


@dataclass(frozen=True)
class Steps:
    """One function's steps: `mean` [site, model] over n; agreement and its nulls by site.

    `across` is the mean cosine of different steps, `same` that of a step with itself on other prompts; `share` the
    first component's share of the steps. `null_across`, `null_share` [draw, site]: with prompts' signs flipped.
    """

    mean: Array
    across: Array
    same: Array
    share: Array
    null_across: Array
    null_share: Array


def steps_about(model: Model, problems: Problems, functions: Ints, *, prompts: int, seed: int) -> list[Steps]:
    """The steps of each function [function, 2], from `prompts` (an even number) fresh ones for each n."""
    last = min(MOST_STEPS, problems.shots)
    bytes_each = 8 * last * prompts * model.d_model * (model.n_layers + 1)
    at_once = max(1, model.memory_bytes // (8 * bytes_each))
    found = []
    for start in range(0, len(functions), at_once):
        some = functions[start : start + at_once]
        seeds = [(seed * len(functions) + start) * MOST_STEPS + n for n in range(last)]
        each = [_differences(model, problems, some, n + 1, prompts, seeds[n]) for n in range(last)]
        by_function = np.stack(each, axis=2)
        found += [agreement_of(values, seeds[0] + index) for index, values in enumerate(by_function)]
    return found


def agreement_of(values: Array, seed: int, draws: int = DRAWS) -> Steps:
    """From one difference per prompt, [site, step, prompt, model]: pure, and so to be tested on made-up values."""
    _, steps, prompts, _ = values.shape
    half = prompts // 2
    signs = random_signs(draws, steps, prompts, seed)
    found: dict[str, list[object]] = {name: [] for name in Steps.__dataclass_fields__}
    for site in values:
        means = site.mean(1)
        across, same = agreement(site[:, :half].mean(1), site[:, half:].mean(1))
        halves = (slice(None, half), slice(half, None))
        first, second = (flipped_means(site[:, part], signs[:, :, part]) for part in halves)
        noise = flipped_means(site, signs)
        found["mean"].append(means.mean(0))
        found["across"].append(across)
        found["same"].append(same)
        found["share"].append(first_share(means))
        found["null_across"].append([agreement(*pair)[0] for pair in zip(first, second, strict=True)])
        found["null_share"].append([first_share(one) for one in noise])
    arrays = {name: np.array(listed) for name, listed in found.items()}
    nulls = {name: arrays[name].T for name in ("null_across", "null_share")}
    return Steps(**{**arrays, **nulls})


def _differences(model: Model, problems: Problems, functions: Ints, n: int, prompts: int, seed: int) -> Array:
    """d_n prompt by prompt, [function, site, prompt, model]."""
    # Two pairs at least: a single label has no other place to go to.
    drawn = problems.about(np.repeat(functions, prompts, axis=0), shots=max(n, 2), seed=seed)
    values = _step(model, drawn, n) - _step(model, drawn.with_shuffled_labels(seed), n)
    return np.moveaxis(values.reshape(len(values), len(functions), prompts, -1), 1, 0)


def _step(model: Model, shots: Shots, n: int) -> Array:
    sites = stream_sites(model)
    after, before = (
        at_readout(model, tasks.linear(model, first_pairs(shots, count)), sites) for count in (n, n - 1)
    )
    return after - before
