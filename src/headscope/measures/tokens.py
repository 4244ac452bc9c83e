"""What logits say about the next token: probability, rank, logit difference, divergence.

In: logits and token ids. Out: one number per example. Pure functions, nothing averaged: averaging over prompts comes
with an interval (measures.intervals).
"""

from jaxtyping import Float, Int
from torch import Tensor


def probability(logits: Float[Tensor, "batch vocab"], answers: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Probability of each example's answer, in [0, 1]."""
    return logits.softmax(-1).gather(-1, answers[:, None]).squeeze(-1)


def log_probability_nats(
    logits: Float[Tensor, "batch vocab"], answers: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Log-probability of each example's answer, in nats, at most 0."""
    return logits.log_softmax(-1).gather(-1, answers[:, None]).squeeze(-1)


def rank(logits: Float[Tensor, "batch vocab"], answers: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """How many tokens score higher than the answer; 0 is best. Ties count half.

    >>> import torch
    >>> rank(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2]))
    tensor([1.])
    """
    own = logits.gather(-1, answers[:, None])
    ties = (logits == own).sum(-1) - 1
    return (logits > own).sum(-1).float() + 0.5 * ties


def logit_difference(
    logits: Float[Tensor, "batch vocab"], answers: Int[Tensor, " batch"], foils: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Logit of the answer minus logit of the foil; 0 means no preference."""
    answer = logits.gather(-1, answers[:, None])
    return (answer - logits.gather(-1, foils[:, None])).squeeze(-1)


def kl_nats(
    logits: Float[Tensor, "*batch vocab"], reference: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(reference || model) in nats, at least 0: what is lost by predicting with `logits` instead.

    >>> import torch
    >>> kl_nats(torch.zeros(1, 2), torch.zeros(1, 2)).item()
    0.0
    """
    expected, got = reference.log_softmax(-1), logits.log_softmax(-1)
    return (expected.exp() * (expected - got)).sum(-1)
