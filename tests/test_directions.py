"""Cosines, shares, probes and correlations, by hand and beside numpy and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import spearmanr

from headscope.errors import BadArgument
from headscope.measures.clusters import by_cluster, pseudo_values, shared_variation
from headscope.measures.directions import (
    agreement,
    cosines,
    first_share,
    flipped_means,
    random_like,
    random_signs,
    share_within,
    shared_square,
)
from headscope.measures.log_odds import linearity, log_odds, slope
from headscope.measures.probes import Probe, digits, written_along


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_steps_between_nested_prompts_look_opposed_where_nothing_moves() -> None:
    # 200 problems, 6 steps, pure noise. Nested: each step is between means of the same prompts with one example
    # more, so that neighbours share a mean with opposite signs: cosine -1/2. Disjoint: each has its own two means.
    means = noise(7, 200, 64).mean(1)
    neighbours = np.diag(cosines(np.diff(means, axis=0), np.diff(means, axis=0)), k=1)
    assert -0.62 < neighbours.mean() < -0.38
    ends = noise(6, 2, 200, 64, seed=1).mean(2)
    own = ends[:, 1] - ends[:, 0]
    assert abs(np.diag(cosines(own, own), k=1).mean()) < 0.1


def test_agreement_tells_parallel_steps_from_unrelated_ones_whatever_the_noise() -> None:
    common = noise(32)
    first, second = (3 * common + noise(5, 32, seed=s) * 4 for s in (1, 2))
    across, same = agreement(first, second)
    assert across > 0.2
    assert abs(across - same) < 0.15
    own = 3 * noise(5, 32, seed=3)
    across, same = agreement(*(own + noise(5, 32, seed=s) for s in (4, 5)))
    assert abs(across) < 0.15
    assert same > 0.7
    with pytest.raises(BadArgument, match="two steps or more"):
        agreement(np.ones((1, 3)), np.ones((1, 3)))


def test_first_share_of_two_steps_by_hand() -> None:
    # Rows (2, 0) and (0, 1): squared lengths 4 and 1 along orthogonal directions.
    assert first_share(np.array([[2.0, 0.0], [0.0, 1.0]])) == pytest.approx(0.8)
    assert math.isnan(first_share(np.zeros((2, 3))))


def test_flipped_means_by_hand() -> None:
    values = np.array([[[1.0], [3.0]]])  # one step, two prompts, one dimension
    assert flipped_means(values, np.array([[[1.0, 1.0]], [[1.0, -1.0]]])).tolist() == [[[2.0]], [[-1.0]]]
    assert set(np.unique(random_signs(3, 4, 5, seed=0))) == {-1.0, 1.0}
    lengths = np.linalg.norm(random_like(np.array([3.0, 4.0]), 6, seed=0), axis=1)
    assert lengths == pytest.approx(np.full(6, 5.0))


def test_shared_square_is_that_of_the_principal_angles() -> None:
    first, second = noise(3, 10), noise(4, 10, seed=1)
    angles = subspace_angles(first.T, second.T)
    assert shared_square(first, second) == pytest.approx(float((np.cos(angles) ** 2).mean()))
    random = [shared_square(noise(3, 40, seed=s), noise(6, 40, seed=s + 100)) for s in range(60)]
    assert np.mean(random) == pytest.approx(6 / 40, abs=0.02)


def test_share_within_is_free_of_noise_that_lies_in_the_space() -> None:
    # x writes along the first axis, y along the second; the noise of the measurement is all in y's direction.
    def measured(seed: int) -> np.ndarray:
        return np.stack([np.array([1.0, 0.0, 0.0])] * 400) + noise(400, 1, seed=seed) * np.array([0.0, 2.0, 0.0])

    y = np.array([[0.0, 1.0, 0.0]])
    assert share_within(measured(0), measured(0), y) > 0.7  # the same measurement twice: the noise stays
    assert abs(share_within(measured(0), measured(1), y)) < 0.25
    assert share_within(np.array([[1.0, 1.0]]), np.array([[1.0, 1.0]]), np.array([[1.0, 0.0]])) == pytest.approx(0.5)


def test_log_odds_and_lines() -> None:
    p = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.allclose(log_odds(p.log()), torch.logit(p))
    assert float(log_odds(torch.tensor(0.0))) == pytest.approx(15.94, abs=0.01)
    doses, values = np.arange(6.0), noise(4, 6)
    for row, found, straight in zip(values, slope(values, doses), linearity(values, doses), strict=True):
        assert found == pytest.approx(np.polyfit(doses, row, 1)[0])
        assert straight == pytest.approx(np.corrcoef(doses, row)[0, 1] ** 2)
    assert math.isnan(slope(np.ones((1, 1)), np.zeros(1))[0])


def test_a_probe_reads_a_planted_number_and_no_other() -> None:
    numbers, others = np.arange(400) % 20, (np.arange(400) * 7) // 20 % 20
    vectors = digits(numbers, 19) @ noise(6, 24) + 0.1 * noise(400, 24, seed=1)
    probe = Probe.fit(vectors[:200], digits(numbers[:200], 19))
    assert probe.score(vectors[200:], digits(numbers[200:], 19)).mean() > 0.9
    wrong = Probe.fit(vectors[:200], digits(others[:200], 19)).score(vectors[200:], digits(others[200:], 19))
    assert wrong.mean() < 0.1


def test_a_probe_that_knows_nothing_scores_zero() -> None:
    wanted = np.array([[0.0], [2.0]] * 10)
    assert Probe.fit(np.zeros((20, 3)), wanted).score(np.zeros((20, 3)), wanted).mean() == pytest.approx(0.0)
    with pytest.raises(BadArgument, match="fit a probe"):
        Probe.fit(np.zeros((1, 3)), np.zeros((1, 1)))


def test_directions_of_two_correlated_numbers_come_apart() -> None:
    x = noise(500, 1)
    y = x + 0.5 * noise(500, 1, seed=1)
    along = np.array([[2.0, 0.0, 0.0]]), np.array([[0.0, 3.0, 0.0]])
    of_x, of_y = written_along(x @ along[0] + y @ along[1] + 1.0, x, y)
    assert np.allclose(of_x, along[0])
    assert np.allclose(of_y, along[1])


def test_pseudo_values_of_a_mean_are_the_cluster_means() -> None:
    clusters = np.repeat(np.arange(6), 3)
    values = noise(18)
    found = pseudo_values(lambda kept: float(values[kept].mean()), clusters)
    assert sorted(found) == pytest.approx(sorted(by_cluster(values, clusters)))
    assert math.isnan(pseudo_values(lambda kept: 1.0, np.zeros(5, np.int64))[0])


def test_correlation_within_columns_is_spearmans() -> None:
    first, second = noise(40, 3), noise(40, 3, seed=1) + noise(40, 3)
    expected = np.mean([spearmanr(first[:, k], second[:, k]).statistic for k in range(3)])
    assert shared_variation(first, second).mean() == pytest.approx(expected)
    # What goes with n alone is no correlation.
    trend = np.arange(3) * 100.0
    assert shared_variation(first + trend, second + trend).mean() == pytest.approx(expected)
    assert math.isnan(shared_variation(first, np.ones((40, 3)))[0])
