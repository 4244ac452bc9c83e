"""What an ideal observer would predict: the exact Bayes posterior over a list of hypotheses.

In: what every hypothesis says at every shot, what was seen, the prior, the share of noise. Out: the posterior
over hypotheses before each shot, and the predictive over answers, by enumeration: no sampling, no
approximation; and how far a model's predictions are from it. A seen answer is the hypothesis' own with
probability 1 - noise, and otherwise uniform over all `n_answers` (the right one included), so

    p(answer | hypothesis) = (1 - noise) [answer = value] + noise / n_answers.

This is the reference beside which the in-context learning curve of a model stands (Xie et al. 2022, "An
Explanation of In-context Learning as Implicit Bayesian Inference"); the prior is the caller's to choose and
to name: over the functions of training, or over all.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.errors import BadArgument
from headscope.tasks.functions import Which
from headscope.tasks.shots import Shots


def hypothesis_posterior(
    values: Int[Tensor, "hypothesis example shot"],
    seen: Int[Tensor, "example seen"],
    prior: Float[Tensor, " hypothesis"],
    *,
    noise: float,
    n_answers: int,
) -> Float[Tensor, "example shot hypothesis"]:
    """Probability of each hypothesis before each shot, given the shots before it; float64.

    `values` are the answers of every hypothesis; `seen` the answers shown, as many as there are shots or one
    fewer (the last is never used: it is what is to be predicted). NaN from the shot on before which something
    was seen that no hypothesis with prior mass allows.

    >>> values = torch.tensor([[[0, 1]], [[0, 2]], [[3, 1]]])
    >>> prior = torch.full((3,), 1 / 3, dtype=torch.float64)
    >>> hypothesis_posterior(values, torch.tensor([[0]]), prior, noise=0.0, n_answers=4)[0, 1].tolist()
    [0.5, 0.5, 0.0]
    """
    _check(values, seen, prior, noise, n_answers)
    before = seen[:, : values.shape[2] - 1]
    agrees = (values[:, :, : before.shape[1]] == before).double()
    likelihood = ((1 - noise) * agrees + noise / n_answers).log()
    nothing_yet = likelihood.new_zeros(*likelihood.shape[:2], 1)
    evidence = torch.cat((nothing_yet, likelihood), dim=-1).cumsum(-1)
    scores = prior.double().log()[:, None, None] + evidence
    return scores.softmax(dim=0).permute(1, 2, 0)


def posterior_predictive(
    values: Int[Tensor, "hypothesis example shot"],
    seen: Int[Tensor, "example seen"],
    prior: Float[Tensor, " hypothesis"],
    *,
    noise: float,
    n_answers: int,
) -> Float[Tensor, "example shot answer"]:
    """Probability of every answer at each shot, given the shots before it; float64, rows sum to 1.

    The answer *as it will be shown*: with noise, not even a sure observer gives the right one more than
    1 - noise + noise / n_answers.

    >>> values = torch.tensor([[[0, 1]], [[0, 2]], [[3, 1]]])
    >>> prior = torch.full((3,), 1 / 3, dtype=torch.float64)
    >>> posterior_predictive(values, torch.tensor([[0]]), prior, noise=0.0, n_answers=4)[0, 1].tolist()
    [0.0, 0.5, 0.5, 0.0]

    Raises:
        BadArgument: for shapes that do not fit, answers outside 0 to n_answers - 1, or a noise that is no share.
    """
    weights = hypothesis_posterior(values, seen, prior, noise=noise, n_answers=n_answers)
    sure = torch.zeros(*weights.shape[:2], n_answers, dtype=torch.float64)
    sure.scatter_add_(-1, values.permute(1, 2, 0), weights)
    return (1 - noise) * sure + noise / n_answers


def exact_predictive(
    shots: Shots, prior: Which = "training", *, noise: float | None = None
) -> Float[Tensor, "example shot answer"]:
    """The exact predictive over numbers at every shot and at the query, under a uniform prior over functions.

    `prior` says over which: those of "training" (held-out functions have no mass) or the whole "grid". `noise` is
    what the observer believes; without it, what the shots were drawn with. A model trained on noisy
    sequences and asked clean ones is to be compared with an observer that expects noise.

    >>> from headscope.tasks import Functions
    >>> twice = Functions(a=(1, 2), b=(0, 0), inputs=(1, 3))
    >>> shots = Shots.draw(twice, shots=1, n=1, seed=1)
    >>> exact_predictive(shots)[0, 1, shots.answer[0]].item()
    1.0
    """
    return posterior_predictive(**_seen(shots, prior, shots.noise if noise is None else noise))


def function_log_odds(shots: Shots, *, noise: float) -> Float[Tensor, "example shot"]:
    """Log-odds of the true function against all others in the exact posterior, in nats, all equally likely at first.

    Two pairs of parameters may be one function: functions are compared by value.
    """
    posterior, functions = hypothesis_posterior(**_seen(shots, "grid", noise)), shots.functions
    inputs = np.arange(functions.inputs[0], functions.inputs[1] + 1)
    every = functions.values(functions.grid[:, None], inputs)
    own = functions.values(shots.parameters[:, None], inputs)
    is_own = torch.from_numpy((own[:, None] == every).all(-1))[:, None].expand_as(posterior)
    follows = torch.where(is_own, posterior, 0.0).sum(-1)
    others = torch.where(is_own, 0.0, posterior).sum(-1)
    return follows.log() - others.log()


def _seen(shots: Shots, prior: Which, noise: float) -> dict[str, Any]:
    """What an observer of these shots knows."""
    functions = shots.functions
    values, seen, mass = map(torch.from_numpy, (shots.hypotheses, shots.y, functions.prior(prior)))
    return {"values": values, "seen": seen, "prior": mass, "noise": noise, "n_answers": functions.n_numbers}


def divergence_nats(
    exact: Float[Tensor, "example shot answer"], log_p: Float[Tensor, "example shot answer"]
) -> Float[Tensor, "example shot"]:
    """KL divergence of a model's `log_p` from the exact predictive; 0 if they agree.

    What the model gives to tokens that are no answers counts against it.

    >>> half = torch.tensor([[[0.5, 0.5]]])
    >>> round(divergence_nats(half, torch.tensor([[[0.5, 0.25]]]).log()).item(), 4)
    0.3466
    """
    # What rounds to less than 0 is 0.
    return (torch.xlogy(exact, exact) - _times(exact, log_p)).sum(-1).clamp(min=0.0)


def right_or_not_divergence_nats(
    exact: Float[Tensor, "example shot"], log_p: Float[Tensor, "example shot"]
) -> Float[Tensor, "example shot"]:
    """The same over two outcomes, from the probability of the right answer: at most as much as over all answers."""
    rest = torch.log1p(-log_p.exp().clamp(max=1 - 1e-12))
    own = torch.xlogy(exact, exact) + torch.xlogy(1 - exact, 1 - exact)
    return (own - _times(exact, log_p) - _times(1 - exact, rest)).clamp(min=0.0)


def _times(share: Tensor, log_p: Tensor) -> Tensor:
    """share * log_p, 0 where the share is 0."""
    return torch.where(share == 0, 0.0, share * log_p)


def _check(values: Tensor, seen: Tensor, prior: Tensor, noise: float, n_answers: int) -> None:
    n_hypotheses, n_examples, n_shots = values.shape
    if prior.shape != (n_hypotheses,) or seen.shape not in ((n_examples, n_shots), (n_examples, n_shots - 1)):
        raise BadArgument(
            f"cannot compute the posterior of {n_hypotheses} hypotheses over {n_examples} examples of {n_shots} "
            f"shots: got a prior of shape {tuple(prior.shape)} and seen answers of shape {tuple(seen.shape)}."
        )
    if not 0 <= noise <= 1:
        raise BadArgument(f"cannot compute a posterior with noise={noise}: expected a share from 0 to 1.")
    if int(values.min()) < 0 or int(values.max()) >= n_answers:
        raise BadArgument(
            f"cannot compute the predictive over {n_answers} answers: the hypotheses say {int(values.min())} to "
            f"{int(values.max())}. Pass n_answers={int(values.max()) + 1} or more, and answers from 0 on."
        )
