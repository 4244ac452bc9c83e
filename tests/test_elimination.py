"""The k largest means found by elimination: the full matrix's set, in worlds made to break it; hand arithmetic."""

import numpy as np
import pytest

from headscope.errors import BadArgument
from headscope.measures import elimination
from headscope.measures.elimination import OUT, TIED, TOP, eliminate, looks_before

UNITS, ARMS = 96, 16
# Effects [unit, arm]; in all but the last two nothing but chance tells arms apart.
WORLDS = {
    "normal": lambda rng: rng.normal(size=(UNITS, ARMS)),
    "lognormal": lambda rng: rng.lognormal(size=(UNITS, ARMS)),
    "minus lognormal": lambda rng: -rng.lognormal(size=(UNITS, ARMS)),
    "heavy tails": lambda rng: rng.standard_t(2.5, size=(UNITS, ARMS)),
    "prompts in common": lambda rng: rng.lognormal(size=(UNITS, 1)) * (1 + 0.3 * rng.normal(size=(UNITS, ARMS))),
    "noisy top": lambda rng: np.c_[rng.normal(1.2, 3, (UNITS, 3)), rng.normal(1, 0.3, (UNITS, ARMS - 3))],
    "in steps": lambda rng: rng.normal(size=(UNITS, ARMS)) + np.linspace(0, 2, ARMS),
    "lognormal in steps": lambda rng: rng.lognormal(size=(UNITS, ARMS)) * np.linspace(0.1, 1, ARMS),
}


def of(matrix, k, **given):
    return eliminate(lambda arms, rows: matrix[rows][:, arms], arms=matrix.shape[1], units=len(matrix), k=k, **given)


def top(found):
    return set(np.flatnonzero(found.status == TOP).tolist())


@pytest.mark.parametrize("world", WORLDS)
def test_worlds_in_which_the_set_is_that_of_the_full_matrix(world):
    rng = np.random.default_rng(1)
    right, covered, shares = 0, 0, []
    for seed in range(40):
        matrix = WORLDS[world](rng)
        mean, k = matrix.mean(0), (1, 4)[seed % 2]
        found = of(matrix, k, seed=seed)
        right += top(found) == set(np.argsort(-mean)[:k].tolist())
        covered += bool(((found.low <= mean + 1e-9) & (found.high >= mean - 1e-9)).all())
        shares.append(found.units.sum() / matrix.size)
    print(f"{world}: right {right} of 40, all bounds {covered} of 40, share run {np.mean(shares):.2f}")
    # 95% or more: 35 or fewer of 40 have a chance of 5% at .95, and of .1% at .98, which is what larger runs give.
    assert right >= 36
    assert covered >= 36
    if "steps" in world:
        assert np.mean(shares) < 0.75


def test_a_clear_winner_is_found_at_the_first_look_and_its_bounds_hold():
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 0.1, (UNITS, 100)) + np.r_[5.0, np.zeros(99)]
    found = of(matrix, 1)
    assert top(found) == {0}
    assert set(found.units) == {10}
    assert found.mean[0] == pytest.approx(matrix[:10, 0].mean())
    assert found.low[0] < matrix[:, 0].mean() < found.high[0]


def test_on_all_units_the_answer_is_exact_and_has_no_error():
    matrix = np.random.default_rng(0).normal(size=(12, 5))
    found = of(matrix, 2)
    unfinished = found.units == 12
    assert unfinished.any()
    assert top(found) == set(np.argsort(-matrix.mean(0))[:2].tolist())
    np.testing.assert_allclose(found.low[unfinished], matrix.mean(0)[unfinished])
    np.testing.assert_allclose(found.high[unfinished], matrix.mean(0)[unfinished])


def test_ties_at_the_last_place_are_called_ties():
    rng = np.random.default_rng(0)
    alike = rng.normal(1, 1, (30, 1))
    matrix = np.c_[rng.normal(9, 1, 30), alike, alike, rng.normal(-9, 1, 30)]
    assert of(matrix, 2).status.tolist() == [TOP, TIED, TIED, OUT]
    # With a place for each of them they are no tie.
    assert of(matrix, 3).status.tolist() == [TOP, TOP, TOP, OUT]


def test_as_many_as_there_are_need_one_look():
    matrix = np.random.default_rng(0).normal(size=(UNITS, 4))
    matrix[:, 3] = 0  # of which no bounds are known
    found = of(matrix, 4)
    assert top(found) == {0, 1, 2, 3}
    assert set(found.units) == {10}


def test_arms_whose_values_are_alike_stay_until_the_end():
    rng = np.random.default_rng(0)
    # Nine times 0, but on one unit in thirty: what ten units show of it is no evidence.
    rare = np.zeros((90, 1))
    rare[60:63] = 100.0
    matrix = np.c_[rng.normal(1, 0.1, (90, 5)), rare]
    found = of(matrix, 1)
    assert top(found) == {5}
    assert found.units[5] == 90


def test_what_is_decided_is_not_measured_again():
    rng = np.random.default_rng(0)
    matrix, asked = WORLDS["in steps"](rng), np.zeros((UNITS, ARMS), int)

    def effects(arms, rows):
        asked[rows, arms] += 1
        return matrix[rows][:, arms]

    found = eliminate(effects, arms=ARMS, units=UNITS, k=2)
    assert asked.max() == 1
    np.testing.assert_array_equal(asked.sum(0), found.units)
    assert (found.units < UNITS).any()


def test_bounds_take_the_finite_list_into_account():
    # The same twenty units, of twenty-five and of thousands: errors differ by sqrt(1 - 20 / 25).
    values = np.random.default_rng(0).normal(size=(20, 3))
    side = np.ones(3)
    near, far = (elimination._margins(values, side, units, 0.01, 0)[0] for units in (25, 10**9))
    np.testing.assert_allclose(near / far, np.sqrt(0.2), rtol=1e-6)


def test_arms_that_vary_together_are_paid_for_once():
    rng = np.random.default_rng(0)
    scaled = rng.normal(size=(30, 200))
    scaled = (scaled - scaled.mean(0)) / scaled.std(0)
    alone = elimination._largest_t(scaled[:, :1], 0.01, 0)
    assert elimination._largest_t(scaled[:, [0] * 200], 0.01, 0) == pytest.approx(alone)
    assert elimination._largest_t(scaled, 0.01, 0) > 1.4 * alone
    # One normal cell: about Student's t of 29 degrees of freedom, 2.46.
    assert alone == pytest.approx(2.46, abs=0.25)


def test_looks_and_what_is_refused():
    assert looks_before(10) == ()
    assert looks_before(31) == (10, 15, 20, 30)
    with pytest.raises(BadArgument, match="cannot find the top 5 of 4: ask for 1 to 4"):
        of(np.zeros((9, 4)), 5)
    with pytest.raises(BadArgument, match="over no prompts"):
        of(np.zeros((0, 4)), 1)
