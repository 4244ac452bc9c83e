"""Claims of the heads study, simulated."""

from tests.truth import Case

CASES: tuple[Case, ...] = ()
