"""Claims of the redundancy study, simulated."""

from tests.truth import Case

CASES: tuple[Case, ...] = ()
