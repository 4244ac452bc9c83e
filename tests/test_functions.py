"""Families of functions, their priors, the exact posterior over them, and the language that shows them."""

import itertools
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from headscope import measures
from headscope.errors import BadArgument, OutOfRange, UnknownName
from headscope.tasks.functions import Functions
from headscope.tasks.language import language_of, name_of
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.phrases import PhraseLanguage
from headscope.tasks.shots import Shots

SMALL = Functions(a=(1, 2), b=(0, 2), inputs=(1, 4), held_out=2)
LANGUAGE = PairLanguage(a=(1, 2), b=(0, 2), inputs=(1, 4), held_out=2, shots=5, noise=0.4)


@pytest.mark.parametrize(
    ("family", "parameters", "x", "y"),
    [
        (Functions(), [2, 3], [0, 5, 19], [3, 13, 41]),
        (Functions("quadratic", a=(1, 2), b=(0, 4), inputs=(0, 5)), [2, 3], [0, 1, 4], [3, 5, 35]),
        (Functions("modular", modulus=7), [3, 5], [0, 1, 6], [5, 1, 2]),
        (Functions("threshold", a=(2, 9), b=(1, 5)), [4, 3], [3, 4, 19], [0, 3, 3]),
    ],
)
def test_values_by_hand(family, parameters, x, y):
    assert family.values(np.array(parameters), np.array(x)).tolist() == y


def test_every_family_states_its_prior():
    assert Functions().stated.endswith("prior uniform over 90 functions")
    assert "78 of 90 functions, 12 held out" in Functions(held_out=12).stated
    assert Functions("quadratic", a=(1, 1)).stated.startswith("y = a x^2 + b, a in 1..1, b in 0..29")
    assert "mod 7" in Functions("modular", modulus=7).stated
    assert "else 0" in Functions("threshold", a=(2, 9), b=(1, 5)).stated


def test_held_out_functions_have_no_mass_in_training_and_the_rest_share_it():
    family = Functions(held_out=12)
    assert len(family.grid) == 90
    assert family.is_held_out.sum() == 12
    assert [2, 3] in family.among("held_out").tolist()  # the function of the article, always
    training, grid = family.prior("training"), family.prior("grid")
    assert (training[family.is_held_out] == 0).all()
    assert_close(training[~family.is_held_out], np.full(78, 1 / 78))
    assert_close(grid, np.full(90, 1 / 90))
    assert_close(family.prior("held_out").sum(), np.float64(1))
    other = Functions(held_out=12, seed=8)
    assert (other.is_held_out != family.is_held_out).any()
    assert (Functions(held_out=12).is_held_out == family.is_held_out).all()


def test_two_parameters_of_one_function_are_one_function():
    # Modulo 4, a = 1 and a = 5 are the same; so are b = 0 and b = 4.
    family = Functions("modular", a=(1, 5), b=(0, 4), inputs=(0, 9), modulus=4)
    assert family.grid.tolist() == [[a, b] for a in range(1, 5) for b in range(4)]
    # A step to 0 is no step, wherever it is.
    flat = Functions("threshold", a=(1, 3), b=(0, 1), inputs=(0, 4))
    assert flat.grid.tolist() == [[1, 0], [1, 1], [2, 1], [3, 1]]


def test_families_that_cannot_be_are_refused_in_a_sentence():
    with pytest.raises(UnknownName, match="'linear'"):
        Functions("liner")
    for wrong, said in [
        ({"a": (3, 1)}, "low <= high"),
        ({"inputs": (-1, 5)}, "start at 0"),
        ({"b": (-5, 5)}, "start at 0"),
        ({"held_out": 90}, "leave one"),
        ({"modulus": 5}, "modular family"),
        ({"family": "modular"}, "modular family"),
    ]:
        with pytest.raises(BadArgument, match=said):
            Functions(**wrong)
    with pytest.raises(BadArgument, match="none are held out"):
        Functions().among("held_out")
    with pytest.raises(UnknownName, match="training"):
        Functions().prior("test")


def test_no_input_comes_again_before_all_have_come():
    drawn = SMALL.draw_inputs(50, 10, np.random.default_rng(0))
    assert drawn.shape == (50, 10)
    for start in (0, 4):
        assert (np.sort(drawn[:, start : start + 4]) == [1, 2, 3, 4]).all()
    assert len({tuple(row) for row in drawn.tolist()}) > 40


def brute_force(functions, x, y, query, prior, noise):
    """p(answer) at the query: the sum over functions and over which shots are noise, one by one."""
    n = functions.n_numbers
    weights = np.zeros(n)
    for function, mass in zip(functions.grid, prior, strict=True):
        joint = 0.0
        for struck in itertools.product((False, True), repeat=len(x)):
            term = 1.0
            for is_noise, shown_x, shown_y in zip(struck, x, y, strict=True):
                agrees = functions.values(function, np.array(shown_x)) == shown_y
                term *= noise / n if is_noise else (1 - noise) * agrees
            joint += term
        weights += mass * joint * noise / n
        weights[functions.values(function, np.array(query))] += mass * joint * (1 - noise)
    return weights / weights.sum()


