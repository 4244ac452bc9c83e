"""Claims of the vectors study, simulated."""

from tests.truth import Case

CASES: tuple[Case, ...] = ()
