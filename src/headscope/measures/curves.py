"""In-context learning curves: four families of how the probability of the right answer grows with examples.

In: the parameters of a family and numbers of examples n (shots). Out: p(n) = exp(-NLL(n)). All families are
stated for the negative log-likelihood in nats, for n >= 1 (Arora et al. 2024, "Bayesian scaling laws for
in-context learning"):

    power      C n^-a + K                      bounded    C (1 + n / n_c)^-a + K
    logistic   L / (1 + (n / x_0)^K) + C
    bayesian   -log( sum_m rho_m P_m^(K n + 1) / sum_m rho_m P_m^(K n) )

of which the last is a posterior over hypotheses m with prior rho_m that give the observed answer the probability
P_m, updated K times per example. Here are two of them: gamma for the true task, beta <= gamma for all the rest.
That is p(n) = beta + (gamma - beta) A(n) with logit A(n) = logit rho + n K log(gamma / beta), a straight
line. Hence what a curve can tell: it depends on K, gamma and beta only through gamma, beta and the step
K log(gamma / beta), and once it has left its lower end, only the step, gamma and the product
(gamma - beta)(1 - rho) / rho remain. *The step is always identifiable, rho, K, gamma and beta separately are
not all*: compare steps, never priors. Power is a limit of bounded (n_c -> 0) and of logistic.

Not done here: fitting (measures.curve_fits), the same line as a question of its own (measures.updates).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

# Beyond it exp and sigmoid are as good as at their ends; without it a line search runs into infinity.
_FARTHEST = 15.0


@dataclass(frozen=True)
class Family:
    """A family of curves with constraints that always hold.

    `constrained` maps free numbers [..., parameter] to allowed parameters, in the order of `parameters`; `p` maps
    those and shots [shot] to probabilities [..., shot]. `spread` are the mean and the standard deviation of each
    free number from which fits start.
    """

    name: str
    parameters: tuple[str, ...]
    constrained: Callable[[Tensor], Tensor]
    p: Callable[[Tensor, Tensor], Tensor]
    spread: tuple[tuple[float, float], ...]

    def curve(self, free: Tensor, shots: Tensor) -> Tensor:
        """p at these shots [shot] for free numbers [..., parameter]: [..., shot]."""
        return self.p(self.constrained(free.clamp(-_FARTHEST, _FARTHEST)), shots)

    def named(self, free: Float[Tensor, " parameter"]) -> dict[str, float]:
        """The allowed parameters by name."""
        allowed = self.constrained(free.clamp(-_FARTHEST, _FARTHEST))
        return dict(zip(self.parameters, allowed.tolist(), strict=True))


def step_per_example(parameters: Mapping[str, float]) -> float:
    """K log(gamma / beta) of the Bayesian law: what an example adds to the log-odds of the task, in nats.

    It equals log(c / (1 - c)) of the article's update (measures.updates), and is what a curve identifies.

    >>> round(step_per_example({"gamma": 0.8, "beta": 0.2, "K": 0.5}), 4)
    0.6931
    """
    ratio = torch.tensor(parameters["gamma"] / parameters["beta"], dtype=torch.float64)
    return parameters["K"] * float(ratio.log())


def _power(parameters: Tensor, shots: Tensor) -> Tensor:
    height, decay, floor = parameters[..., None].unbind(-2)
    return torch.exp(-(height * shots**-decay + floor))


def _bounded(parameters: Tensor, shots: Tensor) -> Tensor:
    height, decay, knee, floor = parameters[..., None].unbind(-2)
    return torch.exp(-(height * (1 + shots / knee) ** -decay + floor))


def _logistic(parameters: Tensor, shots: Tensor) -> Tensor:
    height, middle, steepness, floor = parameters[..., None].unbind(-2)
    return torch.exp(-(height / (1 + (shots / middle) ** steepness) + floor))


def _bayesian(parameters: Tensor, shots: Tensor) -> Tensor:
    # The law with two hypotheses in closed form: several times as fast in a line search.
    gamma, beta, rho, updates = parameters[..., None].unbind(-2)
    return beta + (gamma - beta) * torch.sigmoid(rho.logit() + shots * updates * (gamma.log() - beta.log()))


def _two_hypotheses(free: Tensor) -> Tensor:
    gamma, below, rho, updates = free.unbind(-1)
    # A share of gamma, so that beta <= gamma <= 1 whatever the free numbers are.
    beta = gamma.sigmoid() * below.sigmoid()
    return torch.stack((gamma.sigmoid(), beta, rho.sigmoid(), updates.exp()), -1)


POWER: Final = Family("power", ("C", "a", "K"), torch.exp, _power, ((0.5, 1.0), (-0.5, 1.0), (-2.0, 1.5)))
BOUNDED: Final = Family(
    "bounded", ("C", "a", "n_c", "K"), torch.exp, _bounded, ((0.5, 1.0), (0.0, 1.0), (1.0, 1.5), (-2.0, 1.5))
)
LOGISTIC: Final = Family(
    "logistic", ("L", "x_0", "K", "C"), torch.exp, _logistic, ((0.5, 1.0), (1.0, 1.2), (0.3, 0.8), (-2.0, 1.5))
)
BAYESIAN: Final = Family(
    "bayesian",
    ("gamma", "beta", "rho", "K"),
    _two_hypotheses,
    _bayesian,
    ((1.0, 1.5), (-1.5, 1.5), (-2.0, 2.0), (-1.5, 1.2)),
)
FAMILIES: Final = (POWER, BOUNDED, LOGISTIC, BAYESIAN)
