"""Opening models from every kind of place, and the one sentence with which each bad one is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedTokenizerFast, XLMConfig

import headscope as hs
from headscope.models import sources
from tests import tiny


def word_tokenizer():
    words = {f"w{index}": index for index in range(tiny.VOCAB)}
    words["<s>"] = words.pop("w0")
    backend = Tokenizer(models.WordLevel(words, unk_token="w95"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny.build("llama").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def refused(error, words, source, **options):
    with pytest.raises(error, match=words) as caught:
        hs.load(source, **options)
    message = str(caught.value)
    assert message.count("\n") == 0
    assert message.endswith(".") or message.endswith(")")


def test_a_local_folder_opens_with_its_tokenizer(folder):
    model = hs.load(folder)
    assert (model.n_layers, len(model.heads), model.bos_token_id) == (3, 12, 0)
    assert model.dtype == torch.float32
    assert torch.equal(model.run(tiny.ids()).logits, tiny.opened("llama").run(tiny.ids()).logits)
    prompts = hs.tasks.text(model, ["w5 w6 w7", "w8"])
    assert prompts.tokens == ((5, 6, 7), (8,))  # its tokenizer puts nothing in front


def test_a_model_object_opens_as_it_is():
    hf = tiny.build("gpt2").train()
    model = hs.load(hf, tokenizer=word_tokenizer())
    assert model.hf is hf
    assert not hf.training
    assert model.tokenizer.bos_token_id == 0


def test_identity_follows_the_weights(folder):
    one, other = hs.load(folder), tiny.opened("llama", seed=1)
    assert one.identity == hs.load(folder).identity
    assert one.identity != other.identity


def test_a_hub_id_passes_its_revision_on(monkeypatch, folder):
    asked = []
    real = sources.AutoModelForCausalLM.from_pretrained

    def stands_for_the_hub(name, **options):
        asked.append((name, options["revision"], options["use_safetensors"], options["trust_remote_code"]))
        return real(folder, dtype=options["dtype"], output_loading_info=True)

    real_config = sources.AutoConfig.from_pretrained
    monkeypatch.setattr(sources.AutoConfig, "from_pretrained", lambda name, **k: real_config(folder, **k))
    monkeypatch.setattr(sources.AutoModelForCausalLM, "from_pretrained", stands_for_the_hub)
    monkeypatch.setattr(sources.AutoTokenizer, "from_pretrained", lambda *a, **k: word_tokenizer())
    model = hs.load("someone/some-model", revision="step1000")
    assert asked == [("someone/some-model", "step1000", True, False)]
    assert model.name == "someone/some-model"


def test_a_zoo_model_that_does_not_exist():
    refused(hs.errors.UnknownName, "did you mean 'induction-2l'", "zoo:induction-2")


def test_a_model_that_is_nowhere(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(hs.errors.ModelNotFound, "cannot find a model 'no/such-model'", "no/such-model")


def test_a_folder_without_a_model(tmp_path):
    refused(hs.errors.ModelNotFound, "no config.json", tmp_path)


def test_pickle_weights(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    refused(hs.errors.UnsafeWeights, "pickle files .pytorch_model.bin.", tmp_path)


def test_missing_weights(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    refused(hs.errors.ModelNotFound, "cannot load the weights", tmp_path)


def test_weights_that_are_not_numbers(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(hs.errors.BrokenWeights, "'model.norm.weight' holds values", tmp_path)


def test_truncated_weights(folder, tmp_path):
    for file in folder.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:5000] if file.suffix == ".safetensors" else content)
    refused(hs.errors.ModelNotFound, "cannot load the weights", tmp_path)


def test_weights_that_do_not_cover_the_model(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    refused(hs.errors.BrokenWeights, "have no weights for 'model.layers.1.self_attn.q_proj.weight'", tmp_path)


def test_a_model_without_attention():
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    refused(hs.errors.UnservedModel, "it has no attention", AutoModelForCausalLM.from_config(config))


def test_a_model_whose_layers_are_no_list():
    config = XLMConfig(vocab_size=32, emb_dim=16, n_layers=1, n_heads=2)
    refused(hs.errors.UnservedModel, "cannot find the decoder layers", AutoModelForCausalLM.from_config(config))


def test_what_is_no_language_model():
    refused(hs.errors.UnservedModel, "no causal language model", torch.nn.Linear(2, 2))
    refused(hs.errors.UnservedModel, "no causal language model", tiny.build("gpt2").transformer)


def test_code_of_the_models_author_is_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text("raise SystemExit('their code ran')")
    refused(hs.errors.UnservedModel, "trust_remote_code=True", tmp_path)


def test_devices_and_dtypes_are_checked(folder):
    refused(hs.errors.BadArgument, "write cpu, cuda", folder, device="gpu")
    refused(hs.errors.BadArgument, "write auto, float32", folder, dtype="float8")


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "empty prompts"),
        ([[1], []], "empty prompts"),
        ([[1, 96]], "token 96: its vocabulary has 96"),
        ([[1, -1]], "token -1"),
        ([[1] * 65], "65 tokens: its context holds 64"),
    ],
)
def test_bad_prompts(folder, prompts, words):
    with pytest.raises(hs.errors.PromptError, match=words):
        hs.load(folder).run(prompts)


def test_text_in_place_of_ids(folder):
    with pytest.raises(hs.errors.BadArgument, match=r"text through hs\.tasks\.text"):
        hs.load(folder).run("some text")
    with pytest.raises(hs.errors.PromptError, match="without a tokenizer"):
        hs.tasks.text(tiny.opened("llama"), "some text")
