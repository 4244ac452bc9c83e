"""Claims of the bayes learning study, simulated: learners whose every answer is known, on prompts of pairs.

A learner says what it gives the function's value after 0, 1, 2, ... pairs of each prompt, [example, shot], and is
asked about changed prompts as a model is. `judged` puts it in the model's place.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from headscope.measures import exact_predictive
from headscope.measures.posterior import function_log_odds
from headscope.results.study import Claim
from headscope.studies.bayes.curve import rises
from headscope.studies.bayes.families import bayesian_extrapolates, errors
from headscope.studies.bayes.near_exact import differences, stays_near
from headscope.studies.bayes.observations import EXACT, MODEL, Observations, observations, updates_to_judge
from headscope.studies.bayes.order import changes, exact_answer, halfway_up, informed_rise, no_order, reorderings
from headscope.studies.bayes.predictions import Predictions, function_values
from headscope.studies.bayes.problems import BayesSettings, Ctx
from headscope.studies.bayes.updates import largest_steps, linear_log_odds, misfits
from headscope.studies.context import Context
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.shots import Shots
from tests.truth import Case

LANGUAGE = PairLanguage()
SHOTS, NOISE, LOW, HIGH = 15, LANGUAGE.noise, 0.02, 0.7
Learner = Callable[[Shots], Tensor]


def exact(shots: Shots) -> Tensor:
    """The exact posterior."""
    predictive = exact_predictive(shots, "grid", noise=NOISE)
    return predictive.gather(-1, function_values(shots)[..., None]).squeeze(-1)


def noisy(shots: Shots) -> Tensor:
    """The exact posterior, with an error in the log-odds that the very numbers of a prompt decide."""
    seed = [int(each) for each in (shots.x.sum(), (shots.y * np.arange(1, 1 + shots.y.shape[1])).sum())]
    return (exact(shots).logit() + errors_of(shots, 0.1, seed)).sigmoid()


def last_six(shots: Shots) -> Tensor:
    """The exact posterior of the last six pairs alone."""
    each = (shots.first(n) for n in range(shots.x.shape[1] + 1))
    kept = (few.keeping(np.tile(np.arange(max(0, n - 6), n), (len(few), 1))) for n, few in enumerate(each))
    return torch.stack([exact_answer(few, NOISE) for few in kept], dim=1)


def jump(shots: Shots, *, jumps: int = 1) -> Tensor:
    """Knows nothing, and all of it from a moment on that has nothing to do with what the pairs say."""
    at = np.random.default_rng(1).integers(1, 12, (len(shots), jumps))
    done = (np.arange(shots.x.shape[1] + 1)[None, :, None] >= at[:, None]).mean(-1)
    return torch.from_numpy(LOW + (HIGH - LOW) * done)


def two_jumps(shots: Shots) -> Tensor:
    """Half of it at one moment, half at another."""
    return jump(shots, jumps=2)


def power(shots: Shots) -> Tensor:
    """A power law of the number of pairs, whatever they say."""
    n = torch.arange(1.0, shots.x.shape[1] + 2).double()
    return torch.exp(-2 * n**-0.7 - 0.2 + errors_of(shots, 0.05, [2]))


def logistic(shots: Shots) -> Tensor:
    """The updates of the article, of the number of pairs alone."""
    n = torch.arange(shots.x.shape[1] + 1.0).double()
    return (LOW + (HIGH - LOW) * torch.sigmoid(0.7 * n - 4)) * errors_of(shots, 0.02, [3]).exp()


def errors_of(shots: Shots, size: float, seed: list[int]) -> Tensor:
    """Normal errors, [example, shot]."""
    shape = (len(shots), shots.x.shape[1] + 1)
    return torch.from_numpy(np.random.default_rng(seed).normal(0, size, shape))


def observed(learner: Learner, *, n: int, seed: int, shots: int = SHOTS, learns: bool = True) -> Observations:
    """The learner in the model's place; it learns nothing from shuffled labels, or nothing at all."""
    asked = Shots.draw(LANGUAGE, shots=shots, n=n, noise=NOISE, seed=seed)
    shuffled, p = asked.with_shuffled_labels(seed), learner(asked)
    p = p if learns else p[:, :1].expand_as(p)
    return Observations(
        shots=asked,
        noise=NOISE,
        right=function_values(asked),
        model=Predictions(p.log(), None),
        shuffled=Predictions(p[:, :1].expand_as(p).log(), None),
        exact={EXACT: exact_predictive(asked, "grid", noise=NOISE)},
        exact_shuffled=exact_predictive(shuffled, "grid", noise=NOISE),
        belief=function_log_odds(asked, noise=NOISE),
        regressed={},
    )


