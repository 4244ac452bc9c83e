"""What the first part of the study `bayes` looks at: the model, its controls and ideal observers on the same prompts.

In: settings and a model. Out: one value with everything that the curve over examples, the fits and the claims are
computed from. Nothing is averaged here. The exact posterior is enumerated on the very numbers that are shown,
with the noise that an observer with the model's experience expects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.measures import exact_predictive, hypothesis_posterior
from headscope.measures.baselines import regression
from headscope.models.model import Model
from headscope.studies.bayes_parts.config import Config
from headscope.studies.bayes_parts.reading import Said, right_values, said_at_the_end, said_by
from headscope.tasks.functions import Which
from headscope.tasks.linear import functions_of
from headscope.tasks.shots import Shots

Progress = Callable[[str, int, int], None]
PRIOR_NAMES: dict[Which, str] = {
    "grid": "exact posterior, all functions",
    "training": "exact posterior, training functions",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """Everything that the part looks at, on the same prompts throughout.

    `right` [example, shot] are the function's values; `exact` the predictive over numbers [example, shot, number]
    by its name, and `exact_shuffled` that of the first on label-shuffled pairs; `belief` [example, shot] the
    log-odds of the true function in the exact posterior itself; `regressed` [example, shot] what the regressions say;
    `permuted` [example] the model's log-probability after the same pairs in another order.
    """

    shots: Shots
    noise: float
    right: Tensor
    model: Said
    shuffled: Said
    exact: dict[str, Tensor]
    exact_shuffled: Tensor
    exact_permuted: Tensor
    belief: Float[Tensor, "example shot"]
    regressed: dict[str, Tensor]
    permuted: Float[Tensor, " example"]

    @property
    def reference(self) -> Tensor:
        """The exact predictive under the prior over all functions."""
        return self.exact[PRIOR_NAMES["grid"]]


def look(config: Config, model: Model, progress: Progress) -> Seen:
    """Run the model on the prompts and their controls; enumerate the exact posterior on the very same numbers."""
    shots = config.draw(model)
    shuffled, permuted = shots.with_shuffled_labels(config.seed), shots.permuted(config.seed)
    readings = []
    for done, shown in enumerate((shots, shuffled)):
        progress("reading the curve", done, 3)
        readings.append(said_by(model, shown))
    progress("reading the curve", 2, 3)
    last = said_at_the_end(model, permuted)
    noise = expected_noise(model, shots)
    return Seen(
        shots=shots,
        noise=noise,
        right=right_values(shots),
        model=readings[0],
        shuffled=readings[1],
        exact={PRIOR_NAMES[prior]: exact_predictive(shots, prior, noise=noise) for prior in priors(shots)},
        exact_shuffled=exact_predictive(shuffled, "grid", noise=noise),
        exact_permuted=exact_predictive(permuted, "grid", noise=noise),
        belief=belief_in_the_function(shots, noise),
        regressed={
            "least squares": torch.from_numpy(regression(shots.x, shots.y, shots.query)),
            "ridge": torch.from_numpy(regression(shots.x, shots.y, shots.query, ridge=config.ridge)),
        },
        permuted=last,
    )


def expected_noise(model: Model, shots: Shots) -> float:
    """The share of corrupted pairs that an observer with the model's experience expects."""
    language = functions_of(model)
    return shots.noise if language is None else language.noise


def priors(shots: Shots) -> tuple[Which, ...]:
    """The priors to compare with: over all functions, and over those of training where they differ."""
    return ("grid", "training") if shots.functions.held_out else ("grid",)


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
    is_own = torch.from_numpy((own[:, None] == every).all(-1))
    chosen = is_own[:, None].expand_as(posterior)
    follows = torch.where(chosen, posterior, 0.0).sum(-1)
    others = torch.where(chosen, 0.0, posterior).sum(-1)
    return follows.log() - others.log()
