"""Reading and editing any head must agree with plain transformers, on every served family, in every layer."""

import copy

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from tests import tiny

families = pytest.mark.parametrize("family", sorted(tiny.FAMILIES))


def projection_of(hf, layer):
    """The output projection, by the names that the families use (a test may know them; the code must not)."""
    names = ("attn.c_proj", "self_attn.o_proj", "attention.dense")
    inside = {**dict(hf.base_model.named_modules())}
    prefixes = (f"h.{layer}.", f"layers.{layer}.")
    return next(inside[p + n] for p in prefixes for n in names if p + n in inside)


def zeroed_columns(hf, layer, head, head_dim):
    """A copy of the model whose head writes nothing: its rows or columns of W_O are zero."""
    changed = copy.deepcopy(hf)
    weight = projection_of(changed, layer).weight
    part = slice(head * head_dim, (head + 1) * head_dim)
    with torch.no_grad():
        if type(projection_of(changed, layer)).__name__ == "Conv1D":
            weight[part] = 0
        else:
            weight[:, part] = 0
    return changed


@families
def test_untouched_logits_are_bit_identical(family):
    hf = tiny.build(family)
    ids = tiny.ids()
    with torch.no_grad():
        plain = hf(ids, use_cache=False).logits
    model = hs.load(hf)
    assert torch.equal(model.run(ids).logits, plain)
    captured = model.run(ids, capture=["pattern", "z", "q", "k", "v", "resid_pre", "resid_post", "attn_out"])
    assert torch.equal(captured.logits, plain)
    with torch.no_grad():
        assert torch.equal(hf(ids, use_cache=False).logits, plain)


@families
def test_patterns_equal_eager_attentions_in_every_layer(family):
    ids = tiny.ids()
    with torch.no_grad():
        eager = tiny.build(family, attention="eager")(ids, output_attentions=True, use_cache=False)
    model = tiny.opened(family)
    assert model.config._attn_implementation != "eager" or family == "gemma2"
    run = model.run(ids, capture="pattern")
    assert len(eager.attentions) == model.n_layers
    for layer, expected in enumerate(eager.attentions):
        assert_close(run["pattern", layer], expected, atol=2e-6, rtol=1e-5)


@families
def test_a_zeroed_head_equals_zeroed_columns_of_the_projection(family):
    model, ids = tiny.opened(family), tiny.ids()
    base = model.run(ids).logits
    for head in model.heads:
        cut = model.run(ids, interventions=hs.zero(head)).logits
        with torch.no_grad():
            expected = zeroed_columns(model.hf, head.layer, head.index, 8)(ids, use_cache=False).logits
        assert_close(cut, expected, atol=2e-5, rtol=1e-5)
        assert (cut - base).abs().max() > 1e-4


@families
def test_heads_sum_to_the_projection_and_the_stream_closes(family):
    model, ids = tiny.opened(family), tiny.ids()
    sites = ["head_out", "attn_out", "mlp_out", "resid_pre", "resid_post", "embed"]
    run = model.run(ids, capture=sites)
    assert_close(run["embed"], run["resid_pre", 0], atol=0, rtol=0)
    for layer in range(model.n_layers):
        total = run["resid_pre", layer] + run["attn_out", layer] + run["mlp_out", layer]
        assert_close(run["resid_post", layer], total, atol=1e-5, rtol=1e-5)
        if layer:
            assert torch.equal(run["resid_pre", layer], run["resid_post", layer - 1])
        if family != "gemma2":  # there a norm stands between the projection and the stream
            bias = projection_of(model.hf, layer).bias
            heads = run["head_out", layer].sum(2) + (0 if bias is None else bias)
            assert_close(heads, run["attn_out", layer], atol=1e-5, rtol=1e-5)


