"""Problems about chosen functions, and the positions of examples, by hand."""

import numpy as np
import pytest

import headscope as hs
from headscope import tasks
from headscope.errors import BadArgument, PromptError
from headscope.studies.bayes.problems import Problems, example_spans, role_by_example, truncated_context
from headscope.studies.bayes.variables import SHOTS, decided, swapped
from headscope.studies.pairs import PairsConfig
from tests import pair_models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


def test_examples_of_number_tokens_are_four_tokens_each(model: hs.Model) -> None:
    # BOS x , y ; x , y ; x ,
    prompts = tasks.linear(model, PairsConfig(n=10, shots=2).draw(model))
    assert example_spans(prompts)[0] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert role_by_example(prompts, "y")[0] == [(3,), (7,)]
    assert role_by_example(prompts, "x")[-1] == [(1,), (5,)]


def test_examples_of_text_begin_at_their_own_x(reader: hs.Model) -> None:
    prompts = tasks.linear(reader, PairsConfig(n=10, shots=4, a="2..2", b="3..4").draw(reader))
    for row, spans in enumerate(example_spans(prompts)):
        told = ["".join(reader.tokenizer.decode([prompts.tokens[row][p]]) for p in span) for span in spans]
        x = [text.split(",")[0] for text in told]
        assert len(spans) == 4
        assert all(number.strip().isdigit() for number in x), told
        assert sum(map(len, role_by_example(prompts, "y")[row])) == len(prompts.roles["y"][row])
    with pytest.raises(PromptError, match=r"tasks\.linear"):
        example_spans(hs.Prompts.of([[1, 2]]))


def test_problems_are_about_the_functions_asked_for(model: hs.Model) -> None:
    problems = Problems.of(PairsConfig(n=10, noise=0.0), model)
    wanted = problems.choices[[0, 0, 3]]
    shots = problems.about(wanted, shots=5, seed=1)
    a, b = wanted.T
    assert (shots.y == a[:, None] * shots.x + b[:, None]).all()
    assert (shots.answer == a * shots.query + b).all()
    assert not (problems.about(wanted, shots=5, seed=2).x == shots.x).all()
    selection, estimation = problems.halves(7)
    assert len(selection) == 4
    assert not {*map(tuple, selection)} & {*map(tuple, estimation)}


def test_problems_of_the_article_begin_with_its_own_function(reader: hs.Model) -> None:
    problems = Problems.of(PairsConfig(n=10, article=True), reader)
    assert problems.choices[0].tolist() == [2, 3]
    assert len(problems.choices) == 50
    with pytest.raises(BadArgument, match="shots=1"):
        Problems.of(PairsConfig(n=10, shots=1), reader)


def test_some_pairs_are_kept_in_their_order(model: hs.Model) -> None:
    shots = PairsConfig(n=10, shots=4).draw(model)
    kept = shots.keeping(np.tile([3, 1], (10, 1)))
    assert (kept.x == shots.x[:, [3, 1]]).all()
    assert (kept.y == shots.y[:, [3, 1]]).all()
    assert (truncated_context(shots, 2).x == shots.x[:, :2]).all()
    assert (kept.query == shots.query).all()


@pytest.mark.parametrize("variable", ["a", "b", "x"])
def test_one_variable_is_swapped_and_nothing_else(model: hs.Model, variable: str) -> None:
    shots = PairsConfig(n=40, shots=4).draw(model)
    swap = swapped(shots, variable, seed=0)
    assert swap is not None
    before, after, kept = swap
    assert (before.query == shots.query[kept]).all()
    differs = {
        "a": (before.parameters[:, 0] != after.parameters[:, 0]),
        "b": (before.parameters[:, 1] != after.parameters[:, 1]),
        "x": (before.query != after.query),
    }
    assert differs.pop(variable).all()
    assert not np.any(list(differs.values()))
    assert (before.answer != after.answer).all()
    assert (before.x == after.x).all()
    # A wrong label stays what it is; the others are the source's function's.
    assert before.wrong.any()
    assert (after.y[before.wrong] == before.y[before.wrong]).all()
    assert (after.y[~before.wrong] == after.true_y[~before.wrong]).all()


def test_the_number_of_shots_is_swapped_for_fewer(model: hs.Model) -> None:
    shots = PairsConfig(n=10, shots=8).draw(model)
    swap = swapped(shots, SHOTS, seed=0)
    assert swap is not None
    _, fewer, kept = swap
    assert kept == list(range(10))
    assert fewer.x.shape == (10, 2)
    assert (fewer.answer == shots.answer).all()


def test_a_variable_without_other_values_is_not_swapped(model: hs.Model) -> None:
    shots = PairsConfig(n=10, shots=4, a="2..2").draw(model)
    assert swapped(shots, "a", seed=0) is None


def test_a_variable_is_decided_only_where_it_stays() -> None:
    assert decided([0.0, 0.9, 0.4, 0.6]) == 3
    assert decided([0.6, 0.9]) == 0
    assert decided([0.6, 0.4]) is None
    assert decided([float("nan"), 0.9]) == 1
