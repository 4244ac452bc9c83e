"""Per-head weights: read from any architecture, they must do what the model does."""

import pytest
import torch
from torch.testing import assert_close

import headscope as hs
from tests import planted, tiny
from tests.families.configs import build

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


def test_norms_of_queries_and_keys_are_refused():
    with pytest.raises(hs.errors.UnservedModel, match="queries are no linear map"):
        hs.load(build("qwen3")).head_weights(1)
