"""Judgements against a margin: hand cases, error rates in simulation, and agreement with the t test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import headscope as hs
from headscope.measures import Change, Outcome, Side, change, changes, side

nan = float("nan")


def most(trials, rate=0.05):
    """So many hits are exceeded by chance once in a thousand at this rate."""
    return int(stats.binom.ppf(0.999, trials, rate))


def judged(low, high, inner_low, inner_high, margin=0.1):
    return Change((low + high) / 2, low, high, inner_low, inner_high, margin, 0.95, 50)


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        ((-0.05, 0.05, -0.04, 0.04), Outcome.EQUIVALENT),
        ((0.01, 0.08, 0.02, 0.07), Outcome.EQUIVALENT),  # clearly there, clearly smaller than the margin
        ((-0.02, 0.12, -0.01, 0.09), Outcome.EQUIVALENT),  # the 90% interval decides
        ((-0.02, 0.14, -0.01, 0.11), Outcome.UNDETERMINED),
        ((-0.30, 0.25, -0.25, 0.20), Outcome.UNDETERMINED),  # not significant, and not equivalent
        ((0.02, 0.30, 0.04, 0.28), Outcome.DIFFERENT),
        ((-0.30, -0.02, -0.28, -0.04), Outcome.DIFFERENT),
        ((nan, nan, nan, nan), Outcome.UNDETERMINED),
    ],
)
def test_outcomes_by_hand(bounds, outcome):
    assert judged(*bounds).outcome is outcome


def test_what_is_clear_and_what_matters_are_told_apart():
    small = judged(0.01, 0.08, 0.02, 0.07)
    assert (small.clear, small.beyond) == (True, False)
    assert judged(-0.4, -0.2, -0.38, -0.22).beyond
    assert not judged(-0.4, 0.2, -0.38, 0.18).clear
    assert str(judged(0.0, 0.5, 0.1, 0.4)) == "undetermined: 0.25 [0.00, 0.50], margin 0.10"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.2, 0.3, Side.ABOVE),
        (0.1, 0.3, Side.UNDETERMINED),
        (0.0, 0.05, Side.BELOW),
        (0.0, 0.1, Side.UNDETERMINED),
        (0.0, 0.3, Side.UNDETERMINED),
        (nan, 0.05, Side.BELOW),
        (nan, nan, Side.UNDETERMINED),
    ],
)
def test_sides_of_a_margin(low, high, expected):
    assert side(low, high, margin=0.1) is expected


DRAWN = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    "turned": lambda rng, shape: 1 - rng.exponential(size=shape),
}
TRIALS = 1500


def count(values, outcome, margin):
    """How many of the samples, one per column, end in this outcome."""
    return sum(found.outcome is outcome for found in changes(values, margin=margin))


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("n", [20, 100])
def test_wrong_outcomes_are_as_rare_as_stated(kind, n):
    # At the margin itself no equivalence may be found, at zero no difference: 5% at most, either way.
    values, margin = DRAWN[kind](np.random.default_rng(n), (n, TRIALS)), 3 / n**0.5
    equivalent = count(values + margin, Outcome.EQUIVALENT, margin)
    different = count(values, Outcome.DIFFERENT, 1e-9)
    print(f"{kind}, {n} prompts: {equivalent} wrongly equivalent, {different} wrongly different of {TRIALS}")
    # Over 20 skewed prompts intervals of 95% cover 94% (tests/test_measures.py).
    rate = 0.05 if kind == "normal" or n == 100 else 0.065
    assert equivalent <= most(TRIALS, rate)
    assert different <= most(TRIALS, rate)


def test_true_equivalence_and_true_differences_are_found_and_little_data_shows_nothing():
    values = np.random.default_rng(0).normal(size=(100, 200))
    assert count(values, Outcome.EQUIVALENT, 0.5) > 190
    assert count(values + 0.5, Outcome.DIFFERENT, 0.1) > 190
    # No change at all, and too few prompts to say so: it must not read as "no change".
    assert count(values[:8], Outcome.EQUIVALENT, 0.3) <= most(200)
    assert count(values[:8], Outcome.UNDETERMINED, 0.3) > 170


def test_agrees_with_two_one_sided_t_tests_on_normal_values():
    values = np.random.default_rng(1).normal(0.1, 1, size=(100, 200))
    error, t = values.std(0, ddof=1) / 10, stats.t.ppf(0.95, 99)
    by_hand = np.abs(values.mean(0)) + t * error < 0.35
    found = [one.outcome is Outcome.EQUIVALENT for one in changes(values, margin=0.35)]
    assert 50 < by_hand.sum() < 190
    assert (by_hand == found).mean() > 0.96


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(5, 60), st.floats(0.01, 100))
def test_the_inner_interval_lies_in_the_outer_and_scale_does_not_decide(seed, n, scale):
    values = np.random.default_rng(seed).normal(0.3, 1, size=n)
    one = change(values, margin=0.5)
    assert one.low <= one.inner_low <= one.mean <= one.inner_high <= one.high
    other = change(values * scale, margin=0.5 * scale)
    assert other.outcome is one.outcome
    assert change(-values, margin=0.5).outcome is one.outcome


def test_too_few_prompts_and_bad_margins():
    few = change(np.zeros(4), margin=0.1)
    assert few.outcome is Outcome.UNDETERMINED
    assert change(np.array([0.0, 0.0, 0.0, 0.0, nan]), margin=0.1).outcome is Outcome.UNDETERMINED
    for margin in (0.0, -1.0, nan, float("inf")):
        with pytest.raises(hs.errors.BadArgument, match="positive margin"):
            change(np.zeros(20), margin=margin)
    with pytest.raises(hs.errors.BadArgument, match=r"level 0\.5"):
        change(np.zeros(20), margin=0.1, level=0.5)
    with pytest.raises(hs.errors.BadArgument, match="one per prompt"):
        change(np.zeros((20, 3)), margin=0.1)
