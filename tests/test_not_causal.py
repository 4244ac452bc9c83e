"""What is no causal language model: encoder-decoders are refused, encoders keep what predicts no next token."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5ForConditionalGeneration,
)

import headscope as hs
from headscope.errors import UnservedModel, UnservedSite
from tests import tiny

SMALL = {"vocab_size": 96, "max_position_embeddings": 64}


def bart():
    sizes = {f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 48))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return BartForConditionalGeneration(BartConfig(**SMALL, d_model=32, **sizes, **heads)).eval()


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4))


def bert(**more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SMALL, **sizes, **more)).eval()


@pytest.mark.parametrize("make", [bart, t5])
@pytest.mark.parametrize("saved", [False, True], ids=["object", "folder"])
def test_encoder_decoders_are_refused_in_our_words(make, saved, tmp_path):
    hf = make()
    if saved:
        hf.save_pretrained(tmp_path)
    with pytest.raises(UnservedModel, match=r"encoder-decoder model, .* Open a decoder-only model\.$"):
        hs.load(tmp_path if saved else hf)


def test_a_folder_without_a_language_model_is_refused_in_our_words(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    CLIPTextModel(CLIPTextConfig(**SMALL, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UnservedModel, match="has no causal language model of its type"):
        hs.load(tmp_path)


def test_what_rests_on_the_next_token_is_refused_where_it_has_been_seen():
    model = hs.load(bert())
    (causal,) = [check for check in model.certificate.checks if check.name == "is_causal"]
    assert causal.passed is False
    ids, zeroed = tiny.ids(), hs.grid(hs.zero("0.1"))
    for measure in (hs.measures.loss(), hs.measures.loss(3), hs.measures.next_logit()):
        with pytest.raises(
            UnservedSite, match=r"cannot serve next-token loss .* is_causal fails .*depends on later ones"
        ):
            hs.sweep(model, ids, zeroed, measure)
    answered = hs.Prompts.of(ids)
    answered = hs.Prompts(answered.tokens, answers=(5, 6), foils=(7, 8)).answered()
    with pytest.raises(UnservedSite, match="next-token loss"):
        hs.sweep(model, answered, zeroed, hs.measures.joint_probability())
    with pytest.raises(UnservedSite, match="cannot serve generation"):
        model.generate(ids, interventions=hs.zero("0.1"))
    # What looks at heads, or at logits as they are, works as before.
    assert model.run(ids, capture=["z", "pattern"], interventions=hs.zero("0.1")).logits.isfinite().all()
    kept = hs.Prompts(hs.Prompts.of(ids).tokens, answers=(5, 6), foils=(7, 8))
    assert len(hs.sweep(model, kept, zeroed, hs.measures.logit_difference()))


@pytest.mark.parametrize("name", [*tiny.FAMILIES])
def test_causal_models_are_told_to_be(name):
    (causal,) = [check for check in tiny.opened(name).certificate.checks if check.name == "is_causal"]
    assert causal.passed is True
