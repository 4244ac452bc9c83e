"""Measures against hand arithmetic; intervals against simulation."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.stats import bootstrap
from torch.testing import assert_close

import headscope as hs
from headscope.measures import interval, tokens
from headscope.measures.rates import TOO_ALIKE


def test_loss_by_hand():
    # Two tokens, logits (0, ln 3): probabilities 1/4 and 3/4. The next token is 1, then 0.
    logits = torch.tensor([[[0.0, math.log(3)]] * 3])
    losses = [hs.measures.loss([position])(logits, hs.Prompts(((0, 1, 0),))).item() for position in (0, 1)]
    assert losses == pytest.approx([math.log(4 / 3), math.log(4)])


def test_the_loss_measure_reads_predicting_positions_only():
    prompts = hs.Prompts((((0, 1, 0)), ((0, 1))), roles={"marked": ((1,), (1,))})
    logits = torch.zeros(2, 3, 2)
    # Example 2 ends at position 1, which predicts nothing that we know: NaN, not 0.
    found = hs.measures.loss("marked")(logits, prompts)
    assert_close(found, torch.tensor([math.log(2), float("nan")]), equal_nan=True)


def test_rank_counts_ties_by_half():
    logits = torch.tensor([[5.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert tokens.rank(logits, torch.tensor([1, 3])).tolist() == [1.5, 1.5]


def test_answer_measures_by_hand():
    prompts = hs.Prompts(((0, 1), (0, 1)), answers=(0, 1), foils=(1, 2))
    logits = torch.zeros(2, 2, 3)
    logits[:, 1] = torch.tensor([2.0, 1.0, -1.0])
    assert hs.measures.logit_difference()(logits, prompts).tolist() == [1.0, 2.0]
    odds = math.exp(2) + math.exp(1) + math.exp(-1)
    assert_close(hs.measures.probability()(logits, prompts), torch.tensor([math.exp(2) / odds, math.exp(1) / odds]))
    assert hs.measures.rank()(logits, prompts).tolist() == [0.0, 1.0]
    mean = 2 / 3
    assert_close(hs.measures.next_logit([0])(torch.flip(logits, [1]), prompts), torch.tensor([1 - mean, 1 - mean]))


def test_kl_is_that_of_the_reference_from_the_model():
    model, reference = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert tokens.kl_nats(model[None], reference[None]).item() == pytest.approx(expected)


def test_measures_without_answers_say_so():
    prompts = hs.Prompts.of([[0, 1]])
    with pytest.raises(hs.errors.PromptError, match="no answers"):
        hs.measures.probability()(torch.zeros(1, 2, 3), prompts)
    with pytest.raises(hs.errors.PromptError, match="exactly one position"):
        hs.measures.probability("all")(torch.zeros(1, 2, 3), hs.Prompts(((0, 1),), answers=(0,)))


SCORES = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "attention mass": (lambda rng, shape: rng.beta(2, 5, size=shape), 2 / 7),
    "mostly small mass": (lambda rng, shape: rng.beta(0.5, 3, size=shape), 0.5 / 3.5),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "counts": (lambda rng, shape: rng.binomial(10, 0.2, size=shape) / 10, 0.2),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("n", [20, 50, 100])
def test_intervals_cover_the_mean(n, kind):
    # Binomial spread of 1500 trials is 0.6%.
    draw, mean = SCORES[kind]
    found = interval(draw(np.random.default_rng(0), (n, 1500)), resamples=1000)
    covered = ((found.low <= mean) & (found.high >= mean)).mean()
    print(f"{kind}, {n} prompts: {covered:.3f}")
    assert 0.93 <= covered <= 0.97


def test_studentised_intervals_cover_skewed_means_better_than_bias_corrected_ones():
    values = np.random.default_rng(0).lognormal(size=(50, 600))
    mean = math.exp(0.5)
    found = interval(values, resamples=1000)
    options = {"axis": 0, "method": "BCa", "n_resamples": 1000, "batch": 50}
    other = bootstrap((values,), np.mean, rng=np.random.default_rng(1), **options).confidence_interval
    own, bias_corrected = (((bounds.low <= mean) & (bounds.high >= mean)).mean() for bounds in (found, other))
    print(f"lognormal, 50 prompts: studentised {own:.3f}, bias-corrected {bias_corrected:.3f}")
    assert own > bias_corrected + 0.01


@pytest.mark.parametrize("n", [5, 8])
def test_intervals_over_few_prompts_cover_and_stay_sane(n):
    rng = np.random.default_rng(0)
    normal = interval(rng.normal(size=(n, 1500)), resamples=1000)
    assert ((normal.low <= 0) & (normal.high >= 0)).mean() >= 0.9
    # Most values near 0 and a few near 1: without a floor for a resample's variance, bounds of 80 and more.
    values = rng.beta(0.3, 3, size=(n, 1500))
    skewed = interval(values, resamples=1000)
    assert ((skewed.high - skewed.low) < 4 * np.ptp(values, axis=0)).all()
    clipped = interval(values, resamples=1000, within=(0.0, 1.0))
    assert clipped.low.min() == 0.0
    assert clipped.high.max() <= 1.0


def test_intervals_without_spread_or_prompts():
    constant = interval(np.full((30, 2), 0.4))
    assert np.isnan(constant.low).all()
    assert constant.reasons == dict.fromkeys((0, 1), TOO_ALIKE)
    bounded = interval(np.full((30, 2), 0.4), within=(0.0, 1.0))
    assert (bounded.low, bounded.high) == (pytest.approx([0.36] * 2, abs=1e-3), pytest.approx([0.46] * 2, abs=1e-3))
    few = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert few.mean == 2.5
    assert math.isnan(few.low)
    assert math.isnan(few.high)
    with_gap = interval(np.array([[1.0, 1.0], [math.nan, 2.0], [2.0, 3.0], [3.0, 4.0], [4.0, 5.0]]))
    assert math.isnan(with_gap.mean[0])
    assert with_gap.mean[1] == 3.0
    assert with_gap.low[1] < 3.0 < with_gap.high[1]
    with pytest.raises(hs.errors.BadArgument, match="no prompts"):
        interval(np.array([]))


def test_shapes_are_checked_under_the_tests():
    with pytest.raises(TypeCheckError):
        tokens.log_probability_nats(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))
