"""Every claim is supported where what it says is so, and refuted where it is not."""

import pytest

from headscope.results.study import Verdict
from tests.truth import Case
from tests.truth.cases import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.study}-{case.claim}")
def test_a_claim_follows_the_world(case: Case) -> None:
    for effect, verdict in ((1.0, Verdict.SUPPORTED), (-1.0, Verdict.REFUTED)):
        made = case.make(0, effect)
        assert made.name == case.claim
        assert made.verdict is verdict, f"effect {effect:+.0f}: {made.because}"
