"""Learning in context, slopes, the space of losses and attribution, on arrays whose answers are known."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from headscope.errors import BadArgument
from headscope.measures import Outcome
from headscope.measures.in_context import (
    constancy,
    icl_score,
    inverts,
    loss_by_position,
    slope_by_index,
    slope_by_tokens,
)
from headscope.measures.loss_space import attribution, change_direction, loss_space, loss_spikes, peakiness


def test_icl_score_is_late_minus_early_and_negative_where_context_helps():
    losses = np.tile(np.arange(512.0), (3, 1)) * [[-1.0], [0.0], [-0.5]]
    found = icl_score(losses)
    assert found.by_example.tolist() == [-450, 0, -225]
    assert found.score == -225
    assert (found.early, found.late, found.scaled) == (50, 500, False)
    assert icl_score(losses, early=10, late=20).by_example.tolist() == [-10, 0, -5]


@pytest.mark.parametrize(
    ("length", "options", "places"),
    [
        (501, {}, (50, 500, False)),
        (500, {}, (48, 488, True)),  # 500/512 of 50 and 500
        (256, {}, (25, 250, True)),
        (128, {}, (12, 125, True)),
        (100, {"early": 100, "late": 900}, (11, 99, True)),  # of the 901 that it takes to have a token 900
    ],
)
def test_shorter_contexts_scale_both_places_and_say_so(length, options, places):
    found = icl_score(np.zeros((2, length)), **options)
    assert (found.early, found.late, found.scaled) == places


def test_places_may_be_averaged_and_must_not_leave_the_context():
    losses = np.array([[9.0, 5.0, 4.0, 3.0, 8.0, 1.0, 0.0, 2.0]])
    assert icl_score(losses, early=2, late=6, around=1).score == 1 - 4
    assert math.isnan(icl_score(np.where(losses == 4, np.nan, losses), early=2, late=6).score)
    for options in ({"early": 0, "late": 6}, {"early": 2, "late": 7}, {"early": 3, "late": 5}):
        with pytest.raises(BadArgument, match="leave the context or overlap"):
            icl_score(losses, around=1, **options)
    for options in ({"early": 5, "late": 5}, {"early": -1}, {"around": -1}):
        with pytest.raises(BadArgument, match="two tokens in order"):
            icl_score(losses, **options)
    for bad in (np.zeros(8), np.zeros((0, 8)), np.zeros((2, 3, 8))):
        with pytest.raises(BadArgument, match=r"expected values \[example, position\]"):
            icl_score(bad)


def test_positions_are_binned_evenly_in_log_index():
    index, loss = loss_by_position(np.array([[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]]), per_doubling=1)
    assert_allclose(index, [1, math.sqrt(6), math.prod((4, 5, 6, 7)) ** 0.25, 8])
    assert_allclose(loss, [[8, 6.5, 3.5, 1]])
    # No token lies between 2 and 3: that bin is left out.
    assert_allclose(loss_by_position(np.arange(4.0), per_doubling=4)[0], [1, 2, 3, 4])
    for bad in (np.zeros(0), np.zeros(())):
        with pytest.raises(BadArgument, match="one loss for each position"):
            loss_by_position(bad)


def test_slopes_by_index_are_those_of_logarithms():
    log_index = np.log(np.arange(1, 301))
    losses = np.stack([5 - 0.5 * log_index, 5 + 0 * log_index, 5 - 0.5 * np.minimum(log_index, np.log(40))])
    index, slopes = slope_by_index(losses)
    assert slopes.shape == (3, len(index))
    assert_allclose(slopes[0], -0.5)
    assert_allclose(slopes[1], 0, atol=1e-12)
    # What stops learning from its context at token 40 falls before and not after.
    assert_allclose(slopes[2, index < 28], -0.5)
    assert_allclose(slopes[2, index > 60], 0, atol=1e-12)
    with pytest.raises(BadArgument, match="over one token"):
        slope_by_index(np.zeros((2, 1)))


def test_slopes_by_training_tokens_leave_out_the_untrained_and_smooth():
    tokens = np.array([0, 1e3, 1e4, 1e5, 1e6])
    losses = 9 - 0.3 * np.log(np.maximum(tokens, 1))
    places, slopes = slope_by_tokens(tokens, losses)
    assert_allclose(slopes, [-0.3, -0.3])
    assert_allclose(places, [1e4, 1e5])
    # At the end of three equal distances 1 more tilts a line by 1 over the distance of the outer two.
    odd = losses + np.array([0, 0, 0, 0, 1])
    assert_allclose(slope_by_tokens(tokens, odd)[1], [-0.3, -0.3 + 1 / math.log(100)])
    assert_allclose(slope_by_tokens(tokens, odd, over=2)[1], [-0.3, -0.3, -0.3 + 1 / math.log(10)])
    for over in (1, 5):
        with pytest.raises(BadArgument, match="4 were trained"):
            slope_by_tokens(tokens, losses, over=over)
    with pytest.raises(BadArgument, match="ascending"):
        slope_by_tokens(tokens[::-1], losses)


def test_a_score_is_constant_only_within_a_margin_and_with_enough_examples():
    noise = np.random.default_rng(0).normal(0, 0.1, (60, 6))
    assert constancy(noise - 0.4, margin=0.1).outcome is Outcome.EQUIVALENT
    drifting = noise - np.linspace(0.2, 0.8, 6)
    assert constancy(drifting, margin=0.1).outcome is Outcome.DIFFERENT
    one_snapshot = noise + np.eye(6)[2] * 0.5
    found = constancy(one_snapshot, margin=0.1)
    assert found.outcome is Outcome.DIFFERENT
    assert [change.beyond for change in found.snapshots] == [False, False, True, False, False, False]
    # Noise that hides a margin is not a constant score.
    assert constancy(noise[:20] * 20, margin=0.1).outcome is Outcome.UNDETERMINED
    few = constancy(noise[:4], margin=0.1)
    assert (few.outcome, few.reason[:37]) == (Outcome.UNDETERMINED, "a snapshot has too few examples, or v")
    with pytest.raises(BadArgument, match="two or more"):
        constancy(noise[:, :1], margin=0.1)


def test_orders_of_models_invert_only_where_all_pairs_swap():
    found = inverts(np.array([-3.0, -1.0, -2.0]), np.array([-0.1, -0.3, -0.2]))
    assert (found.before, found.after) == ((0, 2, 1), (1, 2, 0))
    assert (found.swapped, found.pairs, found.inverts) == (3, 3, True)
    partly = inverts(np.array([-3.0, -1.0, -2.0]), np.array([-0.2, -0.3, -0.1]))
    assert (partly.swapped, partly.inverts) == (2, False)
    assert inverts(np.array([-1.0, -1.0]), np.array([-1.0, -2.0])).swapped == 0
    undefined = inverts(np.array([-1.0, np.nan]), np.array([-1.0, -2.0]))
    assert (undefined.inverts, undefined.reason) == (False, "a slope is undefined")
    with pytest.raises(BadArgument, match="two or more models"):
        inverts(np.zeros(1), np.zeros(1))


def test_components_shares_and_trajectories_by_hand():
    # Snapshots lie on (1, -2, 0) t and (0, 0, 1) s, which are at right angles and uncorrelated.
    t, s = np.array([-3.0, -3, 3, 3]), np.array([-1.0, 1, -1, 1])
    rows = 5 + np.outer(t, [1, -2, 0]) + np.outer(s, [0, 0, 1])
    found = loss_space({"one": rows[:1], "other": rows[1:]})
    # The largest entry of an axis is positive: (-1, 2, 0), not (1, -2, 0).
    assert_allclose(found.axes, [[-(5**-0.5), 2 * 5**-0.5, 0], [0, 0, 1]], atol=1e-12)
    assert_allclose(found.shares, [180 / 184, 4 / 184])
    assert_allclose(found.mean, [5, 5, 5])
    assert_allclose(found.trajectories["one"], [[3 * 5**0.5, -1]], atol=1e-12)
    assert_allclose(found.trajectories["other"][:, 0], np.array([3, -3, -3]) * 5**0.5)
    assert_allclose(found.place(rows[1:]), found.trajectories["other"])
    assert_allclose(found.place(np.array([5.0, 5, 7])), [0, 2], atol=1e-12)


def test_signs_of_components_do_not_depend_on_the_order_of_snapshots_and_examples():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5)) * [5, 3, 1, 1, 1]
    found = loss_space({"model": rows})
    shuffled, columns = rng.permutation(12), rng.permutation(5)
    other = loss_space({"model": rows[shuffled][:, columns]})
    assert_allclose(other.axes, found.axes[:, columns], atol=1e-9)
    assert_allclose(other.trajectories["model"], found.trajectories["model"][shuffled], atol=1e-9)


def test_components_that_cannot_be():
    still = loss_space({"model": np.ones((4, 3))})
    assert np.isnan(still.shares).all()
    assert still.reason == "the losses do not vary"
    for losses in ({}, {"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}, {"a": np.zeros((2, 3)), "b": np.zeros(3)}):
        with pytest.raises(BadArgument, match="of the same examples"):
            loss_space(losses)
    with pytest.raises(BadArgument, match="more snapshots than components"):
        loss_space({"model": np.zeros((2, 3))})
    with pytest.raises(BadArgument, match="undefined"):
        loss_space({"model": np.full((4, 3), np.nan)})


def test_a_head_that_moves_losses_as_the_change_did_has_a_negative_attribution():
    before, after = np.array([3.0, 4.0, 2.0]), np.array([0.0, 0.0, 2.0])
    direction, length = change_direction(before, after)
    assert_allclose(direction, [-0.6, -0.8, 0])
    assert length == 5
    clean = after
    ablated = np.array([before, after + 1, 2 * after - before, after])
    assert_allclose(attribution(direction, ablated - clean), [-5, -1.4, 5, 0])
    assert_allclose(attribution(direction, (ablated - clean).reshape(2, 2, 3)), [[-5, -1.4], [5, 0]])
    nowhere, none = change_direction(before, before)
    assert np.isnan(nowhere).all()
    assert none == 0
    with pytest.raises(BadArgument, match="the same examples"):
        attribution(direction, np.zeros((2, 4)))
    with pytest.raises(BadArgument, match="before and after"):
        change_direction(before, after[:2])


def test_peaks_by_hand():
    equal, lone, some = (peakiness(np.array(v)) for v in ([2.0, -2, 2, 2], [0.0, 0, -7, 0], [1.0, -3, 0, 0]))
    assert (equal.largest, equal.gini) == (0.25, 0)
    assert (lone.largest, lone.gini) == (1, 0.75)
    # Sizes 0, 0, 1, 3 times -3, -1, 1, 3 are 10, of 4 heads times 4 in all.
    assert (some.largest, some.gini) == (0.75, 10 / 16)
    assert peakiness(np.zeros(3)).reason == "all values are 0"
    assert peakiness(np.array([1.0, np.nan])).reason == "a value is undefined"
    assert math.isnan(peakiness(np.zeros(3)).gini)
    with pytest.raises(BadArgument, match="one for each head"):
        peakiness(np.zeros(0))


def test_spikes_are_rises_that_stand_out_of_the_differences():
    falling = 5 - 0.1 * np.arange(30) + np.random.default_rng(0).normal(0, 0.01, 30)
    assert loss_spikes(falling).tolist() == []
    # Rises are found, and not the falls after them, nor a lasting fall.
    spiked = falling + np.isin(np.arange(30), (7, 20)) * 1.0 - (np.arange(30) > 12) * 2.0
    assert loss_spikes(spiked).tolist() == [7, 20]
    assert loss_spikes(spiked, deviations=100.0).tolist() == []
    assert loss_spikes(np.array([3.0, 3, 3, 3, 4, 3])).tolist() == [4]
    # Slower falls than usual are no rises, however much they stand out.
    assert loss_spikes(np.array([9.0, 8, 7, 6, 5.9, 4.9, 3.9])).tolist() == []
    with pytest.raises(BadArgument, match="four or more snapshots"):
        loss_spikes(np.array([1.0, 2, 3]))
