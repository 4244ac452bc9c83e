"""What would make each claim true, and what would make it false: samples in its own shape, simulated.

Every claim of a study is made by a function of samples (or of what a study found). A `Case` calls that function on
simulated ones: with `effect=1` the world is as the claim says, with `effect=-1` it is surely not, and with
`effect=0` it is the nearest world in which the claim is false: nothing is there, or, for claims of absence and
equivalence, exactly the margin is. The first must be supported, the second refuted, and the third must be supported
in at most one of twenty seeds. `tests/test_truth.py` holds the first two, `tools/nulls.py` counts the third.
"""

from collections.abc import Callable
from dataclasses import dataclass

from headscope.results.study import Claim


@dataclass(frozen=True)
class Case:
    """One claim of one study; `by` says what is simulated: samples, a learner, or a planted model."""

    study: str
    claim: str
    by: str
    make: Callable[[int, float], Claim]
    """(seed, effect) -> the claim."""
