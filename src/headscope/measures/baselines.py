"""What a learner by regression would answer: least squares and ridge on the pairs that a prompt shows.

In: pairs (x, y) as shown, corrupted ones included, and the inputs that are asked after each number of them. Out:
the number that a straight line through the pairs says, before rounding. Models that infer a function from
examples have been compared with such learners (Garg et al. 2022; Akyürek et al. 2023); unlike the exact posterior
they know nothing of the family of functions, nor that some pairs are corrupted.

The rules, stated before looking: least squares answers from two different x on; ridge shrinks the slope, not the
height (pairs are centred on their mean, the prior mean of the slope is 0), so that it answers from one pair on.
Before that an answer is undefined (NaN). The answer is the nearest whole number, and such a learner is sure of
it: its probability of the right answer is 1 or 0. Not done here: a predictive distribution; the residuals of
corrupted pairs are far from Gaussian, so that a width would be invented.
"""

import numpy as np
from jaxtyping import Float, Int

from headscope.errors import BadArgument
from headscope.measures.intervals import Array


def regression(
    x: Int[np.ndarray, "example shot"],
    y: Int[np.ndarray, "example shot"],
    query: Int[np.ndarray, " example"],
    *,
    ridge: float = 0.0,
) -> Float[np.ndarray, "example shots"]:
    """The line's value at the next input after 0, 1, 2, ... pairs, float64 [example, shot + 1].

    After n pairs the next input is the x of pair n, after all of them the `query`. `ridge` is added to the
    sum of squares of the centred x (in units of x squared); 0 is least squares.

    >>> x, y = np.array([[1, 2]]), np.array([[5, 7]])
    >>> regression(x, y, np.array([10])).tolist()
    [[nan, nan, 23.0]]
    >>> regression(x, y, np.array([10]), ridge=0.5).tolist()
    [[nan, 5.0, 14.5]]

    Raises:
        BadArgument: for shapes that do not fit, or a negative ridge.
    """
    if x.shape != y.shape or x.ndim != 2 or query.shape != (len(x),) or ridge < 0:
        raise BadArgument(
            f"cannot regress y of shape {y.shape} on x of shape {x.shape} for queries of shape {query.shape} with "
            f"ridge={ridge}: expected [example, shot] twice, [example], and a ridge of at least 0."
        )
    asked = np.concatenate((x, query[:, None]), axis=1).astype(np.float64)
    answers = np.full(asked.shape, np.nan)
    for n in range(1, asked.shape[1]):
        answers[:, n] = _line(x[:, :n].astype(np.float64), y[:, :n].astype(np.float64), asked[:, n], ridge)
    return answers


def _line(x: Array, y: Array, asked: Array, ridge: float) -> Array:
    middle, height = x.mean(1), y.mean(1)
    centred = x - middle[:, None]
    spread = (centred**2).sum(1) + ridge
    defined = spread > 0
    slope = (centred * y).sum(1) / np.where(defined, spread, 1.0)
    return np.where(defined, height + slope * (asked - middle), np.nan)
