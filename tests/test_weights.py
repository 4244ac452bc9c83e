"""Per-head weights: read from any architecture, they must do what the model does."""

import json

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from headscope.errors import UnservedModel
from tests import planted, tiny
from tests.families.configs import build
from tests.test_command import run as command

families = pytest.mark.parametrize("family", sorted(tiny.FAMILIES))


@families
def test_weights_reproduce_queries_values_and_head_outputs(family):
    # At position 0 rotary turns by nothing: q and v of a real run there must come out of the matrices.
    model = tiny.opened(family)
    run = model.run(tiny.ids(3, 4), capture=["q", "k", "v", "resid_pre", "z", "head_out"])
    for layer in range(model.n_layers):
        weights = model.head_weights(layer, fold_norm=False)
        norm = model.anatomy.layers[layer].input_norm
        assert norm is not None
        with torch.no_grad():
            normed = norm(run["resid_pre", layer][:, 0])
        for site, matrix, bias in (("q", weights.w_q, weights.b_q), ("k", weights.w_k, weights.b_k)):
            made = torch.einsum("bm,hmd->bhd", normed, matrix) + bias
            assert_close(run[site, layer][:, 0], made, atol=1e-4, rtol=1e-4)
        values = run["v", layer]
        every = torch.einsum("bpm,hmd->bphd", norm(run["resid_pre", layer]).detach(), weights.w_v) + weights.b_v
        assert_close(values, every, atol=1e-4, rtol=1e-4)
        assert_close(
            run["head_out", layer], torch.einsum("bphd,hdm->bphm", run["z", layer], weights.w_o), atol=1e-5, rtol=1e-5
        )


@families
def test_a_folded_norm_acts_on_the_scaled_stream(family):
    model = tiny.opened(family)
    stream = model.run(tiny.ids(2, 3), capture=("resid_pre", 1))["resid_pre", 1][:, 0]
    plain, folded = (model.head_weights(1, fold_norm=fold) for fold in (False, True))
    with torch.no_grad():
        normed = model.anatomy.layers[1].input_norm(stream)
    scaled = stream - stream.mean(-1, keepdim=True) if folded.centred else stream
    scaled = scaled / scaled.pow(2).mean(-1, keepdim=True).sqrt()
    expected = torch.einsum("bm,hmd->bhd", normed, plain.w_v) + plain.b_v
    assert_close(torch.einsum("bm,hmd->bhd", scaled, folded.w_v) + folded.b_v, expected, atol=1e-3, rtol=1e-3)


def test_ov_and_qk_by_hand():
    model = planted.induction_circuit()
    weights = model.head_weights(0)
    assert not weights.folded
    token, place, before = 0, planted.VOCAB, planted.VOCAB + planted.PLACES
    ov = weights.ov(0)
    assert_close(ov[token : token + 5, before : before + 5], torch.eye(5))
    qk = weights.qk(0)
    assert qk[place + 3, place + 2] > 100
    assert qk[place + 2, place + 3] == 0


def test_norms_of_queries_and_keys_withhold_these_two_alone():
    model = hs.load(build("qwen3"))
    weights = model.head_weights(1, fold_norm=False)
    for name in ("w_q", "b_q", "w_k", "b_k"):
        with pytest.raises(
            UnservedModel, match=rf"cannot give {name.upper().replace('B', 'W')} .* W_V, W_O can be had"
        ):
            getattr(weights, name)
    with pytest.raises(UnservedModel, match="queries are no linear map"):
        weights.qk(0)
    assert set(weights.withheld) == {"W_Q", "W_K"}
    run = model.run(tiny.ids(), capture=["v", "resid_pre", "z", "head_out"])
    with torch.no_grad():
        normed = model.anatomy.layers[1].input_norm(run["resid_pre", 1])
    values = torch.einsum("bpm,hmd->bphd", normed, weights.w_v) + weights.b_v
    assert_close(run["v", 1], values, atol=1e-4, rtol=1e-4)
    assert_close(run["head_out", 1], torch.einsum("bphd,hdm->bphm", run["z", 1], weights.w_o), atol=1e-5, rtol=1e-5)
    # The pattern of a single token is 1: what it writes is its value through W_V W_O.
    first = run["head_out", 1][:, 0, 0] - weights.b_v[0] @ weights.w_o[0]
    assert_close(first, normed[:, 0] @ weights.ov(0), atol=1e-4, rtol=1e-4)


def test_factors_that_cannot_be_told_apart_withhold_these_two_alone():
    model = hs.load(build("gpt_neo"))
    weights = model.head_weights(1)
    assert set(weights.withheld) == {"W_Q", "W_K"}
    with pytest.raises(UnservedModel, match="writes attention out"):
        weights.qk(0)
    assert weights.ov(0).shape == (model.d_model, model.d_model)


def test_weights_are_given_in_half_precision_too():
    model = hs.load(tiny.build("llama").to(torch.bfloat16))
    assert model.head_weights(1).withheld == {}


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("qwen3", {"W_Q", "W_K"}),
        ("gemma3_text", {"W_Q", "W_K", "the OV matrix"}),
        ("gemma2", {"the OV matrix"}),
        ("llama", set()),
    ],
)
def test_check_lists_what_is_withheld_instead_of_saying_that_all_is_served(kind, refused, monkeypatch):
    monkeypatch.setattr("headscope.cli.check.opened", lambda *_: hs.load(build(kind, attention="eager")))
    shown = command("check", "it").stdout
    told = {refusal["site"] for refusal in json.loads(command("check", "it", "--json").stdout)["refused"]}
    assert told == refused
    assert ("Everything that this model has is served." in shown) == (not refused)
    assert all(f"Refused: {name} in layers" in shown for name in refused)


@pytest.mark.parametrize(("kind", "apart"), [("gemma2", True), ("olmo2", True), ("llama", False)])
def test_heads_that_do_not_sum_to_what_attention_adds_are_said_to(kind, apart):
    model = hs.load(build(kind, attention="eager"))
    run = model.run(tiny.ids(), capture=[("head_out", 1), ("attn_out", 1)])
    total = run["head_out", 1].sum(2) + model.head_bias(1)
    assert torch.allclose(total, run["attn_out", 1], atol=1e-5) == (not apart)
    (check,) = [check for check in model.certificate.checks if check.name == "heads_sum"]
    assert check.passed
    assert ("heads do not sum to attn_out" in check.detail) == apart
