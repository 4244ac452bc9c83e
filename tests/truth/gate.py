"""The claim with which studies of pairs begin: queries that are right after examples, and after shuffled ones."""

import numpy as np
import torch

from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.gate import BEFORE, EXAMPLES, NONE, PROBLEMS, RIGHT, SHUFFLED, taught
from tests.truth import Case

# Rates of right answers after examples and with their labels shuffled; alike where nothing is taught.
RATES = {1.0: (0.9, 0.1), 0.0: (0.4, 0.4), -1.0: (0.0, 0.0)}


def learner(seed: int, effect: float) -> Claim:
    generator, (examples, shuffled) = np.random.default_rng(seed), RATES[effect]
    rates = {EXAMPLES: examples, SHUFFLED: shuffled, NONE: 0.0}
    drawn = {kind: torch.from_numpy(generator.random(PROBLEMS) < rate).double() for kind, rate in rates.items()}
    return taught(Samples.of(RIGHT, (BEFORE,), drawn))


CASES = tuple(Case(study, "does_the_task", "queries", learner) for study in ("bayes", "redundancy", "vectors"))
