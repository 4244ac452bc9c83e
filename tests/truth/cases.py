"""The cases of all studies."""

from tests.truth import Case
from tests.truth.abilities import CASES as ABILITIES
from tests.truth.bayes_inside import CASES as BAYES_INSIDE
from tests.truth.bayes_learning import CASES as BAYES_LEARNING
from tests.truth.gate import CASES as GATE
from tests.truth.heads import CASES as HEADS
from tests.truth.phase_change import PHASE_CHANGE
from tests.truth.redundancy import CASES as REDUNDANCY
from tests.truth.vectors import CASES as VECTORS

PAIRS = (*GATE, *REDUNDANCY, *BAYES_LEARNING, *BAYES_INSIDE, *VECTORS)
CASES: tuple[Case, ...] = (*HEADS, *ABILITIES, *PHASE_CHANGE, *PAIRS)
