"""Which verdict every known learner gets from every claim about learning curves, and what each claim sees."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from headscope.measures.updates import largest_step
from headscope.results.study import Claim, Verdict
from headscope.studies.bayes.near_exact import differences
from headscope.studies.bayes.observations import MODEL
from headscope.studies.bayes.order import halfway_up
from headscope.tasks.shots import Shots
from tests.truth import bayes_learning as learners

YES, NO, OPEN = Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDETERMINED
# The exact posterior, that with errors, that of the last six pairs, one jump, a power law, updates by number alone.
LEARNERS = ("exact", "noisy", "last_six", "jump", "power", "logistic")
EXPECTED = {
    "rises": (YES, YES, YES, YES, YES, YES),
    # Six pairs hold all that can be seen of p: only the order of pairs shows that the others are forgotten.
    "linear_log_odds": (YES, YES, YES, NO, NO, YES),
    "bayesian_extrapolates": (YES, YES, YES, OPEN, NO, YES),
    "near_exact": (YES, YES, YES, NO, NO, NO),
    # What minds no labels minds no order.
    "order": (YES, YES, NO, YES, YES, YES),
}


# A curve is that of many prompts; that what is the same in all changes by under .05 takes a hundred.
PROMPTS = {"rises": 50, "linear_log_odds": 300, "bayesian_extrapolates": 300, "near_exact": 50, "order": 100}
FEW, MANY = 6, 20


@pytest.mark.parametrize("claim", EXPECTED)
def test_every_learner_gets_its_verdict(claim: str) -> None:
    found = {name: learners.judged(claim, getattr(learners, name), n=PROMPTS[claim]) for name in LEARNERS}
    verdicts = {name: each.verdict for name, each in found.items()}
    assert verdicts == dict(zip(LEARNERS, EXPECTED[claim], strict=True)), [each.because for each in found.values()]


def shown(claim: str, draws: int) -> int:
    """In how many draws of prompts the exact posterior is found to do what the claim says."""
    judged = partial(learners.judged, claim, learners.exact, n=PROMPTS[claim])
    return sum(judged(seed=seed).verdict is YES for seed in range(draws))


@pytest.mark.slow
@pytest.mark.parametrize("claim", EXPECTED)
def test_the_exact_posterior_is_a_bayesian_whatever_is_drawn(claim: str) -> None:
    assert shown(claim, FEW) == FEW


def test_who_learns_nothing_is_refuted_by_the_rise_and_not_judged_beyond() -> None:
    found = {claim: learners.judged(claim, learners.exact, n=100, learns=False) for claim in EXPECTED}
    assert found.pop("rises").verdict is NO
    assert found.pop("near_exact").verdict is NO
    assert all(each.because.startswith("Not judged: rise") for each in found.values())


def row(claim: Claim, what: str) -> float:
    return next(each.estimate for each in claim.evidence if each.what.startswith(what))


def test_an_average_of_jumps_is_smooth_and_each_of_them_is_one_step() -> None:
    judged = learners.judged("linear_log_odds", learners.jump)
    assert row(judged, "misfit of the model") < 0.05
    assert row(judged, "largest step of a prompt (model)") == pytest.approx(1)
    assert_allclose(largest_step(np.array([[0.0, 0.5, 0.2, 1.0], [0.3, 0.2, 0.1, 0.1]])), [0.8, 0.0])
    assert np.isnan(largest_step(np.full((1, 4), 0.2))).all()


def test_pairs_that_inform_come_first_and_all_others_are_random() -> None:
    shots = Shots.draw(learners.LANGUAGE, shots=15, n=200, noise=0.3, seed=0)
    early = shots.informing_first(8, seed=1)
    assert not early.wrong[:, :8].any()
    assert early.wrong[:, 8:].mean() > 0.95
    assert (early.reversed().y == early.y[:, ::-1]).all()
    assert (early.reversed().query == early.query).all()
    assert halfway_up(torch.tensor([[0.0, 0.2, 0.3, 0.55, 0.9, 1.0]])) == 3


def test_in_between_is_where_the_exact_posterior_is_neither_ignorant_nor_sure() -> None:
    seen = learners.observed(learners.logistic, n=20, seed=0)
    _, between = differences(seen)
    exact, p = learners.exact(seen.shots), seen.model.probability
    # Of .3 / 87 for who knows nothing to .7 + .3 / 87 for who is sure: .0734 to .6334.
    unsure = (exact > 0.0734) & (exact < 0.6334)
    by_hand = [(p - exact).abs()[row][unsure[row]].mean() for row in range(20)]
    assert_allclose(between.at(learner=MODEL).values[:, 0], by_hand)


if __name__ == "__main__":  # python -m tests.test_bayes_learners: the same in more draws, claim by claim
    for each in EXPECTED:
        print(f"{each}: {shown(each, MANY)} of {MANY}")
