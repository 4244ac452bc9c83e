"""Judgements against a stated margin: what an interval shows, what it rules out, and what it leaves open.

In: one value per prompt, and a margin in the unit of the values. Out: one of three outcomes, never two: an interval
that holds both sides of a margin is *undetermined*, however near to zero its mean lies, so that "no significant
change" cannot be read as "no change". Equivalence is tested by two one-sided tests (Schuirmann 1987; Lakens 2017): an
inner interval, at level 95% about the 90% one (`inner_level`), lies inside the margin on both sides. Not done here:
many heads at once (measures.simultaneous), and which statement an outcome supports (evidence).
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument
from headscope.measures.intervals import interval

# A bootstrap's bound errs more often than stated on the steep side of skewed values: 7 to 8 times in 100 at n = 10 to
# 50 where 5 are stated (`make coverage`). So much less is therefore stated, below and from 20 units on.
_STATED_FEW, _STATED_MANY, _MANY = 0.5, 0.8, 20


def inner_level(level: float, n: int) -> float:
    """Level of the interval by which equivalence at `level` is judged over n units: a little over 2 level - 1.

    >>> round(inner_level(0.95, 50), 3), round(inner_level(0.95, 10), 3)
    (0.92, 0.95)
    """
    return 1 - 2 * (1 - level) * (_STATED_MANY if n >= _MANY else _STATED_FEW)


class Outcome(StrEnum):
    """Whether there is a change: yes, none that matters, or not known."""

    DIFFERENT = "different"
    EQUIVALENT = "equivalent"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True)
class Change:
    """A mean change over prompts, judged against +-`margin`.

    `low` and `high` bound the mean at `level`; `inner_low` and `inner_high` at `inner_level`, for the two
    one-sided tests. All in the unit of the values; NaN for fewer than five prompts.
    """

    mean: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    margin: float
    level: float
    n: int

    @property
    def outcome(self) -> Outcome:
        """Equivalent if the inner interval lies within the margin, different if the outer one leaves out 0.

        A change that is clearly there and clearly smaller than the margin is equivalent; `clear` tells it.
        """
        if -self.margin < self.inner_low and self.inner_high < self.margin:
            return Outcome.EQUIVALENT
        return Outcome.DIFFERENT if self.clear else Outcome.UNDETERMINED

    @property
    def clear(self) -> bool:
        """Whether the outer interval leaves out 0: there is a change, of whatever size."""
        return self.low > 0 or self.high < 0

    @property
    def beyond(self) -> bool:
        """Whether the whole outer interval lies beyond the margin: there is a change that matters."""
        return self.low > self.margin or self.high < -self.margin

    def __str__(self) -> str:
        """For example "undetermined: 0.05 [-0.20, 0.30], margin 0.10"."""
        return f"{self.outcome}: {self.mean:.2f} [{self.low:.2f}, {self.high:.2f}], margin {self.margin:.2f}"


def change(values: NDArray[np.float64], *, margin: float, **options: Any) -> Change:
    """The mean of one change per prompt [prompt], with what it takes to judge it against +-`margin`; see `changes`.

    >>> str(change(np.array([0.01, -0.02, 0.0, 0.02, -0.01]), margin=0.1).outcome)
    'equivalent'

    Raises:
        BadArgument: for a margin that is not positive, a level of a half or less, or no prompts.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise BadArgument(
            f"cannot judge one change from values of shape {values.shape}: give one per prompt, or use changes."
        )
    return changes(values[:, None], margin=margin, **options)[0]


def changes(
    values: NDArray[np.float64],
    *,
    margin: float,
    level: float = 0.95,
    seed: int = 0,
    within: tuple[float, float] | None = None,
) -> tuple[Change, ...]:
    """Each of many changes [prompt, cell] by itself, in order; their number is not corrected for.

    `within` is the range of a bounded score: bounds are cut off at its ends.

    Raises:
        BadArgument: as `change` does.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise BadArgument(f"cannot test for equivalence within {margin}: state a positive margin.")
    if not 0.5 < level < 1:
        raise BadArgument(f"cannot test for equivalence at level {level}: it lies between .5 and 1.")
    outer = interval(values, level=level, seed=seed, within=within)
    inner = interval(values, level=inner_level(level, len(values)), seed=seed, within=within)
    bounds = np.stack([outer.mean, outer.low, outer.high, inner.low, inner.high], axis=1)
    return tuple(
        Change(mean, low, high, inner_low, inner_high, margin, level, outer.n)
        for mean, low, high, inner_low, inner_high in bounds.tolist()
    )
