"""Curves over examples: values by hand, fits of curves that are known, and judgement by extrapolation."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from headscope.errors import BadArgument
from headscope.measures.curve_fits import extrapolate, fit_curve, nrmse, refit, resampled_means
from headscope.measures.curves import BAYESIAN, BOUNDED, FAMILIES, LOGISTIC, POWER, step_per_example
from headscope.measures.statistics import percentile_bounds

SHOTS = np.arange(1, 41, dtype=float)
# Every curve still moves after its first half, so that there is something to predict.
TRUE = {
    "power": (2.0, 0.7, 0.2),
    "bounded": (3.0, 1.2, 4.0, 0.2),
    "logistic": (3.0, 8.0, 2.5, 0.2),
    "bayesian": (0.8, 0.05, 0.02, 0.12),
}
# Of the log-probability of every prompt at every shot; the mean over 100 prompts has a tenth of it.
NOISE_NATS = 0.1


def exactly(family, parameters, shots=SHOTS):
    return family.p(torch.tensor(parameters, dtype=torch.float64), torch.from_numpy(shots)).numpy()


def simulated(family, seed):
    """The mean curve of 100 noisy prompts and of 40 resamples of them, [1 + resample, shot]."""
    nll = -np.log(exactly(family, TRUE[family.name]))
    noisy = nll + np.random.default_rng(seed).normal(0, NOISE_NATS, (100, len(SHOTS)))
    return np.exp(-resampled_means(noisy, resamples=40, seed=seed))


def bayesian_nll_nats(shots, prior, likelihood, updates):
    """NLL [shot] of the Bayesian law for any number of hypotheses; `updates` is the evidence per example.

    One hypothesis has nothing to learn:

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> bayesian_nll_nats(torch.tensor([1.0, 9.0]), one, one / 4, torch.tensor(2.0)).exp().round().tolist()
    [4.0, 4.0]
    """
    before = prior.log() + updates * shots[:, None] * likelihood.log()
    return before.logsumexp(-1) - (before + likelihood.log()).logsumexp(-1)


def test_families_by_hand():
    two = np.array([2.0])
    assert_allclose(exactly(POWER, (3.0, 1.0, 0.5), two), np.exp(-(3 / 2 + 0.5)))
    assert_allclose(exactly(BOUNDED, (3.0, 2.0, 1.0, 0.5), two), np.exp(-(3 / 9 + 0.5)))
    assert_allclose(exactly(LOGISTIC, (3.0, 1.0, 2.0, 0.5), two), np.exp(-(3 / 5 + 0.5)))
    # K = 1, two shots: (rho g^3 + (1 - rho) b^3) / (rho g^2 + (1 - rho) b^2) with g = 1/2, b = 1/4, rho = 1/5.
    by_hand = (0.2 / 8 + 0.8 / 64) / (0.2 / 4 + 0.8 / 16)
    assert_allclose(exactly(BAYESIAN, (0.5, 0.25, 0.2, 1.0), two), by_hand)


def test_the_bayesian_family_is_the_law_with_two_hypotheses():
    gamma, beta, rho, updates = 0.7, 0.1, 0.05, 0.3
    prior, likelihood = (torch.tensor(pair, dtype=torch.float64) for pair in ((rho, 1 - rho), (gamma, beta)))
    law = bayesian_nll_nats(torch.from_numpy(SHOTS), prior, likelihood, torch.tensor(updates))
    assert_allclose(exactly(BAYESIAN, (gamma, beta, rho, updates)), (-law).exp())
    # A third hypothesis that is like the second changes nothing; one that is better does.
    split = torch.tensor([rho, 0.5, 0.45], dtype=torch.float64)
    same = bayesian_nll_nats(
        torch.from_numpy(SHOTS), split, likelihood[[0, 1, 1]], torch.tensor(updates, dtype=torch.float64)
    )
    assert_allclose(same, law)


def test_power_is_a_limit_of_bounded_and_of_logistic():
    power = exactly(POWER, (2.0, 0.7, 0.2))
    assert_allclose(exactly(BOUNDED, (2.0 / 1e-9**0.7, 0.7, 1e-9, 0.2)), power, rtol=1e-6)
    assert_allclose(exactly(LOGISTIC, (2.0 / 1e-9**0.7, 1e-9, 0.7, 0.2)), power, rtol=1e-5)


def test_constraints_hold_for_any_free_numbers():
    free = torch.from_numpy(np.random.default_rng(0).normal(0, 8, (200, 4)))
    for family in FAMILIES:
        allowed = family.constrained(free[:, : len(family.parameters)])
        assert bool((allowed > 0).all())
    gamma, beta, rho, _ = BAYESIAN.constrained(free).unbind(-1)
    assert bool((beta <= gamma).all())
    assert bool((gamma <= 1).all())
    assert bool((rho <= 1).all())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_curve_without_noise_is_found(family):
    fit = fit_curve(family, SHOTS, exactly(family, TRUE[family.name]))
    assert nrmse(fit.p, exactly(family, TRUE[family.name])) < 1e-3


def test_the_fit_agrees_with_another_solver():
    seen = simulated(LOGISTIC, seed=3)[0]
    ours = fit_curve(LOGISTIC, SHOTS, seen)

    def residual(free):
        return LOGISTIC.curve(torch.from_numpy(free), torch.from_numpy(SHOTS)).numpy() - seen

    theirs = least_squares(residual, np.log(TRUE["logistic"]))
    assert_allclose(ours.p, theirs.fun + seen, atol=1e-4)


def test_refits_of_resamples_agree_with_fits_from_anew():
    for family in FAMILIES:
        curves = simulated(family, seed=1)[:4]
        again = refit(fit_curve(family, SHOTS, curves[0]), SHOTS, curves)
        for free, curve in zip(again, curves, strict=True):
            quick = nrmse(family.curve(free, torch.from_numpy(SHOTS)).numpy(), curve)
            assert quick == pytest.approx(nrmse(fit_curve(family, SHOTS, curve).p, curve), abs=2e-4)


def test_what_is_identifiable_is_found_and_what_is_not_is_not():
    # The step K log(gamma / beta) and gamma from noisy curves that show both ends ...
    steps, ceilings = [], []
    for seed in range(5):
        fit = fit_curve(BAYESIAN, SHOTS, simulated(BAYESIAN, seed)[0])
        steps.append(step_per_example(fit.parameters))
        ceilings.append(fit.parameters["gamma"])
    assert_allclose(steps, 0.12 * np.log(16), rtol=0.05)
    assert_allclose(ceilings, 0.8, rtol=0.02)
    # ... while other K, beta and rho give nearly the same curve once it has left its lower end:
    late, gamma = np.arange(1, 30, dtype=float), 0.8
    low = exactly(BAYESIAN, (gamma, 0.01, 0.9, 0.5 / np.log(80)), late)
    rest = (gamma - 0.01) * (1 - 0.9) / 0.9
    rho = 1 / (1 + rest / (gamma - 0.2))
    other = exactly(BAYESIAN, (gamma, 0.2, rho, 0.5 / np.log(4)), late)
    assert np.abs(low - other).max() < 0.002
    fits = [fit_curve(BAYESIAN, late, curve) for curve in (low, other)]
    assert_allclose([step_per_example(fit.parameters) for fit in fits], 0.5, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_true_family_extrapolates_best_or_is_tied_in_nine_of_ten_seeds(family):
    best, errors = 0, []
    for seed in range(10):
        found = {each.family: each for each in extrapolate(SHOTS, simulated(family, seed), share=0.5, seed=seed)}
        own = found[family.name]
        nearest = min(found.values(), key=lambda each: each.error)
        best += nearest is own or tied(nearest, own)
        errors.append(own.error)
    assert best >= 9
    assert max(errors) < 0.05  # the later half, predicted from the earlier one


def worse(one, other):
    """By how much `other` extrapolates worse than `one`, with bounds, paired over resamples."""
    return other.error - one.error, *percentile_bounds(other.resampled - one.resampled)


def tied(one, other):
    """Within .01, or the bounds include 0."""
    difference, low, high = worse(one, other)
    return abs(difference) <= 0.01 or low <= 0 <= high


def test_a_bayesian_curve_is_told_from_a_power_law():
    found = {each.family: each for each in extrapolate(SHOTS, simulated(BAYESIAN, 0), share=0.5)}
    assert not tied(found["bayesian"], found["power"])
    difference, low, high = worse(found["bayesian"], found["power"])
    assert low > 0
    assert worse(found["power"], found["bayesian"]) == pytest.approx((-difference, -high, -low))


def test_too_few_shots_are_no_number_but_a_reason():
    curves = simulated(POWER, 0)[:, :15]
    found = extrapolate(SHOTS[:15], curves, share=0.2)
    assert all(np.isnan(each.error) and "15 shots are 3" in each.reason for each in found)
    power, bounded, *_ = extrapolate(SHOTS[:8], curves[:, :8], share=0.5)
    assert power.fitted == 4
    assert power.error > 0
    assert np.isnan(bounded.error)  # four parameters need five shots
    with pytest.raises(BadArgument, match="at least 5"):
        fit_curve(BOUNDED, SHOTS[:4], curves[0, :4])
    with pytest.raises(BadArgument, match="no probabilities"):
        fit_curve(POWER, SHOTS[:6], np.full(6, 1.2))


def test_whole_prompts_are_resampled_and_the_same_for_the_same_seed():
    values = np.random.default_rng(0).normal(size=(20, 3))
    means = resampled_means(values, resamples=500, seed=4)
    assert_allclose(means[0], values.mean(0))
    assert_allclose(means[1:].std(0), values.std(0) / np.sqrt(20), rtol=0.15)
    # A shift of all prompts shifts every resample by as much: the same prompts were drawn.
    assert_allclose(resampled_means(values + 2, resamples=500, seed=4), means + 2)
    # What is undefined for more than a twentieth of the resamples has no bounds.
    assert np.isnan(percentile_bounds(np.array([1.0, np.nan]))).all()
