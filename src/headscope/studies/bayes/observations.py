"""The model, its controls and ideal observers on the same prompts: what every question about the curve starts from.

In: the context of the study. Out: `Observations`, computed once, in which nothing is averaged; samples over the
number of examples; and what every claim about updates needs. The exact posterior (of which Xie et al. 2022 take
in-context learning for an approximation) is enumerated on the very numbers that are shown, with the noise that it
expects.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from headscope.errors import BadArgument
from headscope.evidence import Test
from headscope.measures import exact_predictive
from headscope.measures.baselines import regression
from headscope.measures.posterior import function_log_odds
from headscope.measures.samples import Samples
from headscope.measures.statistics import Statistic
from headscope.studies.bayes.predictions import Predictions, function_values, predictions
from headscope.studies.bayes.problems import Ctx
from headscope.studies.pairs import expected_noise
from headscope.tables import Column, Quantity
from headscope.tasks.shots import Shots

MIN_SHOTS = 2
RISE_MARGIN = 0.05
# What an observer who expects no random y is told to expect of prompts in which labels were moved or made random.
SOME_RANDOM = 0.5
MODEL, SHUFFLED = "model", "model, labels shuffled"
EXACT, EXACT_TRAINING = "exact posterior, all functions", "exact posterior, training functions"
IMPOSSIBLE = "no function of the family allows what some prompts show"

LEARNER = Column("learner", pl.String, "whose answer: the model, an exact posterior, or a regression")
SHOTS = Column("shots", pl.Int64, "pairs shown before", "pairs")
RISE = Quantity(
    "probability_rise", "probability of the function's value after all pairs minus without any", within=(-1.0, 1.0)
)


@dataclass(frozen=True, eq=False)
class Observations:
    """Everything that is looked at, on the same prompts throughout; `noise` is the share that the observer expects.

    `right` [example, shot] are the function's values; `exact` the predictive over numbers [example, shot, number]
    by its name, and `exact_shuffled` that of the first on shuffled labels; `belief` [example, shot] the log-odds of
    the true function in it; `regressed` [example, shot] what regressions answer.
    """

    shots: Shots
    noise: float
    right: Tensor
    model: Predictions
    shuffled: Predictions
    exact: Mapping[str, Tensor]
    exact_shuffled: Tensor
    belief: Tensor
    regressed: Mapping[str, Tensor]

    def of_right(self, predictive: Tensor) -> Tensor:
        """Probability of the function's values, [example, shot], from that of every number."""
        return predictive.gather(-1, self.right[..., None]).squeeze(-1)

    @property
    def learners(self) -> dict[str, Tensor]:
        """Probability of the function's values, [example, shot], for the model and the first exact posterior."""
        return {MODEL: self.model.probability, EXACT: self.of_right(self.exact[EXACT])}

    @property
    def rise(self) -> Samples:
        """From no pairs to all of them, [prompt, learner]."""
        curves = {**self.learners, SHUFFLED: self.shuffled.probability}
        rises = {learner: curve[:, -1] - curve[:, 0] for learner, curve in curves.items()}
        return Samples.of(RISE, (LEARNER,), rises).because(IMPOSSIBLE, learner=EXACT)

    @property
    def rise_beyond_shuffled(self) -> Samples:
        """Paired by prompt: what the examples teach the model beyond which numbers there are, [prompt]."""
        return self.beyond_shuffled.at(learner=MODEL)

    @property
    def beyond_shuffled(self) -> Samples:
        """The rise of each beyond its own with shuffled labels, [prompt, learner]."""
        pairs = {MODEL: self.shuffled.probability, EXACT: self.of_right(self.exact_shuffled)}
        rest = {learner: curve[:, -1] - curve[:, 0] for learner, curve in pairs.items()}
        difference = self.rise.only(learner=[*rest]) - Samples.of(RISE, (LEARNER,), rest)
        return difference.because(IMPOSSIBLE, learner=EXACT)


def observations(ctx: Ctx) -> Observations:
    """Run the model on the prompts and their controls; enumerate the exact posterior on the very same numbers.

    Raises:
        BadArgument: for fewer than two pairs in a prompt.
    """
    settings, model = ctx.settings, ctx.model
    shots = settings.draw(model)
    if shots.x.shape[1] < MIN_SHOTS:
        told = f"cannot study updates with shots={shots.x.shape[1]}: labels must be shuffled"
        raise BadArgument(f"{told}, so use --shots {MIN_SHOTS} or more.")
    shuffled = shots.with_shuffled_labels(settings.seed)
    read = []
    for done, shown in enumerate((shots, shuffled)):
        ctx.progress("reading the curve", done, 2)
        read.append(predictions(model, shown))
    noise = expected_noise(model, shots)
    exact = {EXACT: exact_predictive(shots, "grid", noise=noise)}
    if shots.functions.held_out:
        exact[EXACT_TRAINING] = exact_predictive(shots, "training", noise=noise)
    ridges = {"least squares": 0.0, "ridge": settings.ridge}
    return Observations(
        shots=shots,
        noise=noise,
        right=function_values(shots),
        model=read[0],
        shuffled=read[1],
        exact=exact,
        exact_shuffled=exact_predictive(shuffled, "grid", noise=noise or SOME_RANDOM),
        belief=function_log_odds(shots, noise=noise),
        regressed={
            name: torch.from_numpy(regression(shots.x, shots.y, shots.query, ridge=ridge))
            for name, ridge in ridges.items()
        },
    )


def over_shots(quantity: Quantity, curves: Mapping[str, Tensor], *, axis: Column = LEARNER) -> Samples:
    """Curves [prompt, shot] by whose they are, as samples [prompt, (learner, shots)]."""
    cells = {(whose, n): curve[:, n] for whose, curve in curves.items() for n in range(curve.shape[1])}
    return Samples.of(quantity, (axis, SHOTS), cells)


def resampled(
    ctx: Ctx, quantity: Quantity, axes: Sequence[Column], fits: Mapping[Any, Any], read: Callable[[Any], Any]
) -> Statistic:
    """A number that `read` takes from each fit, with its draws; those of the same resampled prompts are paired."""
    by_cell = {key if isinstance(key, tuple) else (key,): fit for key, fit in fits.items()}
    prompts = len(ctx.once(observations).shots)
    return Statistic.of(
        quantity,
        axes,
        {cell: read(fit) for cell, fit in by_cell.items()},
        count=prompts,
        drawn_from=(prompts, ctx.settings.seed),
        reasons={cell: fit.reason for cell, fit in by_cell.items() if fit.reason},
    )


def updates_to_judge(ctx: Ctx) -> tuple[Test, ...]:
    """What every claim about updates needs: a curve that rises."""
    rise = ctx.once(observations).rise_beyond_shuffled
    return (Test("rise beyond shuffled labels", rise, above=RISE_MARGIN),)


def where_defined(control: Test) -> tuple[Test, ...]:
    """The exact posterior as positive control, where there is one: noise that it does not expect rules it out."""
    sample = control.sample
    return (control,) if sample is not None and len(sample) and not np.isnan(sample.point).any() else ()
