"""Control of the maximum: an independent reference, the stated error rates in simulation, and power.

`pytest tests/test_simultaneous.py -s -k rates` prints the rates that the docstring of measures.simultaneous goes by.
"""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binom

import headscope as hs
from headscope.measures.rates import TOO_ALIKE
from headscope.measures.simultaneous import MIN_UNITS_TOGETHER, simultaneous

NOTHING = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "right-skewed": lambda rng, shape: rng.exponential(size=shape) - 1,
    "left-skewed": lambda rng, shape: 1 - rng.exponential(size=shape),
    "bounded": lambda rng, shape: 0.5 / 3.5 - rng.beta(0.5, 3, size=shape),
    "tied": lambda rng, shape: 0.15 - rng.binomial(4, 0.15, size=shape) / 4,
}
TRIALS = {8: 200, 64: 150, 500: 60}


def most(trials, rate=0.05):
    """So many hits are exceeded by chance once in a thousand at this rate."""
    return int(binom.ppf(0.999, trials, rate))


def reference(values, *, margin, level, seed, resamples):
    """The same promise, written as its definition: one resample and one cell at a time."""
    n, cells = values.shape
    counts = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=resamples)

    def t_of(column, about):
        spread = max(np.var(column), 0.02 * np.var(values[:, cell]))
        return (np.mean(column) - about) / math.sqrt(spread / (n - 1))

    drawn = np.empty((resamples, cells))
    for row, times in enumerate(counts):
        for cell in range(cells):
            drawn[row, cell] = t_of(np.repeat(values[:, cell], times), np.mean(values[:, cell]))
    t = np.array([t_of(values[:, cell], margin) for cell in range(cells)])
    p, worst = np.empty(cells), 0.0
    left = sorted(range(cells), key=lambda cell: -t[cell])
    for place, cell in enumerate(left):
        reached = sum(max(row[left[place:]]) >= t[cell] for row in drawn)
        worst = max(worst, (1 + reached) / (1 + resamples))
        p[cell] = worst
    kth = round((1 - level) * (1 + resamples))
    critical = sorted((max(row) for row in drawn), reverse=True)[kth - 1]
    return p, values.mean(0) - critical * values.std(0, ddof=1) / math.sqrt(n)


def test_bounds_and_p_values_are_those_of_the_definition():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(12, 4)) + np.array([0.0, 0.9, 0.3, 0.6])
    found = simultaneous(values, margin=0.1, level=0.9, seed=5, resamples=199)
    p, at_least = reference(values, margin=0.1, level=0.9, seed=5, resamples=199)
    assert found.p == pytest.approx(p)
    assert found.at_least == pytest.approx(at_least)
    assert 0.005 < found.p.min() < found.p.max() < 1


@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize("n", [20, 50, 100])
@pytest.mark.parametrize("cells", [8, 64, 500])
def test_rates_of_families_without_an_effect(cells, n, kind):
    rng, trials = np.random.default_rng([cells, n]), TRIALS[cells]
    named = missed = 0
    for seed in range(trials):
        found = simultaneous(NOTHING[kind](rng, (n, cells)), seed=seed, resamples=399)
        named += bool((found.p <= 0.05).any())
        missed += bool(((found.low > 0) | (found.high < 0)).any())
    print(f"{kind}, {n} prompts, {cells} cells: {named} named, {missed} missed of {trials}")
    assert named <= most(trials)
    assert missed <= most(trials)


def sign_flips(values, rng, resamples):
    """The alternative that was turned down, signs of prompts flipped: smallest p of all cells, and the t needed."""
    n = len(values)

    def t_of(means):
        return means / np.sqrt(((values**2).mean(0) - means**2) / (n - 1))

    largest = t_of(rng.choice([-1.0, 1.0], size=(resamples, n)) @ values / n).max(1)
    reached = (largest >= t_of(values.mean(0)).max()).sum()
    return (1 + reached) / (1 + resamples), np.quantile(largest, 0.95)


