"""Regressions on the shown pairs, against numpy's own solver."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from headscope.errors import BadArgument
from headscope.measures.baselines import regression
from headscope.tasks.functions import Functions
from headscope.tasks.shots import Shots

SHOTS = Shots.draw(Functions(), shots=6, n=5, noise=0.4, seed=2)


def by_lstsq(x, y, asked, ridge):
    """One prompt: the line of least squares, the slope's penalty as one more row."""
    middle, height = x.mean(), y.mean()
    rows = np.concatenate(((x - middle)[:, None], [[np.sqrt(ridge)]]))
    (slope,), *_ = np.linalg.lstsq(rows, np.append(y - height, 0.0))
    return height + slope * (asked - middle)


@pytest.mark.parametrize("ridge", [0.0, 1.0, 30.0])
def test_answers_are_those_of_numpy(ridge):
    ours = regression(SHOTS.x, SHOTS.y, SHOTS.query, ridge=ridge)
    asked = np.concatenate((SHOTS.x, SHOTS.query[:, None]), axis=1)
    for row in range(len(SHOTS)):
        for n in range(2, 7):
            expected = by_lstsq(SHOTS.x[row, :n], SHOTS.y[row, :n], asked[row, n], ridge)
            assert ours[row, n] == pytest.approx(expected)
    # Two coefficients and no penalty: the same without any centring.
    whole = np.stack((SHOTS.x[0], np.ones(6)), axis=1)
    slope, height = np.linalg.lstsq(whole, SHOTS.y[0])[0]
    assert regression(SHOTS.x, SHOTS.y, SHOTS.query)[0, 6] == pytest.approx(slope * SHOTS.query[0] + height)


def test_clean_pairs_give_the_function_from_two_on():
    clean = Shots.draw(Functions(), shots=4, n=8, seed=1)
    answers = regression(clean.x, clean.y, clean.query)
    right = np.concatenate((clean.true_y, clean.answer[:, None]), axis=1)
    assert np.isnan(answers[:, :2]).all()
    assert_allclose(answers[:, 2:], right[:, 2:])


def test_what_is_undefined_and_what_is_not():
    x, y, query = np.array([[3, 3]]), np.array([[5, 7]]), np.array([9])
    assert np.isnan(regression(x, y, query)).all()  # one x, twice
    assert regression(x, y, query, ridge=1.0)[0, 1:].tolist() == [5.0, 6.0]
    with pytest.raises(BadArgument, match="ridge=-1"):
        regression(x, y, query, ridge=-1.0)
