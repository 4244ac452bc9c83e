"""Changes in training: known curves, real ones, rates in simulation, midpoints over seeds."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares
from tools import change_points as simulated

from headscope.errors import BadArgument
from headscope.measures.change_point import ChangePoint, change_point, overlap
from headscope.measures.midpoints import earlier, log_midpoints, order_of_events, over_seeds
from headscope.measures.step_curves import fit, fit_at, logistics, power_laws, saturations

EVEN = np.arange(1, 33) * 50.0
# ICL scores in thousandths of a nat, by `headscope train`: induction-1l every 80, induction-2l every 50 steps.
ICL_1L = "5 15 7 -8 -18 -31 -40 -56 -54 -72 -85 -97 -100 -117 -124 -117 -133 -132 -138 -134"
ICL_2L = """14 16 -1 -10 -19 -33 -49 -58 -68 -79 -79 -88 -96 -108 -115 -123 -131 -132 -132 -124 -146 -278 -1100 -1761
-1762 -1753 -1766 -1784 -1790 -1797 -1805 -1817"""


def logistic(steps, midpoint, slope, height=1.0):
    return height / (1 + (steps / midpoint) ** -slope)


def noisy(values, deviation=0.02, seed=0):
    return values + np.random.default_rng(seed).normal(0, deviation, len(values))


def shown_at(*midpoints):
    return [ChangePoint(True, midpoint=float(at), p_none=0.0) for at in midpoints]


def none_shown(count):
    return [ChangePoint(False, "a drift", p_none=0.5)] * count


@pytest.mark.parametrize("sign", [1, -1])
def test_a_known_change_is_read_off(sign):
    # At slope 10 the rise goes from 10 to 90% over a factor of 81^(1/10) about the midpoint.
    found = change_point(EVEN, 3 + sign * logistic(EVEN, 800, 10, height=2))
    assert found.shown
    assert not found.reason
    assert_allclose([found.midpoint, *found.window], [800, 800 * 9**-0.1, 800 * 9**0.1], rtol=1e-3)
    assert found.height == pytest.approx(2 * sign, rel=1e-3)
    assert found.inside == 7  # 650 to 950, every 50, is within 642 to 997; 1000 is not
    assert found.p_none < 0.01
    assert_allclose(found.fitted, 3 + sign * logistic(EVEN, 800, 10, height=2), atol=1e-3)
    assert found.low <= found.midpoint <= found.high


def test_noise_widens_the_interval_and_unit_and_scale_do_not_decide():
    values = logistic(EVEN, 800, 10)
    precise, rough = (change_point(EVEN, noisy(values, deviation)) for deviation in (0.01, 0.08))
    assert rough.high - rough.low > 4 * (precise.high - precise.low) > 0
    assert precise.noise == pytest.approx(0.01, rel=0.4)
    one, other = (
        change_point(EVEN * steps, noisy(values) * scale, margin=0.1 * scale) for steps, scale in ((1, 1), (1e6, 50))
    )
    assert_allclose(np.array(other.window) / 1e6, one.window, rtol=1e-4)
    assert other.p_none == one.p_none


def test_noise_that_lasts_from_checkpoint_to_checkpoint_widens_the_interval():
    # The same size of noise: in waves of eight checkpoints, and up and down from one to the next.
    turn = np.arange(len(EVEN))
    waves, teeth = (0.05 * np.sqrt(2) * np.cos(np.pi * turn * each + 0.3) for each in (1 / 4, 7 / 8))
    lasting, brief = (change_point(EVEN, logistic(EVEN, 800, 10) + noise) for noise in (waves, teeth))
    assert lasting.correlation > 0.5 > 0.05 > brief.correlation
    assert lasting.high - lasting.low > 1.4 * (brief.high - brief.low)


def test_step_0_is_left_out_whatever_it_holds():
    values = noisy(logistic(EVEN, 800, 10))
    found = change_point(np.append(0, EVEN), np.append(np.nan, values))
    assert found == change_point(EVEN, values)
    assert found.steps[0] == 50


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (EVEN / 1600, "a drift (power law) fits as well: p = 1.00"),
        (np.log(EVEN), "a drift (power law) fits as well: p = 1.00"),
        (-np.exp(-EVEN / 400), "a drift (saturation) fits as well: p = 1.00"),
        (noisy(0 * EVEN), "fits as well"),
        (0 * EVEN, "the values do not vary"),
        (noisy(logistic(EVEN, 800, 10, height=0.09), 0.001), "is within the margin of 0.1"),
        (noisy(logistic(EVEN, 500, 2.2), 0.003), "times the steps, more than 5"),
        (noisy(logistic(EVEN, 1500, 12)), "the change is not over at the last checkpoint: 10 to 90% are steps 12"),
        (noisy(logistic(EVEN, 80, 4), 0.003), "the change is begun before the first checkpoint"),
        (noisy(logistic(EVEN, 800, 20), 0.4), "times the noise about it, and 4 are needed"),
        (np.where(EVEN == 700, np.nan, EVEN), "undefined at step 700"),
    ],
)
def test_no_change_is_shown_and_the_reason_is_told(values, reason):
    found = change_point(EVEN, values)
    assert reason in found.reason
    assert not found.shown
    assert all(math.isnan(each) for each in (found.midpoint, *found.window, found.low, found.high))
    assert found.inside == 0
    assert found.defined is not ("undefined" in reason or "vary" in reason)


def test_too_few_checkpoints_and_bad_arguments():
    assert change_point(EVEN[:5], EVEN[:5]).reason == "5 checkpoints after step 0, and a change needs 6"
    assert change_point(np.append(0, EVEN[:5]), EVEN[:6]).reason.startswith("5 checkpoints")
    for steps, values in ((EVEN, EVEN[:5]), (-EVEN, EVEN), (EVEN[::-1], EVEN), (EVEN[None], EVEN[None])):
        with pytest.raises(BadArgument, match="steps that ascend"):
            change_point(steps, values)
    for margin in (-1.0, math.nan):
        with pytest.raises(BadArgument, match="margin of 0 or more"):
            change_point(EVEN, EVEN, margin=margin)


def test_two_layers_change_and_one_layer_drifts():
    one, two = (np.array(text.split(), float) / 1000 for text in (ICL_1L, ICL_2L))
    changed = change_point(EVEN, two)
    assert changed.shown
    # By a search with 60 scales and 25 rounds: 1098.1, 1141.1 and 1185.7.
    assert_allclose([changed.window[0], changed.midpoint, changed.window[1]], [1098.1, 1141.1, 1185.7], atol=0.5)
    assert changed.inside == 2  # the source's caveat: hardly a checkpoint within the change
    # An S of small noise, so p alone would call it a change: what tells it is that it takes over 6 times the steps.
    drifted = change_point(np.arange(1, 21) * 80.0, one)
    assert not drifted.shown
    assert drifted.p_none < 0.05
    assert "6.3 times the steps" in drifted.reason


def test_overlap_is_of_windows_in_log_step():
    def window(low, high):
        return ChangePoint(True, window=(float(low), float(high)))

    assert overlap(window(1, 4), window(2, 8)) == pytest.approx(1 / 3)
    assert overlap(window(2, 8), window(2, 8)) == 1
    assert overlap(window(1, 2), window(4, 8)) == 0
    assert overlap(window(1, 16), window(2, 4)) == pytest.approx(1 / 4)
    assert math.isnan(overlap(window(1, 4), ChangePoint(False, window=(1.0, 4.0))))


@pytest.mark.parametrize(
    ("shapes", "parameters", "sign"),
    [(logistics, (math.log(700), math.log(0.1)), 1), (power_laws, (-0.4,), -1), (saturations, (6.0,), 1)],
)
def test_fits_are_no_worse_than_a_slow_search_from_the_truth(shapes, parameters, sign):
    family, rng = shapes(EVEN), np.random.default_rng(1)
    truth = np.array(parameters)
    curves = sign * family.f(truth) + rng.normal(0, 0.05, (30, len(EVEN)))
    found = fit(family, curves)
    for curve, error in zip(curves, found.error, strict=True):
        slow = least_squares(lambda x, y=curve: x[0] + x[1] * family.f(x[2:]) - y, (0.0, sign, *parameters))
        assert error <= 2 * slow.cost * 1.0005  # the test of "none" looks at logarithms of ratios of errors
    spelled = found.base[:, None] + found.height[:, None] * family.f(found.parameters)
    assert_allclose(((spelled - curves) ** 2).sum(1), found.error)
    if len(parameters) == 2:
        held = fit_at(family, curves, np.full(30, parameters[0]))
        assert (held.parameters[:, 0] == parameters[0]).all()
        assert (held.error >= found.error * (1 - 1e-6)).all()


def test_power_laws_hold_straight_lines_and_logarithms():
    lines = fit(power_laws(EVEN), np.stack([EVEN, np.log(EVEN), EVEN**-0.5, EVEN**2]))
    assert_allclose(lines.parameters[:, 0], [1, 0, -0.5, 2], atol=1e-3)
    assert (lines.error <= 1e-6 * len(EVEN) * np.array([1600, 7, 0.14, 1600**2]) ** 2).all()


CURVES = 40


def few(rate):
    """So many of 40 are hit by chance nearly always (all but once in a thousand) at this rate."""
    return next(k for k in range(CURVES, -1, -1) if simulated_cdf(k - 1, rate) < 1e-3)


def simulated_cdf(k, rate):
    return sum(math.comb(CURVES, i) * rate**i * (1 - rate) ** (CURVES - i) for i in range(k + 1))


def test_windows_overlap_intervals_cover_and_thinning_moves_little():
    # docs/change-points.md has the shares of 500 curves.
    found = simulated.found(simulated.Change(8, 0.05), CURVES)
    print(found.shown.mean(), (found.overlaps >= 0.7).mean(), found.covered.mean(), found.moved.max())
    assert (found.overlaps >= 0.7).sum() >= few(0.95)
    assert few(0.90) <= found.covered.sum()
    assert found.moved.max() <= 1


def test_drifts_are_no_change():
    each = [simulated.none_shown(name, 0.03, "even", CURVES // 8) for name in simulated.DRIFTS]
    none, by_p = (np.concatenate(parts) for parts in zip(*each, strict=True))
    assert none.sum() >= few(0.95)
    assert by_p.sum() >= few(0.95)


def test_midpoints_over_seeds_by_hand():
    # Logs 0, 1, 2, 3, 4: mean 2, standard error sqrt(2.5 / 5), Student's 97.5% of four degrees of freedom 2.776.
    found = over_seeds(shown_at(*np.exp(range(5))))
    reach = 2.7764451 * math.sqrt(0.5)
    assert_allclose(np.log([found.midpoint, found.low, found.high]), [2, 2 - reach, 2 + reach], atol=1e-6)
    assert (found.shown, found.seeds, found.reason) == (5, 5, "")


@pytest.mark.parametrize(
    ("curves", "shown", "reason"),
    [
        (shown_at(1, 2, 3, 4), 4, "4 training seeds, and 5 are needed"),
        (shown_at(1, 2, 3, 4) + none_shown(2), 4, "2 of 6 seeds show no change"),
        (none_shown(5), 0, "5 of 5 seeds show no change"),
        ([*shown_at(1, 2, 3, 4, 5), ChangePoint(False, "undefined at step 3")], 5, "1 of 6 curves are undefined"),
        (shown_at(7, 7, 7, 7, 7), 5, "all midpoints are the same"),
    ],
)
def test_no_interval_over_seeds_without_a_reason(curves, shown, reason):
    found = over_seeds(curves)
    assert (found.shown, found.reason) == (shown, reason)
    assert math.isnan(found.low)
    assert math.isnan(found.midpoint) is not reason.startswith("all")


def test_earlier_needs_five_seeds_and_a_clear_difference():
    first, second = shown_at(100, 110, 120, 130, 140), shown_at(200, 220, 240, 260, 280)
    found = earlier(first, second)
    assert found.earlier
    assert found.ratio == pytest.approx(0.5)
    assert found.low < 0.5 < found.high < 1
    assert found.p == pytest.approx(1 / 252)  # of 10 choose 5 ways to deal, one is as early
    back = earlier(second, first)
    assert not back.earlier
    assert_allclose([back.low, back.high], [1 / found.high, 1 / found.low])
    assert not earlier(first, shown_at(90, 110, 120, 130, 150)).earlier
    few = earlier(first[:4], second)
    assert (few.earlier, few.reason) == (False, "4 training seeds, and 5 are needed")


def test_seeds_without_a_change_are_the_latest():
    gone = earlier(shown_at(100, 110, 120, 130, 140), none_shown(5))
    assert gone.earlier
    assert gone.p == pytest.approx(1 / 252)
    assert (gone.shown, gone.seeds) == ((5, 0), (5, 5))
    assert gone.reason == "0 of 5 and 5 of 5 seeds show no change"
    assert not earlier(none_shown(5), shown_at(100, 110, 120, 130, 140)).earlier
    # Neither changes: all ranks are tied.
    neither = earlier(none_shown(5), none_shown(5))
    assert (neither.earlier, neither.p) == (False, 1.0)
    assert not math.isfinite(neither.ratio)
    undefined = earlier(shown_at(1, 2, 3, 4, 5), [ChangePoint(False, "undefined at step 3")] * 5)
    assert (undefined.earlier, undefined.reason) == (False, "5 of 5 curves are undefined")


def test_pairs_are_compared_run_by_run():
    # Seeds differ by far more than the two events of each do: only pairs can tell.
    base = np.array([100, 200, 400, 800, 1600])
    first, second = shown_at(*base), shown_at(*base * [1.2, 1.21, 1.19, 1.2, 1.22])
    assert not earlier(first, second).earlier
    paired = earlier(first, second, paired=True)
    assert paired.earlier
    assert paired.p == pytest.approx(1 / 32)
    with pytest.raises(BadArgument, match="cannot pair 5 training runs with 4"):
        earlier(first, second[:4], paired=True)


def test_more_seeds_than_can_be_dealt_in_every_way_are_drawn():
    first, second = shown_at(*range(100, 112)), shown_at(*range(106, 118))
    assert 0.0002 < earlier(first, second).p < 0.003


def test_events_are_ordered_and_every_pair_is_judged():
    base = np.array([100.0, 130, 90, 160, 120, 110])
    events = {
        "induction": shown_at(*base * [2, 2.1, 1.9, 2, 2.1, 2]),
        "previous token": shown_at(*base),
        "sinks": shown_at(*base * [2.1, 1.9, 2, 2.1, 2, 1.9]),
        "never": none_shown(6),
    }
    found = order_of_events(events)
    assert found.names == ("previous token", "sinks", "induction", "never")
    assert found.events["induction"].midpoint > found.events["previous token"].midpoint
    assert set(found.settled) == {("previous token", "sinks"), ("previous token", "induction")}
    assert found.pairs["sinks", "induction"].level == pytest.approx(1 - 0.05 / 6)
    with pytest.raises(BadArgument, match="cannot order events"):
        order_of_events({"one": shown_at(1, 2, 3, 4, 5)})
    with pytest.raises(BadArgument, match="cannot order events"):
        order_of_events({"one": shown_at(1, 2, 3, 4, 5), "other": shown_at(1)})


def test_intervals_over_seeds_hold_in_simulation():
    rng, hits, wrong = np.random.default_rng(0), 0, 0
    for _ in range(200):
        logs = rng.normal(5, 0.3, (2, 5))
        found = over_seeds(shown_at(*np.exp(logs[0])))
        hits += math.log(found.low) <= 5 <= math.log(found.high)
        wrong += earlier(*(shown_at(*np.exp(each)) for each in logs)).earlier
    assert 0.90 < hits / 200 < 0.99
    assert wrong / 200 < 0.06  # one side of 95%


def test_logs_tell_no_change_from_an_undefined_curve():
    assert log_midpoints([*shown_at(math.e), *none_shown(1)]).tolist() == [1, math.inf]
    assert np.isnan(log_midpoints([ChangePoint(False)])).all()