def test_rates_of_sign_flips_hold_for_symmetric_differences_only():
    found = {}
    for kind in ("normal", "left-skewed"):
        rng, rows = np.random.default_rng(0), []
        for seed in range(40):
            values = NOTHING[kind](rng, (20, 500))
            p, needed = sign_flips(values, rng, 399)
            bounds = simultaneous(values, seed=seed, resamples=399)
            reach = (bounds.mean - bounds.at_least)[0] / (values.std(0, ddof=1)[0] / 20**0.5)
            rows.append((p <= 0.05, bool((bounds.p <= 0.05).any()), needed, reach))
        flipped, bootstrapped, needed, reach = np.array(rows).T
        found[kind] = int(flipped.sum()), int(bootstrapped.sum())
        print(
            f"{kind}, 20 prompts, 500 cells, 40 families: sign flips name {flipped.sum():.0f} and need a t of "
            f"{np.median(needed):.1f}, the bootstrap {bootstrapped.sum():.0f} and {np.median(reach):.1f}"
        )
    assert found["normal"][0] <= most(40)
    assert found["left-skewed"][0] > 36
    assert max(bootstrapped for _, bootstrapped in found.values()) <= most(40)


def test_effects_are_found_and_nothing_beside_them():
    # 4 of 64 heads exceed the margin by 1.5 standard deviations, all by what the prompts have in common.
    rng, effects = np.random.default_rng(1), np.zeros(64)
    effects[:4] = 1.5
    found_all = in_vain = by_bound = 0
    for seed in range(200):
        common = rng.normal(size=(30, 1))
        values = 0.1 + effects + (rng.normal(size=(30, 64)) + common) / 2**0.5
        found = simultaneous(values, margin=0.1, seed=seed, resamples=399)
        found_all += bool((found.p[:4] <= 0.05).all())
        in_vain += bool((found.p[4:] <= 0.05).any())
        by_bound += int((found.at_least > 0.1).sum())
        assert (found.p[found.at_least > 0.1] <= 0.05).all()
    assert found_all > 190
    assert in_vain <= most(200)
    assert by_bound > 190 * 4


def test_a_margin_is_a_shift_and_a_sign_swaps_the_sides():
    values = np.random.default_rng(0).gamma(2, size=(25, 6))
    shifted = simultaneous(values - 1.5)
    assert simultaneous(values, margin=1.5).p == pytest.approx(shifted.p)
    turned = simultaneous(-values)
    found = simultaneous(values)
    assert turned.at_most == pytest.approx(-found.at_least)
    assert turned.low == pytest.approx(-found.high)


samples = st.builds(
    lambda seed, n, cells, shape: np.random.default_rng(seed).gamma(shape, size=(n, cells)),
    st.integers(0, 10**6),
    st.integers(MIN_UNITS_TOGETHER, 40),
    st.integers(1, 6),
    st.floats(0.3, 5),
)
few = settings(max_examples=30, deadline=None, derandomize=True)


@few
@given(samples, st.floats(0.001, 1000), st.floats(-100, 100))
def test_bounds_are_ordered_and_move_with_the_values(values, scale, shift):
    one = simultaneous(values, resamples=199)
    assert (one.low <= one.at_least).all()
    assert (one.at_least <= one.mean).all()
    assert (one.mean <= one.at_most).all()
    assert (one.at_most <= one.high).all()
    assert (one.p_alone <= one.p).all()
    other = simultaneous(values * scale + shift, resamples=199)
    for bound in ("low", "at_least", "at_most", "high"):
        assert np.allclose(getattr(other, bound), getattr(one, bound) * scale + shift, rtol=1e-6, atol=1e-6)


@few
@given(samples, st.floats(-5, 5))
def test_other_cells_cost_reach_and_constant_ones_nothing(values, constant):
    alone = simultaneous(values, resamples=199)
    with_constant = simultaneous(np.column_stack([values, np.full(len(values), constant)]), resamples=199)
    for field in ("mean", "low", "at_least", "at_most", "high", "p", "p_alone"):
        assert np.allclose(getattr(with_constant, field)[:-1], getattr(alone, field), rtol=1e-9)
    noise = np.random.default_rng(0).normal(size=(len(values), 3))
    crowded = simultaneous(np.column_stack([values, noise]), resamples=199)
    assert (crowded.at_least[: values.shape[1]] <= alone.at_least + 1e-9).all()
    assert (crowded.p[: values.shape[1]] >= alone.p).all()
    assert (crowded.p_alone[: values.shape[1]] == alone.p_alone).all()


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    values = np.random.default_rng(0).normal(size=(15, 7))
    whole = simultaneous(values, seed=2)
    monkeypatch.setattr(sys.modules["headscope.measures.simultaneous"], "_CELLS_AT_ONCE", 15 * 11)
    parts = simultaneous(values, seed=2)
    assert np.allclose(parts.at_least, whole.at_least)
    assert (parts.p == whole.p).all()