@pytest.mark.parametrize("prior", ["training", "grid"])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_the_exact_predictive_is_that_of_brute_force(prior, noise):
    shots = Shots.draw(SMALL, shots=3, n=12, noise=noise, among="training", seed=5)
    exact = measures.exact_predictive(shots, prior)
    assert exact.shape == (12, 4, SMALL.n_numbers)
    assert_close(exact.sum(-1), torch.ones(12, 4, dtype=torch.float64))
    inputs = np.concatenate((shots.x, shots.query[:, None]), axis=1)
    for example, shot in itertools.product(range(12), range(4)):
        expected = brute_force(
            SMALL, shots.x[example, :shot], shots.y[example, :shot], inputs[example, shot], SMALL.prior(prior), noise
        )
        assert_close(exact[example, shot], torch.from_numpy(expected))


def test_under_the_prior_of_training_no_evidence_speaks_for_a_held_out_function():
    shots = Shots.draw(SMALL, shots=4, n=20, noise=0.2, among="held_out", seed=1)
    values, seen = torch.from_numpy(shots.hypotheses), torch.from_numpy(shots.y)
    weights = {
        which: measures.hypothesis_posterior(
            values, seen, torch.from_numpy(SMALL.prior(which)), noise=0.2, n_answers=SMALL.n_numbers
        )
        for which in ("training", "grid")
    }
    held_out = torch.from_numpy(SMALL.is_held_out)
    assert (weights["training"][..., held_out] == 0).all()
    assert (weights["grid"][..., held_out] > 0).all()
    assert weights["grid"][:, -1][..., held_out].mean() > weights["grid"][:, 0][..., held_out].mean()


def test_what_no_function_allows_leaves_the_posterior_undefined():
    # Both hypotheses say 0 at the first shot; without noise a 1 is impossible.
    values = tensor([[[0, 1]], [[0, 0]]])
    prior = tensor([0.5, 0.5], dtype=torch.float64)
    seen = tensor([[1]])
    impossible = measures.posterior_predictive(values, seen, prior, noise=0.0, n_answers=2)
    assert_close(impossible[0, 0], tensor([1.0, 0.0], dtype=torch.float64))
    assert impossible[0, 1].isnan().all()
    noisy = measures.posterior_predictive(values, seen, prior, noise=0.5, n_answers=2)
    assert_close(noisy[0, 1], tensor([0.5, 0.5], dtype=torch.float64))


def test_posteriors_that_cannot_be_are_refused():
    values, seen, prior = tensor([[[0, 1]]]), tensor([[0]]), tensor([1.0])
    with pytest.raises(BadArgument, match="n_answers=2"):
        measures.posterior_predictive(values, seen, prior, noise=0.0, n_answers=1)
    with pytest.raises(BadArgument, match="share from 0 to 1"):
        measures.posterior_predictive(values, seen, prior, noise=1.5, n_answers=2)
    with pytest.raises(BadArgument, match=r"seen answers of shape \(1, 3\)"):
        measures.posterior_predictive(values, tensor([[0, 0, 0]]), prior, noise=0.0, n_answers=2)


def test_a_sequence_of_the_language_by_hand():
    # Numbers 0 to 10 are tokens 1 to 11, then the comma and the semicolon.
    assert LANGUAGE.words == ["<bos>", *map(str, range(11)), ",", ";"]
    assert (LANGUAGE.vocab_size, LANGUAGE.length) == (14, 20)
    tokens = LANGUAGE.write(np.array([[3, 1]]), np.array([[7, 0]]))
    assert tokens.tolist() == [[0, 4, 12, 8, 13, 2, 12, 1]]
    assert LANGUAGE.labels(tokens).tolist() == [[-100, -100, -100, 8, -100, -100, -100, 1]]
    with pytest.raises(OutOfRange, match="number 11: this language has tokens for 0 to 10"):
        LANGUAGE.number_tokens(np.array([11]))


def test_sequences_follow_training_functions_but_for_the_noise():
    generator = np.random.default_rng(0)
    parameters, x, y = LANGUAGE.draw(2000, generator)
    true = LANGUAGE.values(parameters[:, None], x)
    assert (LANGUAGE.write(x, y) == LANGUAGE.sample(2000, np.random.default_rng(0))).all()
    # A redrawn y is right by chance once in 11 times: .4 * 10 / 11 of them differ from the function.
    assert (y != true).mean() == pytest.approx(0.4 * 10 / 11, abs=0.015)
    table = LANGUAGE.values(LANGUAGE.among("training")[:, None, None], x)
    assert (table == true).all(-1).any(0).all()
    tokens, named = LANGUAGE.sample_with_functions(2000, np.random.default_rng(0))
    assert (named == parameters).all()
    assert (tokens == LANGUAGE.write(x, y)).all()
    clean = PairLanguage(**asdict(LANGUAGE) | {"noise": 0.0})
    parameters, x, y = clean.draw(50, generator)
    assert (clean.values(parameters[:, None], x) == y).all()


def test_languages_go_by_name():
    for language in (LANGUAGE, PhraseLanguage()):
        parameters = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(language).items()}
        assert language_of(name_of(language), parameters) == language
    assert LANGUAGE.resized(11).length == 8
    with pytest.raises(UnknownName, match="pairs"):
        language_of("pears", {})
    with pytest.raises(BadArgument, match="0 pairs"):
        LANGUAGE.resized(3)
    with pytest.raises(BadArgument, match="share of 2"):
        PairLanguage(noise=2)
