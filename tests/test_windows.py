"""Layers with a sliding window: what lies outside of it is no key, whoever sends a query there."""

import math

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface

import headscope as hs
from headscope.detectors.copying import copying
from headscope.detectors.detect import DetectorPrompts
from headscope.detectors.key_attention import key_attention
from headscope.detectors.pairs import first_token, lookback, prefix_matching
from headscope.interventions import freeze_pattern, from_json, to_json
from tests import tiny

LENGTH, WINDOW = 12, 5  # of mistral in all layers, of gemma2 in layer 0


def even() -> torch.Tensor:
    """Every query attends to all keys up to its own alike."""
    ones = torch.ones(LENGTH, LENGTH).tril()
    return ones / ones.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_a_pattern_written_out_stays_within_the_window(name):
    model, ids = tiny.opened(name), tiny.ids(2, LENGTH)
    edit = hs.set_pattern("0.1", even())
    for refused in (edit, hs.set_pattern("0.1", even(), strength=0.5), hs.set_pattern(0, even(), positions=[-1, 5])):
        with pytest.raises(
            hs.errors.UnservedSite, match=r"set_pattern in layer 0 at position 5: .* position 0, which"
        ):
            model.run(ids, interventions=refused)
    seen = model.run(ids, interventions=hs.set_pattern("0.1", even(), positions=range(5)), capture="pattern")
    assert torch.allclose(seen["pattern", 0][0, 1, :5], even()[:5])
    asked = hs.set_pattern("0.1", even(), beyond_window=True)
    assert torch.allclose(model.run(ids, interventions=asked, capture="pattern")["pattern", 0][0, 1], even())
    assert str(asked) == "set_pattern 0.1 beyond its window"
    assert from_json(to_json(asked)) == (asked,) != (edit,)
    if name == "gemma2":
        model.run(ids, interventions=hs.set_pattern(1, even()))  # no window in layer 1


def test_a_pattern_from_another_run_stays_within_the_window():
    model, ids = tiny.opened("mistral"), tiny.ids(2, LENGTH)
    bos = hs.to_bos("0.1", beyond_window=True)
    source = model.run(ids, interventions=bos, capture="pattern")
    with pytest.raises(hs.errors.UnservedSite, match=r"cannot patch in layer 0 at position 5: .* position 0, which"):
        model.run(ids, interventions=hs.patch(("pattern", 0), source=source))
    asked = hs.patch(("pattern", 0), source=source, beyond_window=True)
    assert str(asked) == "patch pattern[0] beyond its window"
    put = model.run(ids, interventions=asked, capture="pattern")
    assert torch.equal(put["pattern", 0][:, 1, :, 0], torch.ones(2, LENGTH))
    model.run(ids, interventions=hs.patch(("pattern", 0), source=tiny.ids(2, LENGTH) + 1))
    # A pattern that is frozen under interventions goes where these were asked to let it go.
    model.run(ids, interventions=freeze_pattern("0.1", under=bos))


def windows_beside(module, query, key, value, mask, *, scaling, sliding_window=None, **_):
    """What a flash kernel does: windows come beside the call, the mask says at most which keys are tokens."""
    between = torch.arange(query.shape[2])[:, None] - torch.arange(key.shape[2]) + key.shape[2] - query.shape[2]
    seen = (between >= 0) & (between < (sliding_window or 10**9))
    if mask is not None:
        seen = seen & mask[:, None, None].bool()
    key, value = (each.repeat_interleave(module.num_key_value_groups, 1) for each in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def test_a_window_is_seen_where_the_kernel_gets_no_mask():
    AttentionInterface.register("windows_beside", windows_beside)
    AttentionMaskInterface.register("windows_beside", lambda *args, attention_mask=None, **more: attention_mask)
    hf = tiny.build("mistral")
    ids = tiny.ids(2, LENGTH)
    model = hs.load(hf)
    expected = model.run(ids, interventions=hs.to_bos("0.1", positions=range(5))).logits
    hf.set_attn_implementation("windows_beside")
    assert torch.allclose(
        model.run(ids, interventions=hs.to_bos("0.1", positions=range(5))).logits, expected, atol=1e-5
    )
    for edit in (hs.to_bos("0.1"), hs.fixed_offset("0.1", WINDOW)):
        with pytest.raises(hs.errors.UnservedSite, match="at position 5: a query there does not see position 0"):
            model.run(ids, interventions=edit)
        with pytest.raises(hs.errors.UnservedSite, match="does not see position 0"):
            model.generate([[3, 4], *ids[:1].tolist()], max_new_tokens=2, interventions=edit)
    model.run(ids, interventions=hs.to_bos("0.1", beyond_window=True))


def test_what_a_head_copies_is_asked_of_keys_that_its_layer_sees():
    # Copies follow 7 later: layers 0 and 2 of gemma2, whose windows hold 5, see none of the keys.
    model = tiny.opened("gemma2")
    repeated = hs.tasks.repeated_tokens(model, length=7, repeats=2, n=16)
    raised = copying(model, repeated, prefix_matching(repeated))
    assert raised.coordinates("layer") == (1,)
    assert len(raised.units) == 16
    near = hs.tasks.repeated_tokens(model, length=4, repeats=2, n=16)
    assert copying(model, near, prefix_matching(near)).coordinates("layer") == (0, 1, 2)
    null = hs.tasks.without_repeats(model, repeated)
    rows = hs.detect(model, "induction", prompts=DetectorPrompts(null, repeated, null)).rows()
    for row in rows:
        assert math.isnan(row["copying"]) == (row["layer"] != 1)
        assert ("for 100% of queries all keys lie outside the window" in row["reason"]) == (row["layer"] != 1)
        assert row["kind"] == "" or row["layer"] == 1


def test_attention_on_keys_says_what_it_leaves_out():
    model, shown = tiny.opened("gemma2"), hs.Prompts.of(tiny.ids(6, LENGTH))
    found = key_attention(model, first_token, shown)
    assert found.left_out == "in layers 0, 2 all keys of up to 64% of queries lie outside the window"
    with pytest.raises(
        hs.errors.PromptError, match="in every layer; in layers 0, 2 all keys of up to 100% of queries"
    ):
        key_attention(model, lambda prompts: lookback(prompts, 6), shown)
    mixed = hs.Prompts.of([list(range(3, 9))] * 2 + [[3, 4]])
    some = key_attention(tiny.opened("llama"), lambda prompts: lookback(prompts, 3), mixed)
    assert some.left_out == "2 of 3 prompts have a query to judge in every layer"
    assert key_attention(tiny.opened("llama"), first_token, shown).left_out == ""
