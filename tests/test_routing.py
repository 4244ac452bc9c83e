"""Where heads look: offsets, patterns written out, knock-outs, on hand-computed cases."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.interventions.routing import KnockOut
from tests import planted, tiny
from tests.families.configs import build


@pytest.fixture(scope="module")
def circuit():
    """Its heads 0.1 to 0.3 have no weights at all: they attend evenly."""
    return planted.induction_circuit()


IDS = [[0, 5, 6, 7, 8]]


def shown(model, *edits, layer=0, head=1):
    return model.run(IDS, capture=("pattern", layer), interventions=edits)["pattern", layer][0, head]


def test_a_fixed_offset_reads_exactly_so_far_back(circuit):
    run = circuit.run(IDS, capture=["pattern", "z", "v"], interventions=hs.fixed_offset("0.0", 2))
    plain = circuit.run(IDS, capture=["z"])
    expected = torch.zeros(3, 5)
    expected[[0, 1, 2], [0, 1, 2]] = 1
    assert torch.equal(run["pattern", 0][0, 0, 2:], expected)
    assert torch.equal(run["z", 0][0, 2:, 0], run["v", 0][0, :3, 0])
    # Queries 0 and 1 have nothing two back: they stay as they are instead of looking at the first token.
    assert torch.equal(run["z", 0][0, :2], plain["z", 0][0, :2])
    assert torch.equal(run["z", 0][0, :, 1:], plain["z", 0][0, :, 1:])


def test_a_redirect_by_half_is_half_the_pattern(circuit):
    rows = shown(circuit, hs.to_bos("0.1", strength=0.5))
    even = torch.ones(5, 5).tril() / torch.arange(1, 6)[:, None]
    assert_close(rows, 0.5 * even + 0.5 * torch.eye(5)[:1])


def test_the_previous_token_head_made_to_look_elsewhere_breaks_induction(circuit):
    prompts = hs.tasks.repeated_tokens(circuit, length=6, repeats=3, n=4)
    loss = hs.measures.loss("predictable")

    def judged(*edits):
        return float(loss(circuit.run(prompts, interventions=edits).logits, prompts).mean())

    assert judged() < 0.1
    assert judged(hs.fixed_offset("0.0", 1)) == pytest.approx(judged(), abs=1e-5)
    assert judged(hs.fixed_offset("0.0", 2)) > 3


def test_knocked_out_keys_leave_the_rest_scaled_up(circuit):
    # Even attention of query 3 is 1/4 each; without key 1 it is 1/3 each.
    rows = shown(circuit, hs.knock_out("0.1", queries=[3], keys=[1]))
    assert_close(rows[3], torch.tensor([1 / 3, 0, 1 / 3, 1 / 3, 0]))
    assert_close(rows[4], torch.full((5,), 0.2))
    raw = shown(circuit, hs.knock_out("0.1", queries=[3], keys=[1], renormalise=False))
    assert_close(raw[3], torch.tensor([0.25, 0, 0.25, 0.25, 0]))
    half = shown(circuit, hs.knock_out("0.1", queries=[3], keys=[1], strength=0.5))
    assert_close(half[3], torch.tensor([7 / 24, 3 / 24, 7 / 24, 7 / 24, 0]))


def test_a_row_that_loses_everything_attends_to_nothing(circuit):
    run = circuit.run(IDS, capture=["pattern", "z"], interventions=hs.knock_out("0.0", "all", "all"))
    assert not run["pattern", 0][0, 0].any()
    assert not run["z", 0][0, :, 0].any()
    assert run.logits.isfinite().all()


def test_roles_name_queries_and_keys(circuit):
    roles = {"query": ((4,), (2,)), "example": ((1, 2), (1,))}
    prompts = hs.Prompts(((0, 5, 6, 7, 8), (0, 9, 3)), roles=roles)
    edit = hs.knock_out("0.2", queries="query", keys="example")
    pattern = circuit.run(prompts, capture=("pattern", 0), interventions=edit)["pattern", 0][:, 2]
    assert_close(pattern[0, 4], torch.tensor([1 / 3, 0, 0, 1 / 3, 1 / 3]))
    assert_close(pattern[1, 2, :3], torch.tensor([0.5, 0, 0.5]))
    assert_close(pattern[0, 3], torch.tensor([0.25, 0.25, 0.25, 0.25, 0]))


def test_doses_nest_and_count(circuit):
    taken = [
        {
            (query, key)
            for query, key in (shown(circuit, hs.knock_out("0.3", "all", [1, 2, 3], edges=k), head=3) == 0)
            .nonzero()
            .tolist()
            if key <= query
        }
        for k in range(5)
    ]
    assert taken[0] == set()
    assert all(smaller < larger for smaller, larger in pairwise(taken[:4]))
    assert taken[3] == taken[4] == {(q, k) for q in range(5) for k in (1, 2, 3) if k <= q}
    assert len([1 for query, _ in taken[2] if query == 4]) == 2
    other = {
        tuple(place)
        for seed in range(8)
        for place in (shown(circuit, hs.knock_out("0.3", [4], [1, 2, 3], edges=1, seed=seed), head=3)[4] == 0)
        .nonzero()
        .tolist()
    }
    assert other == {(1,), (2,), (3,)}


def test_each_query_draws_its_own_edges(circuit):
    together = {True: 0, False: 0}
    for seed in range(12):
        pattern = shown(circuit, hs.knock_out("0.3", [3, 4], [1, 2, 3], edges=1, seed=seed), head=3)
        first, second = (int((pattern[query, 1:4] == 0).nonzero()[0]) for query in (3, 4))
        together[first == second] += 1
    assert together[True] > 0
    assert together[False] > 3


def test_a_row_that_needs_a_dropped_key_is_refused_in_generation():
    model, even = tiny.opened("mistral"), torch.ones(20, 20).tril()
    edit = hs.set_pattern("1.0", even / even.sum(-1, keepdim=True), beyond_window=True)
    with pytest.raises(hs.errors.UnservedSite, match="has dropped it"):
        model.generate(tiny.ids(1, 8), max_new_tokens=4, interventions=edit)
    within = hs.set_pattern("1.0", torch.eye(20))
    assert model.generate(tiny.ids(1, 8), max_new_tokens=4, interventions=within).tokens


def test_an_attention_sink_keeps_its_share():
    # With sinks p = softmax over keys and sink; without a key each p grows by 1 / (1 - what was cut).
    model = hs.load(build("gpt_oss"))
    ids = tiny.ids(1, 8)
    plain = model.run(ids, capture="pattern")["pattern", 1][0, 0]
    cut = model.run(ids, capture="pattern", interventions=hs.knock_out("1.0", "all", [1]))["pattern", 1][0, 0]
    assert float(plain.sum(-1).min()) < 0.99
    expected = plain.clone()
    expected[:, 1] = 0
    assert_close(cut, expected / (1 - plain[:, 1:2]), atol=1e-5, rtol=1e-4)


def test_a_pattern_is_set_by_head_and_by_example():
    model, ids = tiny.opened("llama"), tiny.ids(2, 4)
    drawn = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(1)).tril()
    given = drawn / drawn.sum(-1, keepdim=True)
    run = model.run(ids, capture=["pattern", "z", "v"], interventions=hs.set_pattern(["1.1", "1.3"], given))
    assert torch.equal(run["pattern", 1][:, [1, 3]], given)
    values = run["v", 1].transpose(1, 2)  # two query heads to each key head: 1.1 reads 0, 1.3 reads 1
    assert_close(run["z", 1][:, :, 3], given[:, 1] @ values[:, 1], atol=1e-6, rtol=1e-5)
    plain = model.run(ids, capture=["z"])
    assert torch.equal(run["z", 1][:, :, [0, 2]], plain["z", 1][:, :, [0, 2]])
    for row in range(2):
        alone = hs.set_pattern(["1.1", "1.3"], given).rows(slice(row, row + 1))
        assert_close(model.run(ids[row : row + 1], interventions=alone).logits[0], run.logits[row])


def test_the_order_given_is_the_order_at_the_pattern(circuit):
    look_back, cut = hs.fixed_offset("0.1", 1), hs.knock_out("0.1", "all", [2])
    after = shown(circuit, look_back, cut)
    assert not after[3].any()  # it looked at 2, which is then taken away
    before = shown(circuit, cut, look_back)
    assert torch.equal(before[3], torch.tensor([0.0, 0, 1, 0, 0]))


def test_writing_the_same_pattern_changes_no_bit():
    for family in ("llama", "gpt_neox", "gemma2"):
        model, ids = tiny.opened(family), tiny.ids()
        plain = model.run(ids, capture="pattern")
        same = hs.patch(("pattern", "all"), source=plain)
        assert torch.equal(model.run(ids, interventions=same).logits, plain.logits)


def test_a_strength_of_nothing_changes_no_bit(circuit):
    plain = circuit.run(IDS).logits
    for edit in (
        hs.zero("0.0", strength=0),
        hs.to_bos("0.0", strength=0),
        hs.knock_out("0.0", "all", "all", strength=0),
    ):
        assert torch.equal(circuit.run(IDS, interventions=edit).logits, plain)


def test_bad_routes_are_refused(circuit):
    square = torch.eye(4)
    cases = [
        (lambda: hs.fixed_offset("0.1", -1), hs.errors.BadArgument, "whole number from 0"),
        (lambda: hs.zero("0.1", strength=1.5), hs.errors.BadArgument, "between 0"),
        (lambda: hs.zero("0.1", strength=float("nan")), hs.errors.BadArgument, "between 0"),
        (lambda: hs.knock_out("0.1", "all", "all", edges=-1), hs.errors.BadArgument, "edges"),
        (lambda: hs.knock_out(("v", 1), "all", "all"), hs.errors.UnservedSite, "Name heads"),
        (lambda: hs.set_pattern("0.1", torch.ones(4, 4)), hs.errors.BadArgument, "probabilities"),
        (lambda: hs.set_pattern("0.1", torch.ones(4, 4) / 4), hs.errors.BadArgument, "later token"),
        (lambda: hs.set_pattern("0.1", torch.eye(3)[:2]), hs.errors.BadArgument, "shape"),
    ]
    for make, error, words in cases:
        with pytest.raises(error, match=words):
            make()
    runs = [
        (hs.set_pattern("0.1", square), hs.errors.PromptError, "given for 4 positions"),
        (hs.set_pattern("0.1", square.expand(2, 3, 4, 4), positions=[1]), hs.errors.BadArgument, "1 heads in 1"),
        (hs.knock_out("0.1", "all", [9]), hs.errors.OutOfRange, "position 9"),
        (hs.knock_out("0.1", "all", "nobody"), hs.errors.UnknownName, "no role"),
        (hs.fixed_offset("0.9", 1), hs.errors.OutOfRange, "numbered 0 to 3"),
    ]
    for edit, error, words in runs:
        with pytest.raises(error, match=words):
            circuit.run(IDS, interventions=edit)
    assert circuit.run(IDS, interventions=hs.set_pattern("0.1", square, positions=[1])).logits.isfinite().all()
    assert isinstance(hs.knock_out("0.1", "all", "all").at(layer=1, head=2, position=3), KnockOut)


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_what_lies_outside_a_window_is_no_key(name):
    # Windows of 5, in gemma2 in layer 0 alone: position 4 is the last that sees position 0.
    model, ids = tiny.opened(name), tiny.ids(2, 12)
    for edit in (hs.to_bos("0.1"), hs.fixed_offset("0.1", 5), hs.to_bos("0.1", positions=[3, 5])):
        with pytest.raises(hs.errors.UnservedSite, match="at position 5: a query there does not see position 0"):
            model.run(ids, interventions=edit)
        with pytest.raises(hs.errors.UnservedSite, match="does not see position 0"):
            model.generate(ids, max_new_tokens=2, interventions=edit)
    with pytest.raises(hs.errors.UnservedSite, match="at position 7: a query there does not see position 2"):
        model.run(ids, interventions=hs.fixed_offset("0.1", 5, positions=[-1, 7]))
    within = [hs.to_bos("0.1", positions=range(5)), hs.fixed_offset("0.2", 4)]
    pattern = model.run(ids, interventions=within, capture="pattern")["pattern", 0]
    assert (pattern[:, 1, :5, 0] == 1).all()
    assert (pattern[:, 2, 4:].diagonal(dim1=1, dim2=2) == 1).all()
    if name == "gemma2":  # no window in layer 1
        model.run(ids, interventions=[hs.to_bos("1.1"), hs.fixed_offset("1.2", 9)])
    asked = hs.to_bos("0.1", beyond_window=True)
    assert (model.run(ids, interventions=asked, capture="pattern")["pattern", 0][:, 1, :, 0] == 1).all()
    assert str(asked) == "to_bos 0.1 beyond its window"
    assert asked != hs.to_bos("0.1")
    assert str(hs.fixed_offset("0.1", 7, beyond_window=True)) == "fixed_offset 0.1 7 back beyond its window"


def test_padding_does_not_hide_the_first_token():
    model = tiny.opened("mistral")
    ragged = [[3, 4, 5], [6, 7, 8, 9, 10]]
    pattern = model.run(ragged, interventions=hs.to_bos("1.0"), capture="pattern")["pattern", 1]
    assert (pattern[0, 0, :3, 0] == 1).all()
    assert (pattern[1, 0, :, 0] == 1).all()
