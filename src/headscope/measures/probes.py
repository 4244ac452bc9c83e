"""Linear probes: whether a number can be read off vectors, and along which directions it is written there.

In: vectors [example, model] and numbers [example]. Out: how well a ridge regression, fitted on some examples,
tells the numbers of others; and the directions by which the vectors move with the number. A number is asked for
as `digits` say it: its size, its parity and its last digit, so that a probe finds it in whatever of these forms
a model keeps it. What a probe finds is there to be read, which is not to say that the model reads it (Belinkov
2022, "Probing Classifiers"). Fit and judge on different functions: y = a x + b tells a probe that knows a and b
what x is. Not done here: intervals.
"""

from dataclasses import dataclass

import numpy as np

from headscope.errors import BadArgument
from headscope.measures.intervals import Array
from headscope.tasks.functions import Ints

# A share of the vectors' mean variance: enough for as many examples as dimensions, little for many.
RIDGE = 1e-2


def digits(numbers: Ints, largest: int) -> Array:
    """Size (0 to 1), parity (+1, -1), and the last digit on two circles, of `numbers` [...]: [..., 6].

    >>> digits(np.array([0]), 10).tolist()
    [[0.0, 1.0, 1.0, 0.0, 1.0, 0.0]]
    """
    size = numbers / max(largest, 1)
    parity = 1.0 - 2.0 * (numbers % 2)
    circles = [f(2 * np.pi * numbers / period) for period in (10, 5) for f in (np.cos, np.sin)]
    return np.stack([size, parity, *circles], axis=-1)


@dataclass(frozen=True)
class Probe:
    """A fitted ridge regression: `weights` [model, feature] on centred and scaled vectors."""

    centre: Array
    scale: float
    weights: Array
    mean: Array

    @classmethod
    def fit(cls, vectors: Array, wanted: Array) -> "Probe":
        """From vectors [example, model] and what they are to tell, [example, feature].

        Raises:
            BadArgument: for fewer than two examples.
        """
        if len(vectors) < 2 or len(vectors) != len(wanted):
            raise BadArgument(
                f"cannot fit a probe on {len(vectors)} vectors and {len(wanted)} targets: give as many of both, "
                "two or more."
            )
        centre, mean = vectors.mean(0), wanted.mean(0)
        centred = vectors - centre
        scale = float(np.sqrt((centred**2).mean())) or 1.0
        scaled = centred / scale
        gram = scaled.T @ scaled + RIDGE * len(scaled) * np.eye(scaled.shape[1])
        return cls(centre, scale, np.linalg.solve(gram, scaled.T @ (wanted - mean)), mean)

    def told(self, vectors: Array) -> Array:
        """What the probe says of vectors [example, model], [example, feature]."""
        return (vectors - self.centre) / self.scale @ self.weights + self.mean

    def score(self, vectors: Array, wanted: Array) -> Array:
        """1 minus each example's squared error as a share of the variance, averaged over features, [example].

        Its mean over examples is r^2: 1 for a perfect probe, 0 for one that always says the mean, less for a
        worse one. A feature that does not vary here counts for nothing.
        """
        variance = wanted.var(0)
        judged = variance > 1e-12
        error = (self.told(vectors) - wanted)[:, judged] ** 2
        return 1.0 - (error / variance[judged]).mean(1) if judged.any() else np.full(len(wanted), np.nan)


def written_along(vectors: Array, *numbers: Array) -> tuple[Array, ...]:
    """The directions [feature, model] by which vectors [example, model] move with each of several features.

    `numbers` are [example, feature] each; all are fitted together by least squares, so that what one has by
    being correlated with another is not counted twice.
    """
    columns = [each - each.mean(0) for each in numbers]
    solution = np.linalg.lstsq(np.concatenate(columns, axis=1), vectors - vectors.mean(0), rcond=None)[0]
    edges = np.cumsum([each.shape[1] for each in columns])[:-1]
    return tuple(np.split(solution, edges))
