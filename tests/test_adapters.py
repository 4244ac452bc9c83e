"""Adapters open, in memory and from a folder, and what is served is right beside the merged model."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

import headscope as hs
from headscope.errors import BrokenWeights, ModelNotFound, UnsafeWeights, UnservedModel
from headscope.models import adapters
from tests import tiny
from tests.test_loading import refused, word_tokenizer

peft = pytest.importorskip("peft", reason="needs the package peft")

# What peft says of transformers, and of norms that it may adapt.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
LORA = peft.LoraConfig(r=4, lora_alpha=8, target_modules=[*PROJECTIONS, *MLP], task_type="CAUSAL_LM")
KINDS = {
    "lora": LORA,
    "dora": peft.LoraConfig(r=4, target_modules=PROJECTIONS, use_dora=True),
    "ia3": peft.IA3Config(target_modules=["k_proj", "v_proj", "o_proj"], feedforward_modules=["o_proj"]),
    "loha": peft.LoHaConfig(r=4, target_modules=PROJECTIONS),
    "ends": peft.LoraConfig(r=4, target_modules=[*PROJECTIONS, "lm_head", "embed_tokens"]),
    "ends kept whole": peft.LoraConfig(r=4, target_modules=PROJECTIONS, modules_to_save=["lm_head", "embed_tokens"]),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
}


def drawn(model, *, seed=3):
    """Give what adapters add weights that matter: as they are made, most of them change nothing."""
    generator = torch.Generator().manual_seed(seed)
    marks = ("lora_", "ia3_", "hada_", "modules_to_save", "ln_tuning")
    for name, weight in model.named_parameters():
        if any(mark in name for mark in marks):
            noise = torch.randn(weight.shape, generator=generator)
            weight.data = weight.data * (1 + 0.3 * noise) + 0.2 * noise
    return model.eval()


def adapted(kind="lora", *, seed=3):
    return drawn(peft.get_peft_model(tiny.build("llama"), copy.deepcopy(KINDS[kind])), seed=seed)


def merged(model):
    """The same model with plain weights: what no module of an adapter takes part in."""
    return hs.load(copy.deepcopy(model).merge_and_unload())


def agree(model, plain):
    """Logits, each head zeroed, what heads add and their weights are those of a plain model."""
    ids = tiny.ids()
    assert_close(model.run(ids).logits, plain.run(ids).logits, atol=1e-4, rtol=1e-5)
    for head in model.heads:
        got, expected = (each.run(ids, interventions=hs.zero(head)).logits for each in (model, plain))
        assert_close(got, expected, atol=1e-4, rtol=1e-5)
    run, beside = (each.run(ids, capture=["head_out", "attn_out", "pattern"]) for each in (model, plain))
    for layer in range(model.n_layers):
        assert_close(run["head_out", layer].sum(2), run["attn_out", layer], atol=1e-5, rtol=1e-5)
        assert_close(run["pattern", layer], beside["pattern", layer], atol=1e-4, rtol=1e-5)
        weights, known = model.head_weights(layer), plain.head_weights(layer)
        for name in ("w_q", "w_k", "w_v", "w_o"):
            assert_close(getattr(weights, name), getattr(known, name), atol=1e-5, rtol=1e-5)
    assert_close(model.unembedding_matrix(), plain.unembedding_matrix(), atol=1e-5, rtol=1e-5)
    assert model.certificate.passed


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_served_as_its_merged_weights_are(kind):
    wrapped = adapted(kind)
    agree(hs.load(wrapped), merged(wrapped))


def test_adapters_of_fused_and_transposed_projections():
    config = peft.LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    wrapped = drawn(peft.get_peft_model(tiny.build("gpt2"), config))
    model, plain = hs.load(wrapped), merged(wrapped)
    for head in model.heads:
        got, expected = (each.run(tiny.ids(), interventions=hs.zero(head)).logits for each in (model, plain))
        assert_close(got, expected, atol=1e-4, rtol=1e-5)
    assert_close(model.output_matrix(1), plain.output_matrix(1), atol=1e-5, rtol=1e-5)


def test_adapters_that_transformers_adds_itself():
    model = tiny.opened("llama")
    before = model.identity
    model.hf.add_adapter(copy.deepcopy(LORA), "one")  # after opening
    drawn(model.hf)
    fresh = hs.load(copy.deepcopy(model.hf))
    assert torch.equal(model.run(tiny.ids()).logits, fresh.run(tiny.ids()).logits)
    reference = adapted()
    assert_close(model.run(tiny.ids()).logits, merged(reference).run(tiny.ids()).logits, atol=1e-4, rtol=1e-5)
    assert model.identity == fresh.identity != before


def strengthened(wrapped):
    for module in wrapped.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 0.5)


SWITCHED = {
    "another": lambda wrapped: wrapped.set_adapter("other"),
    "both": lambda wrapped: wrapped.base_model.set_adapter(["default", "other"]),
    "off": lambda wrapped: wrapped.base_model.disable_adapter_layers(),
    "weaker": strengthened,
    "merged": lambda wrapped: wrapped.merge_adapter(["other"]),
}


@pytest.mark.parametrize("switch", SWITCHED)
def test_switching_adapters_is_noticed(switch):
    wrapped = adapted()
    wrapped.add_adapter("other", copy.deepcopy(LORA))
    for name, weight in wrapped.named_parameters():
        if ".other." in name:
            weight.data = 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name)))
    model = hs.load(wrapped)
    before, written = model.identity, model.output_matrix(1)
    kept = model.cached("something", lambda: "of before")
    with torch.no_grad():
        SWITCHED[switch](wrapped)
    assert model.identity != before
    assert kept is not model.cached("something", lambda: "of now")
    assert model.identity == hs.load(wrapped).identity
    assert_close(model.run(tiny.ids()).logits, wrapped(tiny.ids()).logits.detach())
    assert not torch.equal(model.output_matrix(1), written)
    cut = hs.zero("1.2")
    if switch == "merged":
        plain = hs.load(copy.deepcopy(wrapped).unload())
    else:
        plain = tiny.opened("llama") if switch == "off" else merged(wrapped)
    assert_close(*(each.run(tiny.ids(), interventions=cut).logits for each in (model, plain)), atol=1e-3, rtol=1e-4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "base"
    tiny.build("llama").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def saved(base, place, kind="lora", **options):
    hf = AutoModelForCausalLM.from_pretrained(base)
    wrapped = drawn(peft.get_peft_model(hf, copy.deepcopy(KINDS[kind])))
    wrapped.save_pretrained(place, **options)
    return wrapped


@pytest.mark.parametrize("kind", ["lora", "ends kept whole"])
def test_a_folder_opens_with_its_base_and_its_tokenizer(base, tmp_path, kind):
    wrapped = saved(base, tmp_path, kind)
    model = hs.load(tmp_path)
    assert torch.equal(model.run(tiny.ids()).logits, hs.load(wrapped).run(tiny.ids()).logits)
    assert model.tokenizer.bos_token_id == 0
    assert model.name == str(tmp_path)
    assert model.identity != hs.load(base).identity


def test_the_certificate_is_remembered_by_the_files_of_both(base, tmp_path, monkeypatch):
    saved(base, tmp_path)
    first = hs.load(tmp_path).certificate
    monkeypatch.setattr("headscope.models.proofs.Trial", None)
    assert hs.load(tmp_path).certificate == first
    weights = load_file(base / "model.safetensors")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})  # at another time
    with pytest.raises(TypeError):  # it is made anew
        hs.load(tmp_path)


@pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers.:UserWarning")
@pytest.mark.parametrize("kind", ["lora", "ends kept whole"])
def test_embeddings_with_more_tokens_than_the_base(base, tmp_path, kind):
    hf = AutoModelForCausalLM.from_pretrained(base)
    hf.resize_token_embeddings(100, mean_resizing=False)
    wrapped = drawn(peft.get_peft_model(hf, copy.deepcopy(KINDS[kind])))
    wrapped.save_pretrained(tmp_path)
    model = hs.load(tmp_path)
    assert model.vocab_size == 100
    assert torch.equal(model.run([[0, 99]]).logits, hs.load(wrapped).run([[0, 99]]).logits)


PROMPTS = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    "P_TUNING": lambda: peft.PromptEncoderConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_tokens_of_its_own_are_refused(base, tmp_path, kind):
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), PROMPTS[kind]())
    refused(UnservedModel, f"{kind} puts tokens of its own", wrapped)
    wrapped.save_pretrained(tmp_path)
    refused(UnservedModel, f"{kind} puts tokens of its own", tmp_path)


def test_an_adapter_that_acts_outside_the_layers():
    config = peft.LoraConfig(r=4, target_modules=["v_proj"], alora_invocation_tokens=[5, 6], task_type="CAUSAL_LM")
    refused(UnservedModel, "acts outside the layers", drawn(peft.get_peft_model(tiny.build("llama"), config)))


def changed(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: weights.pop(min(weights)), "have no weights for '.*layers.0.mlp.down_proj.lora_A"),
        (lambda weights: weights.update(more=torch.ones(2)), "hold what its base has not"),
        (lambda weights: weights.update({min(weights): torch.ones(2, 2)}), "cannot put the adapter .* size mismatch"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_are_not_those_of_the_adapter(base, tmp_path, change, words):
    saved(base, tmp_path)
    changed(tmp_path, change)
    refused(BrokenWeights, words, tmp_path)


def test_what_an_adapter_folder_lacks(base, tmp_path, monkeypatch):
    saved(base, tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    for name, words in (("nowhere/at-all", "cannot find a model 'nowhere/at-all'"), (None, "names no base model")):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**told, "base_model_name_or_path": name}))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        refused(ModelNotFound, words, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    refused(ModelNotFound, "adapter_config.json is broken", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    with monkeypatch.context() as patched:
        patched.setattr(adapters, "find_spec", lambda name: None)
        refused(UnservedModel, r"Install headscope\[adapters\]", tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    refused(UnsafeWeights, "pickle file .adapter_model.bin.", tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    refused(ModelNotFound, "holds no adapter_model.safetensors", tmp_path)
