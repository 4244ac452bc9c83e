"""Claims of the bayes inside study, simulated."""

from tests.truth import Case

CASES: tuple[Case, ...] = ()
