"""Bounds of rates and bounded means: published values, definitions, and how often they hold."""

import numpy as np
import pytest
from scipy import stats

from headscope.measures.rates import betting, clopper_pearson, mcnemar_p, newcombe, rule_of_three, wilson


def test_exact_bounds_of_a_rate_are_those_of_the_binomial_test():
    for successes in (0, 3, 20):
        expected = stats.binomtest(successes, 20).proportion_ci(0.95, method="exact")
        assert clopper_pearson(successes, 20) == pytest.approx((expected.low, expected.high))
        score = stats.binomtest(successes, 20).proportion_ci(0.95, method="wilson")
        assert wilson(successes, 20) == pytest.approx((score.low, score.high))


def paired(both, first, second, none):
    """Two columns with so many pairs of each kind."""
    one = np.repeat([1.0, 1.0, 0.0, 0.0], [both, first, second, none])
    other = np.repeat([1.0, 0.0, 1.0, 0.0], [both, first, second, none])
    return one, other


def test_newcombes_bounds_are_the_published_ones():
    # Newcombe 1998 (Statistics in Medicine 17, 2635), table II, method 10: 36, 12, 2, 0 of 50.
    assert newcombe(*paired(36, 12, 2, 0)) == pytest.approx((0.0569, 0.3404), abs=2e-4)


def test_mcnemars_p_is_a_sign_test_of_the_pairs_that_differ():
    one, other = paired(5, 7, 1, 9)
    assert mcnemar_p(one - other) == pytest.approx(stats.binomtest(7, 8, alternative="greater").pvalue)
    assert mcnemar_p(np.zeros(10)) == 1.0


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.98])
def test_a_bet_covers_whatever_the_distribution(rate):
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        values = 0.1 + 0.8 * (generator.random(20) < rate)
        low, high = betting(values, (0.0, 1.0))
        covered += low <= 0.1 + 0.8 * rate <= high
    assert covered >= 190


def test_all_the_same_leaves_three_in_n_unseen():
    assert rule_of_three(0.5, 30, (0.0, 1.0)) == pytest.approx((0.5 - 0.05, 0.5 + 0.05), abs=1e-4)
    assert rule_of_three(1.0, 30, (0.0, 1.0)) == pytest.approx((0.9, 1.0), abs=2e-4)
