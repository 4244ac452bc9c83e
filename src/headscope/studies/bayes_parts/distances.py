"""How far predictions are from the exact posterior: divergences in nats, per example and number of examples.

In: the exact predictive and what a model says. Out: KL(exact || model). Over all numbers where a model gives every
number a probability; else over two outcomes, the right number or any other, which is at most as much (merging
outcomes never adds divergence). What the model gives to tokens that are no numbers counts against it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kl_over_numbers(
    exact: Float[Tensor, "example shot number"], log_p: Float[Tensor, "example shot number"]
) -> Float[Tensor, "example shot"]:
    """KL divergence of `log_p` from `exact`, in nats; 0 if they agree.

    >>> half = torch.tensor([[[0.5, 0.5]]])
    >>> round(kl_over_numbers(half, torch.tensor([[[0.5, 0.25]]]).log()).item(), 4)
    0.3466
    """
    return (torch.xlogy(exact, exact) - _times(exact, log_p)).sum(-1)


def kl_right_or_not(
    exact: Float[Tensor, "example shot"], log_p: Float[Tensor, "example shot"]
) -> Float[Tensor, "example shot"]:
    """The same over two outcomes: `exact` and exp(`log_p`) are the probabilities of the right number."""
    rest = torch.log1p(-log_p.exp().clamp(max=1 - 1e-12))
    own = torch.xlogy(exact, exact) + torch.xlogy(1 - exact, 1 - exact)
    return own - _times(exact, log_p) - _times(1 - exact, rest)


def _times(share: Tensor, log_p: Tensor) -> Tensor:
    """share * log_p, 0 where the share is 0."""
    return torch.where(share == 0, 0.0, share * log_p)
