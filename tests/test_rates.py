"""Bounds of rates and bounded means: published values, definitions, and how often they hold."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from headscope.measures.intervals import interval
from headscope.measures.rates import (
    TOO_ALIKE,
    chance_at_most,
    clopper_pearson,
    gaffke,
    mcnemar_p,
    newcombe,
    rule_of_three,
    wilson,
)
from headscope.measures.samples import Samples
from headscope.tables import Quantity


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


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.98])
@pytest.mark.parametrize("values", [(0.1, 0.9), (0.0, 0.5), (0.49, 0.51), (0.5, 1.0)])
def test_gaffkes_bounds_cover_whatever_the_distribution(rate, values):
    n, (low_value, high_value) = 20, values
    mean, chance = low_value + (high_value - low_value) * rate, stats.binom.pmf(np.arange(n + 1), n, rate)
    missed_low = missed_high = 0.0
    for k, p in enumerate(chance):
        low, high = gaffke(np.repeat([low_value, high_value], [n - k, k]), (0.0, 1.0), 0.025)
        missed_low, missed_high = missed_low + p * (mean < low), missed_high + p * (mean > high)
    assert max(missed_low, missed_high) <= 0.025


@pytest.mark.parametrize("k", range(0, 13, 3))
def test_of_zeros_and_ones_gaffkes_bounds_are_the_exact_ones(k):
    values = (np.arange(12) < k).astype(float)
    assert gaffke(values, (0.0, 1.0), 0.025) == pytest.approx(clopper_pearson(k, 12), abs=1e-6)
    for mean in (0.01, 0.3, 0.9):
        assert chance_at_most(values, 0.0, mean) == pytest.approx(stats.binom.sf(k - 1, 12, mean), abs=1e-7)


def test_the_chance_is_that_of_random_weights():
    values = np.array([0.2, 0.2, 0.3, 0.9, 1.0, 1.0])
    drawn = np.random.default_rng(0).dirichlet(np.ones(7), 200_000) @ np.append(values, 0.0)
    for mean in (0.2, 0.4, 0.5, 0.8):
        assert chance_at_most(values, 0.0, mean) == pytest.approx((drawn <= mean).mean(), abs=0.004)


def test_all_the_same_leaves_three_in_n_unseen():
    assert rule_of_three(0.5, 30, (0.0, 1.0)) == pytest.approx((0.5 - 0.05, 0.5 + 0.05), abs=1e-4)
    assert rule_of_three(1.0, 30, (0.0, 1.0)) == pytest.approx((0.9, 1.0), abs=2e-4)


def test_each_cell_has_the_interval_of_its_kind():
    g = np.random.default_rng(0)
    rate, alike, rare, varied = np.zeros(40), np.full(40, 0.3), np.full(40, 0.3), g.random(40)
    rate[:7], rare[:4] = 1.0, [0.9, 0.0, 0.31, 0.32]
    found = interval(np.column_stack([rate, alike, rare, varied]), within=(0.0, 1.0))
    bounds = list(zip(found.low, found.high, strict=True))
    assert bounds[0] == pytest.approx(clopper_pearson(7, 40))
    assert bounds[1] == pytest.approx(rule_of_three(0.3, 40, (0.0, 1.0)))
    assert bounds[2] == pytest.approx(gaffke(rare, (0.0, 1.0), 0.025))
    assert bounds[3] == pytest.approx(tuple(float(bound) for bound in bootstrapped(varied)))
    free = interval(np.column_stack([alike, rare, varied]))
    assert free.reasons == dict.fromkeys((0, 1), TOO_ALIKE)
    assert np.isnan(free.low).tolist() == [True, True, False]


def bootstrapped(values):
    found = interval(values)
    return found.low, found.high


def test_rounding_is_no_difference_between_values():
    """0.1 + 0.2 and 0.3 are one value, as far as an interval is concerned."""
    values = np.where(np.arange(20) % 2 == 0, 0.1 + 0.2, 0.3)
    assert interval(values).reasons == {0: TOO_ALIKE}


@pytest.mark.parametrize(("commonest", "bounded"), [(16, False), (15, True)])
def test_five_values_that_differ_are_enough_for_a_bootstrap(commonest, bounded):
    values = np.concatenate([np.zeros(commonest), np.arange(1.0, 21 - commonest)])
    assert np.isfinite(interval(values).low) == bounded


def test_the_difference_of_two_rates_has_newcombes_bounds():
    right = Quantity("right", "prompts that are right", "share", within=(0.0, 1.0))
    one, other = paired(36, 12, 2, 0)
    change = Samples.one(right, one) - Samples.one(right, other)
    low, high = (float(bound[0]) for bound in (change.estimate().low, change.estimate().high))
    assert (low, high) == pytest.approx(newcombe(one, other))
    turned = (-change).estimate()
    assert (float(turned.low[0]), float(turned.high[0])) == pytest.approx((-high, -low))
    half = change.halves().estimation.estimate()
    assert (half.low[0], half.high[0]) == pytest.approx(newcombe(one[1::2], other[1::2]))
    # Any other change of the numbers is no difference of rates.
    doubled = change.changed(replace(right, within=(-2.0, 2.0)), lambda values: 2 * values)
    assert doubled.minus is None
