"""What is clamped holds from its step on, in training and in what is measured; everything else learns."""

import copy
import dataclasses

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from headscope import training
from headscope.errors import BadArgument
from headscope.training import loop
from headscope.training.clamping import Clamp, after_copies, clamped, pattern_of
from headscope.training.definition import Recipe
from headscope.training.evaluation import Probes, measure
from tests.test_training import LANGUAGE, TINY, assert_same_weights, without_time

EDGES = Clamp("no_induction_edges")
TOKENS = tensor([[0, 3, 4, 3, 4, 4], [0, 7, 8, 9, 7, 8]])


def patterns(model, tokens=TOKENS):
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        return twin(tokens, output_attentions=True).attentions


def test_edges_by_hand():
    # 0 3 4 3 4 4: the 3 at 3 has a copy at 1, so key 2; the 4 at 4 one at 2, so key 3; that at 5 also 4, so key 5.
    edges = after_copies(TOKENS)[0].nonzero().tolist()
    assert edges == [[3, 2], [4, 3], [5, 3], [5, 5]]


def test_no_attention_is_left_on_induction_edges_and_the_rest_shares_it():
    model = loop.untrained(TINY)
    free, edges = patterns(model), after_copies(TOKENS)[:, None]
    with clamped(model, (EDGES,), step=0):
        held = patterns(model)
        assert torch.equal(held[0], free[0])  # the first layer is not held
        assert (held[1] * edges).abs().max() == 0
        rest = free[1] * ~edges
        assert_close(held[1], rest / rest.sum(-1, keepdim=True))
        # Training computes with torch's own kernel, which shows no pattern: it gives the same logits.
        eager = copy.deepcopy(model)
        eager.set_attn_implementation("eager")
        assert_close(model(TOKENS).logits, eager(TOKENS).logits)
    assert torch.equal(patterns(model)[1], free[1])
    with clamped(model, (Clamp("no_induction_edges", heads=("1.1",)),), step=0):
        held = patterns(model)[1]
        assert torch.equal(held[:, 0], free[1][:, 0])
        assert (held[:, 1:] * edges).abs().max() == 0


@pytest.mark.parametrize("kind", ["previous_token", "uniform", "first_token"])
def test_a_head_attends_as_it_is_told(kind):
    wanted = {
        "previous_token": [[1, 0, 0], [1, 0, 0], [0, 1, 0]],
        "uniform": [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]],
        "first_token": [[1, 0, 0], [1, 0, 0], [1, 0, 0]],
    }
    assert_close(pattern_of(kind, 3, torch.zeros(1)), tensor(wanted[kind], dtype=torch.float32))
    model = loop.untrained(TINY)
    with clamped(model, (Clamp(kind, heads=("0.1",)),), step=0):
        held = patterns(model)[0]
        assert_close(held[:, 1], pattern_of(kind, 6, held).expand(2, -1, -1))
        before = model(TOKENS).logits
        # Queries and keys of this head decide nothing any more; those of the other do.
        attention = model.model.layers[0].self_attn
        with torch.no_grad():
            attention.q_proj.weight[4:] += 1
            attention.k_proj.weight[4:] -= 1
        assert torch.equal(model(TOKENS).logits, before)
        model(TOKENS, labels=TOKENS).loss.backward()
        assert attention.q_proj.weight.grad[4:].abs().max() == 0
        for weight in (
            attention.q_proj.weight.grad[:4],
            attention.v_proj.weight.grad[4:],
            attention.o_proj.weight.grad,
        ):
            assert weight.abs().max() > 0
    assert not torch.equal(model(TOKENS).logits, before)


def test_a_run_is_the_same_to_the_bit_before_the_step_and_another_after_it(tmp_path):
    free = training.train(TINY, tmp_path / "free")
    late = dataclasses.replace(TINY, clamped=(dataclasses.replace(EDGES, start=5),))
    held = training.train(late, tmp_path / "late")
    assert_same_weights(free, held, step=4)
    with pytest.raises(AssertionError):
        assert_same_weights(free, held)
    before, after = without_time(training.history(free)), without_time(training.history(held))
    assert before[1:2] == after[1:2]
    # What is measured is the model with its clamp, which holds at the milestone of its first step already.
    for row in training.history(held):
        assert (max(row.prefix_matching_by_head[1]) == 0) == (row.step >= 5)
        assert min(row.prefix_matching_by_head[0]) > 0
    never = dataclasses.replace(TINY, clamped=(dataclasses.replace(EDGES, start=13),))
    assert_same_weights(free, training.train(never, tmp_path / "never"))


def test_what_is_measured_knows_of_the_clamp():
    model, probes = loop.untrained(TINY), Probes.of(LANGUAGE, seed=0)
    free = measure(model, probes)
    with clamped(model, (EDGES,), step=0):
        held = measure(model, probes)
    assert held["prefix_matching_by_head"][1] == [0, 0]
    assert held["prefix_matching_by_head"][0] == free["prefix_matching_by_head"][0]
    assert held["loss_nats"] != free["loss_nats"]


def test_a_clamp_is_part_of_the_recipe_and_older_recipes_keep_their_hash():
    held = dataclasses.replace(TINY, clamped=(Clamp("uniform", heads=("0", "1.1"), start=3), EDGES))
    assert Recipe.from_json(held.to_json()) == held
    assert held.digest() != TINY.digest()
    assert "clamped" not in TINY.to_json()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clamp("nothing"), "cannot clamp 'nothing' in training: expected no_induction_edges"),
        (lambda: Clamp("uniform", heads=("one",)), "expected a head"),
        (lambda: Clamp("uniform", start=-1), "from step -1"),
        (lambda: dataclasses.replace(TINY, clamped=(Clamp("uniform", heads=("2",)),)), "2 layers of 2 heads"),
        (lambda: dataclasses.replace(TINY, clamped=(Clamp("uniform", heads=("1.2",)),)), "2 layers of 2 heads"),
        (lambda: dataclasses.replace(ONE_LAYER, clamped=(EDGES,)), "1 layers of 2 heads"),
    ],
)
def test_clamps_that_cannot_be_are_refused(make, message):
    with pytest.raises(BadArgument, match=message):
        make()


ONE_LAYER = dataclasses.replace(TINY, architecture={**TINY.architecture, "n_layers": 1})
