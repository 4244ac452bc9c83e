"""The model, its controls and ideal observers on the same prompts: what every question about the curve starts from.

In: the context of the study. Out: `Observations`, computed once, in which nothing is averaged; samples over the
number of examples; and what every claim about updates needs (the curve rises; prompts show pairs of their own). The
exact posterior (Xie et al. 2022 read in-context learning as its approximation) is enumerated on the very numbers
that are shown, with the noise that an observer with the model's experience expects. Not done here: judging.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import BadArgument
from headscope.evidence import Test
from headscope.measures import exact_predictive, hypothesis_posterior
from headscope.measures.baselines import regression
from headscope.measures.samples import Samples
from headscope.studies.bayes.predictions import (
    Predictions,
    answer_log_probability,
    function_values,
    predictions,
)
from headscope.studies.bayes.settings import BayesSettings
from headscope.studies.context import Context
from headscope.tables import Column, Quantity
from headscope.tasks.linear import functions_of
from headscope.tasks.shots import Shots

MIN_SHOTS = 2
RISE_MARGIN = 0.05
MODEL, SHUFFLED, BEYOND = "model", "model, labels shuffled", "model beyond shuffled labels"
EXACT, EXACT_TRAINING = "exact posterior, all functions", "exact posterior, training functions"
IMPOSSIBLE = "no function of the family allows what some prompts show"

LEARNER = Column("learner", pl.String, "whose answer: the model, an exact posterior, or a regression")
SHOTS = Column("shots", pl.Int64, "pairs shown before", "pairs")
RISE = Quantity(
    "rise", "probability of the function's value after all pairs minus that without any", within=(-1.0, 1.0)
)


@dataclass(frozen=True, eq=False)
class Observations:
    """Everything that is looked at, on the same prompts throughout.

    `right` [example, shot] are the function's values; `exact` the predictive over numbers [example, shot, number]
    by its name, and `exact_shuffled` that of the first on label-shuffled pairs; `belief` [example, shot] the
    log-odds of the true function in the exact posterior itself; `regressed` [example, shot] what regressions answer;
    `permuted` [example] the model's log-probability after the same pairs in another order.
    """

    shots: Shots
    noise: float
    right: Tensor
    model: Predictions
    shuffled: Predictions
    exact: Mapping[str, Tensor]
    exact_shuffled: Tensor
    exact_permuted: Tensor
    belief: Float[Tensor, "example shot"]
    regressed: Mapping[str, Tensor]
    permuted: Float[Tensor, " example"]

    @property
    def exact_probability(self) -> Float[Tensor, "example shot"]:
        """Of the function's value, under the prior over all functions."""
        return of_right(self.exact[EXACT], self.right)

    @property
    def rise(self) -> Samples:
        """From no pairs to all of them, [prompt, learner]."""
        curves = {
            MODEL: self.model.probability,
            SHUFFLED: self.shuffled.probability,
            EXACT: self.exact_probability,
        }
        rises = {learner: curve[:, -1] - curve[:, 0] for learner, curve in curves.items()}
        return Samples.of(RISE, (LEARNER,), rises).because(IMPOSSIBLE, learner=EXACT)

    @property
    def rise_beyond_shuffled(self) -> Samples:
        """Paired by prompt: what the examples teach beyond which numbers there are, [prompt]."""
        return self.rise.at(learner=MODEL) - self.rise.at(learner=SHUFFLED)


