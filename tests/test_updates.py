"""The article's update, mended: its slip, its line, what is read off p, and the exact posterior as control."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import expit, logit

from headscope.errors import BadArgument
from headscope.measures import hypothesis_posterior, posterior_predictive
from headscope.measures.curves import BAYESIAN, step_per_example
from headscope.measures.statistics import percentile_bounds
from headscope.measures.updates import UPDATES, fit_updates, implied_log_odds, line_of

SHOTS = np.arange(16.0)


def as_printed(right, wrong, c):
    """The update as the article prints it, with (c - 1) in the second line."""
    total = right * c + wrong * (1 - c)
    return right * c / total, wrong * (c - 1) / total


def updated(right, wrong, c):
    """The update mended: both beliefs after one confirming example."""
    total = right * c + wrong * (1 - c)
    return right * c / total, wrong * (1 - c) / total


def belief(prior, c, examples):
    """A after these numbers of confirming examples: p where it goes from 0 to 1."""
    return UPDATES.p(torch.tensor([prior, c, 0.0, 1.0], dtype=torch.float64), torch.from_numpy(examples)).numpy()


def test_the_printed_update_gives_no_probabilities_and_the_mended_one_does():
    right, wrong = as_printed(0.2, 0.8, 0.7)
    assert wrong < 0
    assert right + wrong == pytest.approx(0.14 / 0.38 - 0.24 / 0.38)  # -0.263, not 1
    right, wrong = updated(0.2, 0.8, 0.7)
    assert (right, wrong) == (pytest.approx(0.14 / 0.38), pytest.approx(0.24 / 0.38))
    assert right + wrong == pytest.approx(1)


def test_updates_one_by_one_are_the_line_in_log_odds():
    right, wrong = 0.05, 0.95
    seen = [right]
    for _ in range(10):
        right, wrong = updated(right, wrong, 0.7)
        seen.append(right)
    assert_allclose(seen, belief(0.05, 0.7, np.arange(11.0)))
    line = line_of(logit(np.array(seen)))
    assert (line.slope, line.r2, line.bend) == (pytest.approx(np.log(7 / 3)), 1.0, pytest.approx(0, abs=1e-9))


def test_c_and_the_bayesian_law_say_the_same():
    # c / (1 - c) = (gamma / beta)^K, with shots counted from 0.
    gamma, beta, rho, k = 0.7, 0.1, 0.05, 0.4
    odds = (gamma / beta) ** k
    c = odds / (1 + odds)
    shots = torch.from_numpy(SHOTS)
    ours = UPDATES.p(torch.tensor([rho, c, beta, gamma], dtype=torch.float64), shots)
    law = BAYESIAN.p(torch.tensor([gamma, beta, rho, k], dtype=torch.float64), shots)
    assert_allclose(ours, law)
    assert step_per_example({"gamma": gamma, "beta": beta, "K": k}) == pytest.approx(logit(c))


def two_hypotheses(noise=0.3, answers=10, shots=12):
    """Log-odds of the first of two functions that never agree, and of p, after clean examples of it; both [shot]."""
    values = torch.stack((torch.zeros(1, shots), torch.ones(1, shots))).long()
    seen = torch.zeros(1, shots, dtype=torch.long)
    prior = torch.tensor([0.02, 0.98], dtype=torch.float64)
    known = {"noise": noise, "n_answers": answers}
    posterior = hypothesis_posterior(values, seen, prior, **known)[0]
    p = posterior_predictive(values, seen, prior, **known)[0, :, 0]
    return (posterior[:, 0].log() - posterior[:, 1].log()).numpy(), logit(p.numpy())


def test_the_exact_posterior_is_a_line_in_its_belief_and_not_in_p():
    of_belief, of_p = two_hypotheses()
    step = np.log((0.7 + 0.03) / 0.03)
    assert_allclose(np.diff(of_belief), step)
    assert line_of(of_belief).bend == pytest.approx(0, abs=1e-6)
    assert line_of(of_belief).r2 == pytest.approx(1)
    assert line_of(of_p).r2 < 0.6
    assert line_of(of_p).bend < -1


def test_what_is_read_off_the_exact_p_is_its_belief():
    of_belief, of_p = two_hypotheses()
    read = implied_log_odds(expit(of_p[:4]), beta=0.03, gamma=0.73)
    assert_allclose(read, of_belief[:4], rtol=1e-6)


def test_points_outside_are_left_out_and_never_pushed_inside():
    read = implied_log_odds(np.array([0.05, 0.1, 0.5, 0.9, 0.95]), beta=0.1, gamma=0.9)
    assert np.isnan(read[[0, 1, 3, 4]]).all()
    assert read[2] == 0
    assert line_of(read).points == 1
    assert np.isnan(line_of(read).slope)


def test_a_bend_by_hand():
    # 0 1 2 3 | 3 3 3: slope 1 over the first four, 0 over the last four; slope of all: 14 / 28.
    line = line_of(np.array([0.0, 1, 2, 3, 3, 3, 3]))
    assert line.slope == pytest.approx(1 / 2)
    assert line.bend == pytest.approx(-2)


def noisy_prompts(n=200, prior=0.03, c=0.65, beta=0.05, gamma=0.8, spread=0.3, seed=0):
    """Per-prompt log-odds of p around one curve of updates, [prompt, shot]."""
    p = beta + (gamma - beta) * belief(prior, c, SHOTS)
    return logit(p) + np.random.default_rng(seed).normal(0, spread, (n, len(SHOTS)))


def test_updates_are_found_with_their_bounds():
    found = fit_updates(noisy_prompts(), resamples=100)
    assert found.step_nats == pytest.approx(logit(0.65), rel=0.1)
    for draws, true in ((found.resampled_steps, logit(0.65)), (found.resampled_gammas, 0.8)):
        low, high = percentile_bounds(draws)
        assert low < true < high
    assert found.misfit < 0.02
    assert found.line.r2 > 0.98
    assert found.outside + found.unresolved + found.line.points == len(SHOTS)


def test_log_odds_are_averaged_not_probabilities():
    # Two kinds of prompts whose log-odds are +-2 around 0: the mean log-odds give 1/2, and so would the mean p;
    # at -4 and 0 they give sigmoid(-2) = .12 and not the mean .26.
    values = np.tile(np.array([[-4.0], [0.0]]), (10, len(SHOTS)))
    assert_allclose(fit_updates(values, resamples=20).p, expit(-2.0))


def test_a_power_law_is_no_line_of_updates():
    power = np.exp(-(2.0 * (SHOTS + 1) ** -0.7 + 0.2))
    bent = fit_updates(np.tile(logit(power), (20, 1)), resamples=20)
    straight = fit_updates(noisy_prompts(spread=0.0), resamples=20)
    assert straight.misfit < 1e-3
    assert bent.misfit > 0.02
    assert bent.line.bend < -0.2


def test_few_shots_give_a_reason_and_bad_values_are_refused():
    found = fit_updates(noisy_prompts()[:, :4], resamples=20)
    assert np.isnan(found.misfit)
    assert "needs 6" in found.reason
    assert len(found.resampled_misfits) == 20
    with pytest.raises(BadArgument, match="finite"):
        fit_updates(np.full((3, 8), np.inf))