@families
def test_to_bos_equals_a_pattern_edited_by_hand(family):
    # The hand edit goes through the eager model: its pattern rows are replaced and multiplied by its values.
    model, ids, head, rows = tiny.opened(family), tiny.ids(), hs.Head(1, 2), [5, 9]
    plain = model.run(ids, capture=["pattern", "v", "z"])
    pattern = plain["pattern", 1].clone()
    pattern[:, 2, rows] = 0
    pattern[:, 2, rows, 0] = 1
    values = plain["v", 1].transpose(1, 2)
    values = values.repeat_interleave(model.anatomy.layers[1].heads // values.shape[1], dim=1)
    by_hand = (pattern @ values).transpose(1, 2)
    cut = model.run(ids, interventions=hs.to_bos(head, positions=rows, beyond_window=True), capture=["pattern", "z"])
    assert_close(cut["z", 1], by_hand, atol=1e-5, rtol=1e-5)
    assert_close(cut["pattern", 1], pattern, atol=1e-6, rtol=1e-5)
    others = [index for index in range(12) if index not in rows]
    assert torch.equal(cut["z", 1][:, others], plain["z", 1][:, others])
    assert (cut.logits - plain.logits)[:, rows].abs().max() > 1e-4
    assert torch.equal(cut.logits[:, :5], plain.logits[:, :5])


@families
def test_generation_with_a_cut_head_equals_the_model_without_it(family):
    model, ids, head = tiny.opened(family), tiny.ids(3, 9), hs.Head(1, 1)
    options = {"max_new_tokens": 12, "min_new_tokens": 12}
    cut = model.generate(ids, interventions=hs.zero(head), **options)
    without = hs.load(zeroed_columns(model.hf, 1, 1, 8))
    assert cut.tokens == without.generate(ids, **options).tokens
    assert cut.tokens != model.generate(ids, **options).tokens


@families
def test_prompts_of_unequal_length_change_nothing(family):
    model = tiny.opened(family)
    long, short = tiny.ids(1, 12)[0].tolist(), tiny.ids(1, 7, seed=3)[0].tolist()
    edits = [hs.zero("1.1", positions=-1), hs.to_bos("0.2", positions=[4])]
    both = model.run([long, short], capture=["pattern", "resid_post"], interventions=edits)
    alone = model.run([short], capture=["pattern", "resid_post"], interventions=edits)
    assert_close(both.logits[1, :7], alone.logits[0], atol=1e-5, rtol=1e-5)
    assert_close(both["pattern", 1][1, :, :7, :7], alone["pattern", 1][0], atol=1e-6, rtol=1e-5)
    assert both.logits[1, 7:].isnan().all()
    assert both["pattern", 1][1, :, 7:].isnan().all()
    together = model.generate([long, short], max_new_tokens=8, interventions=edits)
    for row, prompt in enumerate((long, short)):
        assert together.tokens[row] == model.generate([prompt], max_new_tokens=8, interventions=edits).tokens[0]


@families
def test_cached_generation_equals_recomputation_under_interventions(family):
    # Cut everywhere, redirect one row beyond the prompt, and add a vector at the prompt's last token.
    model, ids = tiny.opened(family), tiny.ids(2, 8)
    push = torch.linspace(-1, 1, 32)
    edits = [hs.zero("0.3"), hs.add(("resid_pre", 2), push, positions=[7])]
    if family not in ("mistral", "gemma2"):
        edits.append(hs.to_bos("1.0", positions=[9, 10]))
    cached = model.generate(ids, max_new_tokens=6, min_new_tokens=6, interventions=edits)
    grown = torch.cat([ids, torch.tensor(cached.tokens)], dim=1)
    # The end token, 95, is the last of the vocabulary and forbidden before min_new_tokens.
    again = model.run(grown, interventions=edits).logits[..., :95].argmax(-1)
    assert torch.equal(again[:, 7:-1], grown[:, 8:])
    uncached = model.generate(ids, max_new_tokens=6, min_new_tokens=6, interventions=edits, use_cache=False)
    assert uncached.tokens == cached.tokens


def test_generation_follows_no_configuration_that_nobody_named():
    model, ids = tiny.opened("gpt2"), tiny.ids(1, 8)
    plain = model.generate(ids, max_new_tokens=6)
    model.hf.generation_config.repetition_penalty = 5.0
    model.hf.generation_config.forced_eos_token_id = 7
    model.hf.generation_config.num_beams = 3
    assert model.generate(ids, max_new_tokens=6) == plain
    with pytest.raises(hs.errors.BadArgument, match="num_beams=2"):
        model.generate(ids, num_beams=2)
    with pytest.raises(hs.errors.PromptError, match="Ask for at most 56"):
        model.generate(ids, max_new_tokens=57)


def test_a_dropped_first_token_is_refused_in_windowed_generation():
    model = tiny.opened("mistral")
    with pytest.raises(hs.errors.UnservedSite, match="has dropped it"):
        model.generate(tiny.ids(1, 8), max_new_tokens=4, interventions=hs.to_bos("1.0", beyond_window=True))


@families
def test_patching_every_stream_site_restores_the_source(family):
    model, clean, corrupted = tiny.opened(family), tiny.ids(2, 10), tiny.ids(2, 10, seed=7)
    target = model.run(clean).logits
    assert (model.run(corrupted).logits - target).abs().max() > 0.1
    for site, layer in (("resid_pre", 0), ("resid_pre", 2), ("resid_post", 1)):
        source = model.run(clean, capture=site)
        patched = model.run(corrupted, interventions=hs.patch((site, layer), source=source))
        assert_close(patched.logits, target, atol=1e-5, rtol=1e-5)
    lazily = model.run(corrupted, interventions=hs.patch(("resid_pre", 2), source=clean)).logits
    assert_close(lazily, target, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox_sequential"])
def test_the_stream_between_attention_and_mlp_is_written_for_both_paths(family):
    model, ids = tiny.opened(family), tiny.ids()
    push = torch.linspace(-2, 2, 32)
    plain = model.run(ids, capture=["resid_mid", "mlp_out", "resid_post"])
    moved = model.run(
        ids, interventions=hs.add(("resid_mid", 1), push), capture=["resid_mid", "mlp_out", "resid_post"]
    )
    assert_close(moved["resid_mid", 1], plain["resid_mid", 1] + push, atol=1e-5, rtol=1e-5)
    assert_close(moved["resid_post", 1], moved["resid_mid", 1] + moved["mlp_out", 1], atol=1e-5, rtol=1e-5)
    assert (moved["mlp_out", 1] - plain["mlp_out", 1]).abs().max() > 1e-3


def test_parallel_blocks_have_no_stream_in_between():
    with pytest.raises(hs.errors.UnservedSite, match="no residual stream between"):
        tiny.opened("gpt_neox").run(tiny.ids(), capture=("resid_mid", 1))


def test_captures_are_named_in_every_form():
    model, ids = tiny.opened("llama"), tiny.ids()
    assert model.run(ids, capture="z").layers("z") == [0, 1, 2]
    assert model.run(ids, capture=("z", 1)).layers("z") == [1]
    assert model.run(ids, capture=("z", range(1, 3))).layers("z") == [1, 2]
    both = model.run(ids, capture=["q", ("v", 0), ("k", [0, 2])])
    assert [both.layers(site) for site in "qkv"] == [[0, 1, 2], [0, 2], [0]]
    assert model.run(ids, capture=("q", "k")).layers("k") == [0, 1, 2]
    with pytest.raises(hs.errors.BadArgument, match="cannot capture 3"):
        model.run(ids, capture=[3])
    with pytest.raises(hs.errors.UnservedSite, match=r"captured z; ask with capture=\['pattern'\]"):
        model.run(ids, capture="z")["pattern", 0]