def observations(ctx: Context[BayesSettings]) -> Observations:
    """Run the model on the prompts and their controls; enumerate the exact posterior on the very same numbers.

    Raises:
        BadArgument: for fewer than two pairs in a prompt.
    """
    settings, model = ctx.settings, ctx.model
    shots = settings.draw(model)
    if shots.x.shape[1] < MIN_SHOTS:
        raise BadArgument(
            f"cannot study updates with shots={shots.x.shape[1]}: labels must be shuffled, so use --shots "
            f"{MIN_SHOTS} or more."
        )
    shuffled, permuted = shots.with_shuffled_labels(settings.seed), shots.permuted(settings.seed)
    read = []
    for done, shown in enumerate((shots, shuffled)):
        ctx.progress("reading the curve", done, 3)
        read.append(predictions(model, shown))
    ctx.progress("reading the curve", 2, 3)
    language = functions_of(model)
    noise = shots.noise if language is None else language.noise
    exact = {EXACT: exact_predictive(shots, "grid", noise=noise)}
    if shots.functions.held_out:
        exact[EXACT_TRAINING] = exact_predictive(shots, "training", noise=noise)
    return Observations(
        shots=shots,
        noise=noise,
        right=function_values(shots),
        model=read[0],
        shuffled=read[1],
        exact=exact,
        exact_shuffled=exact_predictive(shuffled, "grid", noise=noise),
        exact_permuted=exact_predictive(permuted, "grid", noise=noise),
        belief=belief_in_the_function(shots, noise),
        regressed={
            "least squares": torch.from_numpy(regression(shots.x, shots.y, shots.query)),
            "ridge": torch.from_numpy(regression(shots.x, shots.y, shots.query, ridge=settings.ridge)),
        },
        permuted=answer_log_probability(model, permuted),
    )


def belief_in_the_function(shots: Shots, noise: float) -> Float[Tensor, "example shot"]:
    """Log-odds of the true function against all others in the exact posterior, all equally likely at first."""
    functions = shots.functions
    posterior = hypothesis_posterior(
        torch.from_numpy(shots.hypotheses),
        torch.from_numpy(shots.y),
        torch.from_numpy(functions.prior("grid")),
        noise=noise,
        n_answers=functions.n_numbers,
    )
    # Two pairs of parameters may be one function: compared by value.
    inputs = np.arange(functions.inputs[0], functions.inputs[1] + 1)
    every = functions.values(functions.grid[:, None], inputs)
    own = functions.values(shots.parameters[:, None], inputs)
    is_own = torch.from_numpy((own[:, None] == every).all(-1))[:, None].expand_as(posterior)
    follows = torch.where(is_own, posterior, 0.0).sum(-1)
    others = torch.where(is_own, 0.0, posterior).sum(-1)
    return follows.log() - others.log()


def of_right(predictive: Tensor, right: Tensor) -> Tensor:
    """Probability of the function's values, [example, shot], from that of every number."""
    return predictive.gather(-1, right[..., None]).squeeze(-1)


def over_shots(quantity: Quantity, curves: Mapping[str, Tensor], *, axis: Column = LEARNER) -> Samples:
    """Curves [prompt, shot] by whose they are, as samples [prompt, (learner, shots)]."""
    cells = {(whose, n): curve[:, n] for whose, curve in curves.items() for n in range(curve.shape[1])}
    return Samples.of(quantity, (axis, SHOTS), cells)


def own_pairs(settings: BayesSettings) -> tuple[Test, ...]:
    """What the article's own twelve pairs do not meet: with one list of examples there is one curve."""
    reason = "all prompts show the article's own pairs"
    return (
        (Test("generalisation to other examples", None, above=0.0, reason=reason),)
        if settings.article
        else ()
    )


def updates_to_judge(ctx: Context[BayesSettings]) -> tuple[Test, ...]:
    """What every claim about updates needs: pairs of each prompt's own, and a curve that rises."""
    rise = ctx.once(observations).rise_beyond_shuffled
    return (*own_pairs(ctx.settings), Test("rise beyond shuffled labels", rise, above=RISE_MARGIN))


def exact_control(test: Test) -> tuple[Test, ...]:
    """The exact posterior as positive control, where it is defined: noise that it does not expect rules it out."""
    defined = test.sample is not None and len(test.sample) > 0 and not np.isnan(test.sample.point).any()
    return (test,) if defined else ()
