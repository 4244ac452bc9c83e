"""Claims of the bayes learning study, simulated."""

from tests.truth import Case

CASES: tuple[Case, ...] = ()
