"""GGUF files open as the plain model that they were made from; each that cannot is refused by one sentence."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import headscope as hs
from headscope.errors import BrokenWeights, ModelNotFound, UnservedModel
from headscope.models import gguf_file, sources
from tests import tiny
from tests.test_command import run
from tests.test_loading import refused

gguf = pytest.importorskip("gguf", reason="needs the package gguf")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with the package accelerate")

WORDS = [
    "<s>",
    *(f"w{index}" for index in range(1, 40)),
    *"abcdefghijklmnopqrstuvw0123456789",
    *map(str, range(100, 123)),
]


def write(path, hf, *, architecture="llama", words=WORDS, without=(), beside=(), scaled=False):
    """A Llama as llama.cpp keeps one: names of its own, rows of queries and keys in another order."""
    config = hf.config
    file = gguf.GGUFWriter(path, architecture)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(config.vocab_size)
    if scaled:
        file.add_rope_scaling_factor(8.0)
    if words:
        file.add_tokenizer_model("gpt2")
        file.add_token_list(words)
        file.add_token_merges(["w 1", "w 2"])
        file.add_bos_token_id(0)
        file.add_eos_token_id(95)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for place, weight in hf.state_dict().items():
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in place:
                rows = weight.reshape(heads, 2, -1, weight.shape[1])
                weight = rows.transpose(1, 2).reshape(weight.shape)
        name = names.get_name(place, try_suffixes=(".weight",))
        if name not in without:
            file.add_tensor(name, weight.numpy())
    for name, values in beside:
        file.add_tensor(name, values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny.build("llama"))


@pytest.fixture(scope="module")
def model(file):
    return hs.load(file)


def test_it_is_the_model_that_it_was_made_from(model):
    # transformers turns rows of queries and keys back: the reference never went through the file.
    plain = tiny.opened("llama")
    cut = hs.zero("1.2")
    for edits in ((), cut):
        got, expected = (each.run(tiny.ids(), interventions=edits).logits for each in (model, plain))
        assert torch.equal(got, expected)
    assert model.dtype == torch.float32
    assert model.certificate.passed


def test_nothing_of_the_quantisation_is_left(model, tmp_path):
    assert not hasattr(model.config, "quantization_config")
    model.hf.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(tiny.ids()).logits, model.run(tiny.ids()).logits)


def test_its_tokenizer_comes_with_it(model):
    assert model.bos_token_id == 0
    assert hs.tasks.text(model, "cab").tokens == ((42, 40, 41),)  # the file asks for no BOS in front


def test_precision_is_what_was_asked_for(file):
    model = hs.load(file, dtype="bfloat16")
    assert {weight.dtype for weight in model.hf.parameters()} == {torch.bfloat16}


def test_the_certificate_is_remembered_by_the_file(file, model, monkeypatch):
    monkeypatch.setattr("headscope.models.proofs.Trial", None)  # not called a second time
    assert hs.load(file).certificate == model.certificate


def test_every_verb_opens_it_and_nothing_litters(file):
    shown = run("heads", str(file), "--detector", "previous_token", "--n", "16", "--json", "--quiet")
    assert shown.exit_code == 0
    assert "it/s" not in shown.stderr


def test_without_a_tokenizer_token_ids_work(tmp_path):
    model = hs.load(write(tmp_path / "a.gguf", tiny.build("llama"), words=None))
    assert model.tokenizer is None
    assert torch.equal(model.run(tiny.ids()).logits, tiny.opened("llama").run(tiny.ids()).logits)


def test_a_tokenizer_that_cannot_be_built(tmp_path):
    path = write(tmp_path / "a.gguf", tiny.build("llama"), words=[f"word{index}" for index in range(96)])
    refused(UnservedModel, "cannot read the tokenizer in", path)
    assert hs.load(path, tokenizer=object()).n_layers == 3


@pytest.mark.parametrize(
    ("made", "error", "words"),
    [
        ({"architecture": "nosuch"}, UnservedModel, "transformers does not read it .*nosuch"),
        (
            {"without": ["blk.1.attn_q.weight"]},
            BrokenWeights,
            "no weights for 'model.layers.1.self_attn.q_proj.weight'",
        ),
        # Factors of rotary frequencies (Llama 3.1): transformers would pass over them.
        (
            {"beside": [("rope_freqs.weight", np.ones(4, np.float32))]},
            BrokenWeights,
            "for 4 of the numbers in it .rope_freqs.weight.",
        ),
        (
            {"beside": [("blk.0.attn_q.bias", np.ones(32, np.float32))]},
            BrokenWeights,
            "no place .* for 32 of the numbers",
        ),
        ({"scaled": True}, UnservedModel, "scales rotary positions by a factor"),
    ],
    ids=["architecture", "missing", "frequencies", "bias", "scaled"],
)
def test_a_file_that_is_not_read_whole(tmp_path, made, error, words):
    refused(error, words, write(tmp_path / "a.gguf", tiny.build("llama"), **made))


@pytest.mark.parametrize("kept", [0, 100, 3000, 0.5, 0.999])
def test_a_truncated_file(file, tmp_path, kept):
    content = file.read_bytes()
    path = tmp_path / "a.gguf"
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    refused(BrokenWeights, "it is no GGUF file, or not a whole one", path)


def test_what_is_no_gguf_file(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"something else" * 99)
    refused(BrokenWeights, "it is no GGUF file", path)


def test_a_missing_package(file, monkeypatch):
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    refused(UnservedModel, r"Install headscope\[gguf\]", file)


@pytest.mark.parametrize("path", ["/no/such/folder/x.gguf", "./no/such/x.gguf", "~/no/such/x.gguf"])
def test_a_path_of_this_machine_is_not_asked_of_the_hub(path, monkeypatch):
    monkeypatch.setattr(sources, "cached_file", lambda *args, **options: pytest.fail("asked the hub"))
    with pytest.raises(hs.errors.ModelNotFound, match="there is no such file"):
        hs.load(path)


def test_a_file_on_the_hub(file, monkeypatch):
    asked = []

    def stands_for_the_hub(repository, name, revision=None):
        asked.append((repository, name, revision))
        return str(file)

    monkeypatch.setattr(sources, "cached_file", stands_for_the_hub)
    assert hs.load("someone/models/sub/tiny.gguf", revision="v1").n_layers == 3
    assert asked == [("someone/models", "sub/tiny.gguf", "v1")]
    refused(ModelNotFound, "OWNER/REPOSITORY/FILE.gguf", "nowhere.gguf")