def test_what_is_undefined_stays_so_with_a_reason():
    values = np.random.default_rng(0).normal(size=(20, 2, 2))
    values[3, 0, 1] = np.nan
    found = simultaneous(values)
    assert found.mean.shape == (2, 2)
    assert np.isnan([found.mean[0, 1], found.at_least[0, 1], found.p[0, 1]]).all()
    assert found.reason.tolist() == [["", "undefined for some prompts"], ["", ""]]
    assert found.cells == 3
    others = simultaneous(values.reshape(20, 4)[:, [0, 2, 3]])
    assert found.at_least.flatten()[[0, 2, 3]] == pytest.approx(others.at_least)
    few = simultaneous(values[:9])
    assert not np.isnan(few.mean[0, 0])
    assert np.isnan(few.at_least).all()
    assert few.reason[0, 0] == "9 prompts, and bounds for all at once need 10"
    assert few.cells == 0


def test_a_cell_without_spread_has_the_bounds_of_what_was_not_seen():
    values = np.column_stack([np.full(40, 0.4), np.random.default_rng(0).random((40, 3))])
    unbounded = simultaneous(values, margin=0.1)
    assert np.isnan([unbounded.at_least[0], unbounded.high[0], unbounded.p[0]]).all()
    assert unbounded.reason.tolist() == [TOO_ALIKE, "", "", ""]
    bounded = simultaneous(values, margin=0.1, within=(0.0, 1.0))
    # One of the two kinds of cells: half of the error.
    assert bounded.at_least[0] == pytest.approx(0.4 * 0.025 ** (1 / 40))
    assert bounded.p[0] < 0.05
    assert simultaneous(np.full((10, 64), 0.4), margin=0.39, within=(0.0, 1.0)).p.tolist() == [1.0] * 64


@pytest.mark.parametrize("k", [0, 3, 20])
def test_a_family_of_rates_has_exact_bounds_and_p_values(k):
    """Of three rates each has Clopper and Pearson's bounds at a third of the error, and p by Holm."""
    values = (np.arange(20)[:, None] < [k, 0, 10]).astype(float)
    found = simultaneous(values, margin=0.2, within=(0.0, 1.0))
    third = stats.binomtest(k, 20).proportion_ci(1 - 0.05 / 3, method="exact")
    assert (found.low[0], found.high[0]) == pytest.approx((third.low, third.high))
    alone = [stats.binomtest(count, 20, 0.2, alternative="greater").pvalue for count in (k, 0, 10)]
    assert found.p_alone.tolist() == pytest.approx(alone, abs=1e-7)
    assert found.p.tolist() == pytest.approx(_holm(alone), abs=1e-6)


def _holm(p):
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([min(1.0, p[place] * (len(p) - rank)) for rank, place in enumerate(order)])
    return adjusted[np.argsort(order)]


def test_bounds_stay_within_a_range():
    values = np.random.default_rng(0).beta(8, 0.3, size=(12, 5))
    assert simultaneous(values).high.max() > 1
    assert simultaneous(values, within=(0.0, 1.0)).high.max() == 1.0


def test_refusals():
    with pytest.raises(hs.errors.BadArgument, match="no prompts"):
        simultaneous(np.empty((0, 3)))
    with pytest.raises(hs.errors.BadArgument, match="level 1"):
        simultaneous(np.zeros((20, 3)), level=1.0)
    with pytest.raises(hs.errors.BadArgument, match="at least 40"):
        simultaneous(np.zeros((20, 3)), resamples=30)
