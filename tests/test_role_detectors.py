"""Heads that carry pairs: key sets by hand, a planted head of each kind, and heads that only look so."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import headscope as hs
from headscope.detectors.pairs import KeySets
from headscope.detectors.roles import (
    NAMES,
    at_same_distances,
    example_to_example,
    from_other_queries,
    role_attention,
    role_table,
    turned_round,
    x_to_y,
)
from headscope.interventions import fixed_offset, set_pattern
from headscope.studies.pairs import PairsConfig
from headscope.tasks.linear import linear
from headscope.tasks.prompts import Prompts
from tests import pair_models


def marked(keys):
    """{query: keys} of the first example."""
    return {
        query: keys.pairs[0, query].nonzero().flatten().tolist()
        for query in keys.queries[0].nonzero().flatten().tolist()
    }


# <bos> x , y ; x , y ; x ,
PAIRS = Prompts(
    (tuple(range(11)),),
    roles={
        "x": ((1, 5),),
        "y": ((3, 7),),
        "before_y": ((2, 6),),
        "separator": ((2, 4, 6, 8, 10),),
        "query": ((9,),),
        "readout": ((10,),),
    },
)
# <bos> ( 2 8 , 5 9 ) ( 4 , 1 1 ) ( 6 ,   with numbers of one or two tokens
DIGITS = Prompts(
    (tuple(range(16)),),
    roles={
        "x": ((2, 3, 9),),
        "y": ((5, 6, 11, 12),),
        "before_y": ((4, 10),),
        "separator": ((1, 4, 7, 8, 10, 13),),
        "query": ((14,),),
        "readout": ((15,),),
    },
)


def test_key_sets_by_hand():
    assert marked(x_to_y(PAIRS)) == {3: [1], 7: [5]}
    assert marked(example_to_example(PAIRS)) == {6: [3], 10: [3, 7]}
    assert marked(x_to_y(DIGITS)) == {5: [2, 3], 6: [2, 3], 11: [9], 12: [9]}
    assert marked(example_to_example(DIGITS)) == {10: [5, 6], 15: [5, 6, 11, 12]}


def test_the_null_has_the_same_distances_from_other_roles():
    role = {place: name for name in ("x", "y", "separator", "query") for place in PAIRS.roles[name][0]}
    drawn = set()
    for seed in range(20):
        sets = x_to_y(PAIRS)
        null = marked(at_same_distances(sets, PAIRS, seed=seed))
        assert null
        for query, keys in null.items():
            assert role[query] != "y"
            assert keys == [query - 2]  # x stands two before y
            assert 0 not in keys  # heads rest on the first token
            drawn.add(query)
    # From y at 7; the one at 3 would move onto the first token, and is left out.
    assert drawn == {4, 5, 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_number_tokens(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def prompts(model: hs.Model) -> Prompts:
    return linear(model, PairsConfig(n=20).draw(model))


def pattern_of(sets, length):
    """Every judged query looks evenly at its keys, every other one at the first token."""
    pattern = torch.zeros(length, length)
    pattern[:, 0] = 1.0
    for query in sets.queries[0].nonzero().flatten().tolist():
        pattern[query] = sets.pairs[0, query].float() / sets.pairs[0, query].sum()
    return pattern


def detect_roles(model, prompts, **given):
    return role_table(role_attention(model, prompts, **given))


def named(table):
    return {(row["detector"], row["head"]) for row in table.rows(named=True)}


def test_planted_heads_are_named_and_no_others(model, prompts):
    planted = [
        set_pattern("0.1", pattern_of(x_to_y(prompts), prompts.longest)),
        set_pattern("1.2", pattern_of(example_to_example(prompts), prompts.longest)),
    ]
    table = detect_roles(model, prompts, interventions=planted)
    assert named(table) == {("x_to_y", "0.1"), ("example_to_example", "1.2")}
    (row,) = table.rows(detector="x_to_y", head="0.1")
    assert row["score"] == pytest.approx(1, abs=1e-5)
    assert row["null"] < 0.01


def test_a_head_that_looks_two_back_everywhere_does_not_carry_pairs(model, prompts):
    # Its score on y is 1; so is that on the null.
    table = detect_roles(model, prompts, interventions=[fixed_offset("0.1", 2)])
    (row,) = table.rows(detector="x_to_y", head="0.1")
    assert row["score"] == pytest.approx(1, abs=1e-5)
    assert row["null"] == pytest.approx(1, abs=1e-5)
    assert not named(table)


def even_over(prompts, places):
    """Every query looks evenly at those of these places that it sees, or else at the first token."""
    pattern = torch.zeros(prompts.longest, prompts.longest)
    pattern[:, list(places)] = 1.0
    pattern = pattern.tril()
    pattern[pattern.sum(-1) == 0, 0] = 1.0
    return pattern / pattern.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("what", "roles"), [("all numbers", ("x", "y", "query")), ("every y", ("y",)), ("every x", ("x", "query"))]
)
def test_a_head_of_numbers_or_of_one_role_from_everywhere_is_no_head_of_pairs(model, prompts, what, roles):
    places = sorted(place for role in roles for place in prompts.roles[role][0])
    table = detect_roles(model, prompts, interventions=[set_pattern("0.1", even_over(prompts, places))])
    assert not named(table)
    row = max(table.rows(head="0.1"), key=lambda row: row["score"])
    assert row["score"] > row["uniform"] + 0.1, what  # more than evenly, which is not what makes the difference


@pytest.mark.parametrize("shots", [2, 4])
def test_few_labels_attended_to_from_everywhere_are_all_in_the_null(model, shots):
    # From the y after the query one y more is seen, itself: with few examples it takes much of an even attention.
    prompts = linear(model, PairsConfig(n=20, shots=shots).draw(model))
    everywhere = set_pattern("0.1", even_over(prompts, prompts.roles["y"][0]))
    (row,) = detect_roles(model, prompts, interventions=[everywhere]).rows(detector="example_to_example", head="0.1")
    assert row["score"] == pytest.approx(1, abs=1e-5)
    assert row["null"] == pytest.approx(1, abs=1e-5)


def test_a_null_that_is_scaled_is_still_a_share_of_attention(model):
    # From a y to the ones before it, not to itself: scaled for the y that it leaves out, that would exceed 1.
    prompts = linear(model, PairsConfig(n=20, shots=4).draw(model))
    pattern = even_over(prompts, prompts.roles["y"][0])
    ys = torch.tensor(prompts.roles["y"][0][1:])
    pattern[ys, ys] = 0.0
    pattern[ys] /= pattern[ys].sum(-1, keepdim=True)
    attention = role_attention(model, prompts, interventions=[set_pattern("0.1", pattern)])["example_to_example"]
    assert attention[0].null[:, 1].tolist() == pytest.approx([1.0] * 20, abs=1e-5)


def test_other_keys_have_another_role_and_lie_on_both_sides():
    sets = example_to_example(DIGITS)
    (around,) = sets.others
    # y at 5 6 and 11 12; x at 2 3 and 9; query at 14: a number weighs 1, in however many tokens.
    assert around[0, 10, :].nonzero().flatten().tolist() == [2, 3, 9]
    assert around[0, 15, [2, 3, 9, 14]].tolist() == [0.5, 0.5, 2.0, 1.0]
    y, x_before = x_to_y(PAIRS).others
    assert [each[0, 7].nonzero().flatten().tolist() for each in (y, x_before)] == [[3, 7], [1]]
    assert marked(from_other_queries(x_to_y(PAIRS), PAIRS)) == {2: [1], 4: [1], 6: [5], 8: [5]}
    # For the y at 3: from 5 it is all there is; 7 sees itself as well, for which its share at 3 is scaled.
    moved = from_other_queries(example_to_example(PAIRS), PAIRS)
    assert marked(moved) == {5: [3], 7: [3, 7], 9: [3, 7]}
    assert marked(KeySets(moved.others[0] > 0, moved.queries)) == {5: [3], 7: [3], 9: [3, 7]}


def test_random_weights_have_no_such_heads_in_either_form(model, prompts, tmp_path):
    assert not named(detect_roles(model, prompts))
    text = pair_models.of_text(tmp_path)
    found = detect_roles(text, linear(text, PairsConfig(n=20).draw(text)))
    assert not named(found)
    assert set(found.frame["detector"]) == set(NAMES)


def test_turned_round_the_same_numbers_stand_in_other_roles():
    assert turned_round(PAIRS).tokens == ((0, 3, 2, 1, 4, 7, 6, 5, 8, 9, 10),)
    # 2 8 and 5 9 are exchanged; 4 has one token and 1 1 two, so these stay.
    assert turned_round(DIGITS).tokens == ((0, 1, 5, 6, 4, 2, 3, *range(7, 16)),)


def test_a_head_of_some_numbers_is_no_head_of_pairs(tmp_path):
    # Random weights of this size give sharp attention by token: head 0.2 prefers numbers that are seldom an x.
    pair_models.of_number_tokens(tmp_path, seed=1)
    weights = load_file(tmp_path / "model.safetensors")
    scaled = {name: 6 * weight if weight.ndim > 1 else weight for name, weight in weights.items()}
    save_file(scaled, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sharp = hs.load(str(tmp_path))
    prompts = linear(sharp, PairsConfig(n=60).draw(sharp))
    assert not named(detect_roles(sharp, prompts))