def context(seen: Observations, *, resamples: int = 60) -> Ctx:
    """A context in which these observations were made."""
    ctx: Ctx = Context(BayesSettings(n=len(seen.shots), resamples=resamples), ())
    ctx._known[observations] = seen
    return ctx


def judged_rises(ctx: Ctx, _: Learner) -> Claim:
    return rises(ctx.once(observations).beyond_shuffled)


def judged_updates(ctx: Ctx, _: Learner) -> Claim:
    return linear_log_odds(misfits(ctx), largest_steps(ctx.once(observations)), updates_to_judge(ctx))


def judged_extrapolation(ctx: Ctx, _: Learner) -> Claim:
    return bayesian_extrapolates(errors(ctx), updates_to_judge(ctx))


def judged_distance(ctx: Ctx, _: Learner) -> Claim:
    seen = ctx.once(observations)
    return stays_near(*differences(seen), seen.rise.at(learner=EXACT))


def judged_order(ctx: Ctx, learner: Learner) -> Claim:
    seen = ctx.once(observations)
    answering = {MODEL: lambda shots: learner(shots)[:, -1], EXACT: lambda shots: exact_answer(shots, NOISE)}
    change, early = changes(reorderings(seen.shots, halfway_up(seen.model.probability), 0), answering)
    return no_order(change, informed_rise(early, seen), updates_to_judge(ctx))


JUDGES: Mapping[str, Callable[[Ctx, Learner], Claim]] = {
    "rises": judged_rises,
    "linear_log_odds": judged_updates,
    "bayesian_extrapolates": judged_extrapolation,
    "near_exact": judged_distance,
    "order": judged_order,
}


def judged(claim: str, learner: Learner, *, n: int = 300, seed: int = 0, learns: bool = True) -> Claim:
    """What the study says of this learner."""
    return JUDGES[claim](context(observed(learner, n=n, seed=seed, learns=learns)), learner)


def moved(most: float) -> Learner:
    """The exact posterior plus an error from 0 to `most`, uniform, which the very numbers of a prompt decide."""

    def learner(shots: Shots) -> Tensor:
        weights = np.arange(1, 1 + shots.y.shape[1])
        seeds = (shots.y * weights).sum(1) + 1000 * shots.x.sum(1)
        return exact(shots) + most * torch.tensor([[np.random.default_rng(each).random()] for each in seeds])

    return learner


def scaled(share: float) -> Learner:
    """The exact posterior, which rises by only this share."""
    return lambda shots: exact(shots)[:, :1] + share * (exact(shots) - exact(shots)[:, :1])


def mostly_one_jump(shots: Shots) -> Tensor:
    """Most of what is learnt in one jump, the rest in that of another prompt, which now and then is the same."""
    return 0.78 * jump(shots) + 0.22 * jump(shots).flip(0)


def between(share: float) -> Learner:
    """Part updates of the article, part a power law."""
    return lambda shots: share * logistic(shots) + (1 - share) * power(shots)


# Supported, refuted, and the nearest world in which the claim is false: the margin itself.
WORLDS: Mapping[str, tuple[int, Mapping[int, Learner]]] = {
    "rises": (50, {1: exact, -1: scaled(0.02), 0: scaled(0.05 / 0.684)}),
    "linear_log_odds": (300, {1: exact, -1: jump, 0: mostly_one_jump}),
    "bayesian_extrapolates": (300, {1: logistic, -1: power, 0: between(0.16)}),
    "near_exact": (50, {1: noisy, -1: logistic, 0: moved(0.2)}),
    "order": (100, {1: noisy, -1: last_six, 0: moved(0.15)}),
}


def case(claim: str) -> Case:
    n, learners = WORLDS[claim]
    return Case("bayes", claim, "learner", lambda seed, effect: judged(claim, learners[int(effect)], n=n, seed=seed))


CASES: tuple[Case, ...] = tuple(map(case, WORLDS))
