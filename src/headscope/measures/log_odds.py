"""Log-odds of an answer, and straight lines through them.

In: log-probabilities, or values over doses. Out: log-odds; slope and r^2 of a line. Evidence adds up in
log-odds, as Bayes' rule has it, and neither in probabilities, which level off at both ends, nor in
log-probabilities, which level off at one. Not done here: intervals (measures.intervals).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.measures.intervals import Array

# Logits are float32: a probability nearer to 1 than this is 1 up to rounding, and its log-odds are noise.
SUREST_NATS = 2.0**-23


def log_odds(log_probability_nats: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """log(p / (1 - p)) in nats, from log p; at most 15.9, where float32 no longer tells p from 1.

    >>> log_odds(torch.tensor([0.5, 0.8]).double().log()).round(decimals=6).tolist()
    [0.0, 1.386294]
    """
    known = log_probability_nats.double().clamp(max=-SUREST_NATS)
    return known - torch.log(-torch.expm1(known))


def slope(values: Array, doses: Array) -> Array:
    """Least-squares slope of `values` [..., dose] over `doses` [dose], [...]; NaN for fewer than two doses.

    >>> slope(np.array([[1.0, 3.0, 5.0]]), np.arange(3.0)).tolist()
    [2.0]
    """
    centred = doses - doses.mean()
    spread = float((centred**2).sum())
    slopes = np.asarray(values, np.float64) @ centred
    return np.asarray(slopes / spread if spread > 0 else np.full_like(slopes, np.nan), np.float64)


def linearity(values: Array, doses: Array) -> Array:
    """r^2 of the line through `values` [..., dose]: 1 on a line, 0 where a line explains nothing, [...].

    NaN where the values do not vary: there is nothing to explain.

    >>> linearity(np.array([[1.0, 3.0, 5.0], [0.0, 1.0, 0.0], [2.0, 2.0, 2.0]]), np.arange(3.0)).tolist()
    [1.0, 0.0, nan]
    """
    centred = np.asarray(values, np.float64) - np.mean(values, axis=-1, keepdims=True)
    explained = slope(centred, doses) ** 2 * float(((doses - doses.mean()) ** 2).sum())
    total = (centred**2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, explained / total, np.nan)
