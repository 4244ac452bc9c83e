"""Interventions against hand-computed cases, and the sentences with which they refuse."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import headscope as hs
from headscope.hashing import digest
from headscope.models.execution import edited
from headscope.models.layout import Layout
from headscope.models.protocols import SiteEdit
from headscope.sweeps import each_head, evaluate, execute
from tests import planted, tiny


@pytest.fixture(scope="module")
def llama():
    return tiny.opened("llama")


def test_zero_touches_only_its_heads_and_positions(llama):
    ids = tiny.ids()
    plain = llama.run(ids, capture="z")["z", 1]
    cut = llama.run(ids, interventions=hs.zero(["1.0", "1.3"], positions=[2, -1]), capture="z")["z", 1]
    expected = plain.clone()
    expected[:, [2, 11], 0] = 0
    expected[:, [2, 11], 3] = 0
    assert torch.equal(cut, expected)


def test_a_layer_by_its_number_means_all_its_heads(llama):
    ids = tiny.ids()
    by_number = llama.run(ids, interventions=hs.zero(1)).logits
    by_heads = llama.run(ids, interventions=hs.zero([hs.Head(1, h) for h in range(4)])).logits
    assert torch.equal(by_number, by_heads)
    # gpt2's projection has a bias, which cutting its heads leaves and cutting attn_out removes.
    gpt2 = tiny.opened("gpt2")
    heads, site = (gpt2.run(ids, interventions=edit).logits for edit in (hs.zero(1), hs.zero(("attn_out", 1))))
    assert (heads - site).abs().max() > 1e-3


def test_mean_by_hand(llama):
    reference = hs.Prompts.of([[0, 4, 5, 6], [0, 7]])
    z = llama.run(reference, capture="z")["z", 1]
    overall = torch.cat([z[0], z[1, :2]]).mean(0)
    ids = tiny.ids(1, 2)
    kept = llama.run(ids, interventions=hs.mean("1.2", over=reference), capture="z")["z", 1]
    assert_close(kept[0, :, 2], overall[2].expand(2, -1))
    by_position = hs.mean("1.2", over=reference, per_position=True)
    kept = llama.run(ids, interventions=by_position, capture="z")["z", 1]
    assert_close(kept[0, :, 2], z[:, :2, 2].mean(0))
    with pytest.raises(hs.errors.PromptError, match="longer reference"):
        llama.run(tiny.ids(1, 3), interventions=by_position)


def test_add_by_hand(llama):
    ids, push = tiny.ids(), torch.arange(8.0)
    plain = llama.run(ids, capture="z")["z", 0]
    moved = llama.run(ids, interventions=hs.add("0.1", push, scale=-2, positions=3), capture="z")["z", 0]
    assert_close(moved[:, 3, 1], plain[:, 3, 1] - 2 * push)
    with pytest.raises(hs.errors.BadArgument, match=r"shape \(8,\).*expected \(32,\)"):
        llama.run(ids, interventions=hs.add(("resid_pre", 0), push))


def test_patch_with_a_position_map_between_unequal_prompts(llama):
    source, target = tiny.ids(2, 9, seed=4), tiny.ids(2, 6, seed=5)
    run = llama.run(source, capture="resid_pre")
    edit = hs.patch(("resid_pre", 1), source=run, positions={-1: -1, 2: 0})
    kept = llama.run(target, interventions=edit, capture="resid_pre")["resid_pre", 1]
    plain = llama.run(target, capture="resid_pre")["resid_pre", 1]
    assert torch.equal(kept[:, 5], run["resid_pre", 1][:, 8])
    assert torch.equal(kept[:, 0], run["resid_pre", 1][:, 2])
    assert torch.equal(kept[:, 1:5], plain[:, 1:5])


def test_one_source_example_serves_all(llama):
    source, target = tiny.ids(1, 6, seed=4), tiny.ids(3, 6, seed=5)
    run = llama.run(source, capture="v")
    kept = llama.run(target, interventions=hs.patch(("v", 2), source=run), capture="v")
    assert_close(kept["v", 2], run["v", 2].expand(3, -1, -1, -1))


def test_patching_a_pattern_moves_only_the_routing(llama):
    source, target = tiny.ids(2, 6, seed=4), tiny.ids(2, 6, seed=5)
    run = llama.run(source, capture="pattern")
    kept = llama.run(target, interventions=hs.patch(("pattern", 1), source=run), capture=["pattern", "z", "v"])
    assert_close(kept["pattern", 1], run["pattern", 1])
    values = kept["v", 1].transpose(1, 2).repeat_interleave(2, dim=1)
    assert_close(kept["z", 1], (run["pattern", 1] @ values).transpose(1, 2), atol=1e-6, rtol=1e-5)


def test_refusals_say_what_to_do(llama):
    ids = tiny.ids()
    with pytest.raises(hs.errors.UnservedSite, match="Name heads"):
        hs.to_bos(("resid_pre", 1))
    cases = [
        (hs.zero("9.0"), hs.errors.OutOfRange, "has 3, numbered 0 to 2"),
        (hs.zero("1.4"), hs.errors.OutOfRange, "has 4, numbered 0 to 3"),
        (hs.zero("1.0", positions=[12]), hs.errors.OutOfRange, "shortest example has 12 tokens"),
        (hs.zero("1.0", positions="query"), hs.errors.UnknownName, "no role named 'query'"),
        (hs.zero("resid_pre"), hs.errors.BadArgument, "without a layer"),
        (hs.patch(("resid_pre", 1), source=tiny.ids(2, 5)), hs.errors.PositionMapNeeded, "which position goes where"),
        (hs.patch(("z", 1), source=llama.run(ids)), hs.errors.UnservedSite, "not captured"),
        (hs.patch(("z", 1), source=tiny.ids(5, 12)), hs.errors.BadArgument, "one for each"),
    ]
    for edit, error, words in cases:
        with pytest.raises(error, match=words):
            llama.run(ids, interventions=edit)
    with pytest.raises(hs.errors.UnknownName, match="did you mean 'resid_pre'"):
        hs.zero(("resid_pree", 1))
    with pytest.raises(hs.errors.BadArgument, match="empty list of heads"):
        hs.zero([])
    with pytest.raises(hs.errors.UnservedSite, match="no MLP"):
        planted.induction_circuit().run([[0, 1]], interventions=hs.zero(("mlp_out", 0)))


def test_equal_specifications_are_equal_and_hash_alike():
    assert hs.zero(["0.1", "1.2"]) == hs.zero([hs.Head(1, 2), hs.Head(0, 1)])
    assert hs.zero("0.1") != hs.to_bos("0.1")
    assert hs.add("0.1", torch.ones(2)) == hs.add("0.1", torch.ones(2))
    assert hs.add("0.1", torch.ones(2)) != hs.add("0.1", torch.zeros(2))
    assert len({hs.zero(3), hs.zero(3, positions="all")}) == 1
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(hs.mean("0.1", over=[[1, 2]])) != digest(hs.mean("0.1", over=[[1, 3]]))


def test_a_grid_covers_every_place_once(llama):
    clean, corrupted = tiny.ids(2, 5, seed=1), tiny.ids(2, 5, seed=2)
    cells = hs.grid(hs.patch("resid_pre", source=clean), layers="all", positions="all")
    prompts = hs.Prompts(tuple(map(tuple, corrupted.tolist())), answers=(3, 4), foils=(5, 6))
    table = hs.sweep(llama, prompts, cells, measure=hs.measures.logit_difference())
    places = {(row["layer"], row["position"]) for row in table.rows()}
    assert len(table) == 15
    assert places == {(layer, position) for layer in range(3) for position in range(5)}
    source = llama.run(clean, capture="resid_pre")
    alone = llama.run(prompts, interventions=hs.patch(("resid_pre", 2), source=source, positions=4))
    expected = hs.measures.logit_difference()(alone.logits, prompts).mean().item()
    assert table.rows(layer=2, position=4)[0]["value"] == pytest.approx(expected, rel=1e-5)


def test_rows_at_a_time_change_nothing(llama):
    prompts = hs.Prompts.of(tiny.ids(7, 6, seed=2))
    source = llama.run(tiny.ids(7, 6, seed=3), capture="z")
    measure = hs.measures.loss()
    cells = each_head(hs.patch("z", source=source, positions=[2]), llama.heads[:3])
    whole = [result.values for result in execute(llama, prompts, cells, measure)]
    llama.memory_bytes = 3 * 8 * tiny.VOCAB * 6
    try:
        parts = [result.values for result in execute(llama, prompts, cells, measure)]
        reference = llama.run(prompts).logits
        divergence = evaluate(llama, prompts, [hs.measures.kl(reference)])[0]
    finally:
        llama.memory_bytes = 2**30
    for one, other in zip(whole, parts, strict=True):
        assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert divergence.abs().max() < 1e-6


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_compositions_equal_edits_made_one_layer_after_another(llama, data):
    # Reference: the same edits applied through plain forward hooks written here.
    heads = data.draw(st.lists(st.sampled_from(llama.heads), min_size=1, max_size=5, unique=True))
    lengths = data.draw(st.lists(st.integers(3, 9), min_size=1, max_size=3))
    position = data.draw(st.integers(-3, 2))
    rows = [tiny.ids(1, length, seed=length + 10 * row)[0].tolist() for row, length in enumerate(lengths)]
    run = llama.run(rows, interventions=hs.zero(heads, positions=[position]))
    for row, tokens in enumerate(rows):
        handles = []
        for layer in {head.layer for head in heads}:
            own, at = [head.index for head in heads if head.layer == layer], position % len(tokens)

            def cut(module, args, own=own, at=at):
                mixed = args[0].clone().unflatten(-1, (4, 8))
                mixed[:, at, own] = 0
                return (mixed.flatten(-2),)

            projection = llama.hf.model.layers[layer].self_attn.o_proj
            handles.append(projection.register_forward_pre_hook(cut))
        with torch.no_grad():
            expected = llama.hf(torch.tensor([tokens]), use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        assert_close(run.logits[row, : len(tokens)], expected, atol=1e-5, rtol=1e-5)


def test_what_is_computed_afterwards_cannot_be_edited(llama):
    for target in (("head_out", 1), ("logits", 0)):
        with pytest.raises(hs.errors.UnservedSite, match="Act on 'z'"):
            llama.run(tiny.ids(), interventions=hs.zero(target))
    for use in ({"interventions": hs.zero(("embed", 2))}, {"capture": ("embed", 2)}):
        with pytest.raises(hs.errors.UnservedSite, match="exists once"):
            llama.run(tiny.ids(), **use)


def test_an_edit_that_is_never_reached_is_no_silent_success(llama):
    layout = Layout((12, 12), {})
    edits = [SiteEdit("mlp_out", 1, lambda value, _: value), SiteEdit("nowhere", 1, lambda value, _: value)]
    with (
        pytest.raises(hs.errors.UnservedSite, match="'nowhere' in layer 1 was never reached"),
        edited(llama.hf, llama.anatomy, layout, edits=edits),
    ):
        llama.hf(tiny.ids(), use_cache=False)


def test_means_and_sources_follow_the_weights():
    model, ids, other = tiny.opened("llama", seed=5), tiny.ids(), tiny.ids(seed=9)
    edits = [hs.mean("1.0", over=other), hs.patch(("resid_post", 1), source=other, positions=2)]
    identity = model.identity
    model.run(ids, interventions=edits)
    with torch.no_grad():
        for weight in model.hf.parameters():
            weight.mul_(0.5)
    fresh = hs.load(copy.deepcopy(model.hf))
    again = model.run(ids, interventions=edits).logits
    assert_close(again, fresh.run(ids, interventions=edits).logits, atol=1e-6, rtol=1e-6)
    assert model.identity == fresh.identity != identity


def test_generated_tokens_beyond_a_source_are_left_alone(llama):
    ids, source = tiny.ids(1, 8), tiny.ids(1, 8, seed=6)
    everywhere = llama.generate(ids, max_new_tokens=5, interventions=hs.patch(("resid_pre", 2), source=source))
    within = hs.patch(("resid_pre", 2), source=source, positions=list(range(8)))
    assert everywhere == llama.generate(ids, max_new_tokens=5, interventions=within)
    ragged = [tiny.ids(1, 8)[0].tolist(), tiny.ids(1, 5)[0].tolist()]
    sources = [tiny.ids(1, 8, seed=6)[0].tolist(), tiny.ids(1, 5, seed=7)[0].tolist()]
    both = llama.generate(ragged, max_new_tokens=4, interventions=hs.patch(("resid_pre", 2), source=sources))
    for row in range(2):
        alone = hs.patch(("resid_pre", 2), source=[sources[row]])
        assert llama.generate([ragged[row]], max_new_tokens=4, interventions=alone).tokens[0] == both.tokens[row]
    with pytest.raises(hs.errors.PromptError, match="reference prompts end there"):
        llama.generate(ids, interventions=hs.mean("0.0", over=source, per_position=True), max_new_tokens=3)


def test_blocks_around_a_sweep_give_each_row_its_own_source(llama):
    prompts, source = (hs.Prompts.of(tiny.ids(6, 6, seed=2)), llama.run(tiny.ids(6, 6, seed=3), capture="resid_pre"))
    block = hs.patch(("resid_pre", 1), source=source, positions=[3])
    with llama.editing(block):
        whole = evaluate(llama, prompts, [hs.measures.loss()])[0]
        llama.memory_bytes = 2 * 8 * tiny.VOCAB * 6
        try:
            parts = evaluate(llama, prompts, [hs.measures.loss()])[0]
        finally:
            llama.memory_bytes = 2**30
    assert_close(parts, whole, atol=1e-6, rtol=1e-6)
    too_few = hs.patch(("resid_pre", 1), source=source.rows(slice(0, 3)))
    with pytest.raises(hs.errors.BadArgument, match="one for each"):
        llama.run(prompts, interventions=too_few)


def test_ragged_work_in_pieces_is_the_whole(llama):
    rows = [tiny.ids(1, length, seed=length)[0].tolist() for length in (9, 4, 6, 5)]
    prompts = hs.Prompts.of(rows)
    reference = llama.run(rows, interventions=hs.zero("0.1")).logits
    source = llama.run(rows, capture="pattern", interventions=hs.zero("0.0"))
    assert source.rows([1]).logits.shape[1] == 4
    assert source.rows([1])["pattern", 1].shape == (1, 4, 4, 4)
    assert source.rows([1]).logits.isfinite().all()
    edit = hs.patch(("pattern", 1), source=source)
    whole = evaluate(llama, prompts, [hs.measures.kl(reference), hs.measures.loss()], [edit])
    llama.memory_bytes = 2 * 8 * tiny.VOCAB * 9
    try:
        parts = evaluate(llama, prompts, [hs.measures.kl(reference), hs.measures.loss()], [edit])
    finally:
        llama.memory_bytes = 2**30
    for one, other in zip(whole, parts, strict=True):
        assert_close(one, other, atol=1e-6, rtol=1e-6)
    with pytest.raises(hs.errors.UnservedSite, match="keys do not align"):
        llama.run([[0, 1]], interventions=hs.patch(("pattern", 1), source=source.rows([0]), positions={-1: -1}))


def test_inputs_are_not_reinterpreted(llama):
    for odd in ("123", [[1.7, 2.9]], [True, False], [["1"]]):
        with pytest.raises(hs.errors.BadArgument, match="give token ids"):
            llama.run(odd)
    assert hs.Prompts.of([np.int64(3), 4]).tokens == ((3, 4),)
    for odd in (True, None, 1.5, []):
        with pytest.raises(hs.errors.BadArgument, match="cannot read the positions"):
            hs.zero("0.1", positions=odd)
    assert hs.zero("0.1", positions=np.int64(3)).positions.indices == (3,)
    with pytest.raises(hs.errors.BadArgument, match="cannot act on"):
        hs.zero([1.10])
    for odd in (None, "0.1", [hs.Head(0, 1)]):
        with pytest.raises(hs.errors.BadArgument, match=r"build one, for example hs\.zero"):
            llama.run(tiny.ids(), interventions=odd)
    with pytest.raises(hs.errors.BadArgument, match="name sites"):
        llama.run(tiny.ids(), capture=None)
    with pytest.raises(hs.errors.BadArgument, match="without its layer"):
        llama.run(tiny.ids(), capture="z")["z"]
    with pytest.raises(hs.errors.BadArgument, match="write run"):
        llama.run(tiny.ids(), capture="z")["z", 0, 1]
    pushed = hs.add("0.1", [1.0] * 8)
    assert pushed == hs.add("0.1", torch.ones(8))


def test_what_is_remembered_is_bounded():
    model, made = tiny.opened("llama"), []

    def make(name):
        return model.cached(name, lambda: made.append(name) or torch.zeros(100))  # 400 bytes

    model.memory_bytes = 8 * 900
    for name in ("a", "b", "a", "c"):  # a is used again: b is the oldest when c comes
        make(name)
    assert made == ["a", "b", "c"]
    make("a")
    make("b")
    assert made == ["a", "b", "c", "b"]


def test_means_of_all_layers_take_one_run_of_the_reference():
    model, ids = tiny.opened("gpt2"), tiny.ids(2, 6).tolist()
    reference, runs = hs.Prompts(tuple(map(tuple, ids))), []
    handle = model.hf.register_forward_pre_hook(lambda *_: runs.append(1))
    body = model.hf.transformer.register_forward_pre_hook(lambda *_: runs.append(1))
    for head in model.heads:
        hs.mean(head, over=reference).prepare(model, reference)
    handle.remove()
    body.remove()
    assert len(runs) == 1
