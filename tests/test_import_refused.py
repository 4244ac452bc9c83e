"""What cannot become a model with the same logits is refused by one sentence, and nothing is written or run."""

import math
import os
import pickle

import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

from headscope.architectures.lens import Stated
from headscope.cli.main import build
from headscope.errors import (
    BadArgument,
    BrokenWeights,
    HeadscopeError,
    ModelNotFound,
    UnknownName,
    UnsafeWeights,
    UnservedModel,
)
from headscope.results.imported import import_model
from tests.lens import IDS, LAYERS, MLP, SIZES, imported, reference, rotary_tables, state


def test_what_is_not_known_is_asked_for_in_one_sentence(tmp_path):
    with pytest.raises(BadArgument) as asked:
        imported(tmp_path, state(norm="LNPre", mlp=True))
    sentence = str(asked.value)
    for option in ("--config FILE", "--norm LNPre, RMSPre or none", "--eps", "--positions standard or shortformer"):
        assert option in sentence
    assert "--activation relu, gelu" in sentence
    assert "--context" not in sentence  # W_pos says it
    bare = {name: value for name, value in state(norm="none", positions="none").items() if ".mask" not in name}
    with pytest.raises(BadArgument, match="--positions rotary or none; --context"):
        imported(tmp_path, bare, Stated(norm="none"))
    assert not (tmp_path / "out").exists()
    logits, _ = imported(tmp_path, bare, Stated(norm="none", positions="none", context=20))
    assert_close(
        logits,
        reference(state(norm="none", positions="none"), IDS, norm="none", positions="none"),
        atol=1e-5,
        rtol=1e-5,
    )


def without(name):
    return lambda tensors: tensors.pop(name)


def put(name, *shape):
    return lambda tensors: tensors.update({name: torch.zeros(*shape)})


def banded(tensors):
    tensors["blocks.1.attn.mask"] = tensors["blocks.1.attn.mask"].triu(-2)


def turned(tensors):
    tensors.update({name: value.mT for name, value in tensors.items() if ".W_" in name})


def partly_rotary(tensors):
    del tensors["pos_embed.W_pos"]
    for layer in range(LAYERS):
        tensors.update({f"blocks.{layer}.attn.{n}": t for n, t in rotary_tables("halves", d_head=4).items()})


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            without("blocks.1.ln1.b"),
            BrokenWeights,
            "no tensor 'blocks.1.ln1.b', which a model taken for 2 layers, LN",
        ),
        (without("blocks.1.attn.b_O"), BrokenWeights, "'blocks.1.attn.b_O'"),
        (without("unembed.W_U"), BrokenWeights, "'unembed.W_U'"),
        (without("embed.W_E"), ModelNotFound, "no state dict in TransformerLens' naming"),
        (put("blocks.3.attn.W_Q", 3, 12, 6), BrokenWeights, "no tensors of block 2"),
        (put("unembed.W_U", 12, 30), BrokenWeights, r"'unembed.W_U' should have the shape \[12, 29\]"),
        (put("blocks.0.attn.W_Q", 12, 18), BrokenWeights, "should have 3 axes"),
        (put("blocks.0.attn._W_K", 1, 12, 6), UnservedModel, "keys and values shared"),
        (put("blocks.0.norm1.w", 12), UnservedModel, "oldest SoLU models"),
        (put("blocks.0.extra", 12), UnservedModel, "'blocks.0.extra' has no place"),
        (put("blocks.0.attn.rotary_sin", 16, 6), UnservedModel, "'blocks.0.attn.rotary_sin' has no place"),
        (turned, UnservedModel, "the other way around"),
        (banded, UnservedModel, "'blocks.1.attn.mask' is no plain causal mask"),
        (put("blocks.0.attn.mask", 8, 8), BrokenWeights, r"\[16, 16\]"),
        (partly_rotary, UnservedModel, "turn 4 of the 6 dimensions"),
        (lambda tensors: tensors["embed.W_E"].fill_(math.nan), BrokenWeights, "not finite"),
        (lambda tensors: tensors.update({"embed.W_E": torch.zeros(29, 12).long()}), UnservedModel, "type int64"),
        (lambda tensors: tensors.update({"step": 3}), BrokenWeights, "'step' is a int"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, error, said):
    tensors = state()
    change(tensors)
    stated = Stated(positions="rotary" if change is partly_rotary else "standard", eps=1e-5)
    with pytest.raises(error, match=said):
        imported(tmp_path, tensors, stated)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"positional_embedding_type": "alibi"}, UnservedModel, "'alibi' for positions"),
        ({"use_local_attn": True, "window_size": 4}, UnservedModel, "use_local_attn=True, that is local attention"),
        ({"parallel_attn_mlp": True}, UnservedModel, "in parallel"),
        ({"gated_mlp": True}, UnservedModel, "gated MLP"),
        ({"use_attn_scale": False}, UnservedModel, r"not divided by sqrt\(d_head\)"),
        ({"attn_scale": 8.0}, UnservedModel, "attn_scale=8.0"),
        ({"scale_attn_by_inverse_layer_idx": True}, UnservedModel, "number of the layer"),
        ({"attention_dir": "bidirectional"}, UnservedModel, "sees the future"),
        ({"final_rms": True}, UnservedModel, "final norm"),
        ({"attn_scores_soft_cap": 30.0}, UnservedModel, "soft-capped scores"),
        ({"neuron_temp": 2.0}, UnservedModel, "temperature"),
        ({"n_key_value_heads": 1}, UnservedModel, "shared by several heads"),
        ({"d_vocab_out": 28}, UnservedModel, "another vocabulary for its output"),
        ({"act_fn": "geglu"}, UnservedModel, "'geglu' for activation"),
        ({"act_fn": None}, BadArgument, "--activation"),
        ({"normalization_type": "BN"}, UnservedModel, "'BN' for norm"),
        ({"normalization_type": "LNPre"}, UnservedModel, "'blocks.0.ln1.b' has no place"),
        ({"normalization": None}, BadArgument, "says both normalization=None and normalization_type='LN'"),
        ({"n_layers": 3}, BadArgument, "n_layers=3, and its tensors have 2"),
        ({"n_ctx": 32}, BadArgument, "context of 32 tokens, and its tensors have 16"),
        ({"attn_only": True}, BadArgument, "attn_only=True, and its tensors have MLPs"),
        ({"eps": "small"}, BadArgument, "eps='small'"),
        ({"act_fn": ["gelu"]}, BadArgument, r"act_fn=\['gelu'\]"),
    ],
)
def test_settings_that_we_lack_are_named(tmp_path, settings, error, said):
    config = {**SIZES, "d_mlp": MLP, "normalization_type": "LN", "act_fn": "gelu", **settings}
    with pytest.raises(error, match=said):
        imported(tmp_path, state(mlp=True), config=config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"activation": "gelu_nwe"}, "did you mean 'gelu_new'"),
        ({"norm": "LNpre"}, "did you mean 'LNPre'"),
        ({"positions": "alibi"}, "no choice for --positions named 'alibi'"),
        ({"eps": -1.0}, "eps=-1.0"),
        ({"bos": 29}, "bos=29"),
        ({"context": 8}, "its option says a context of 8"),
    ],
)
def test_what_is_stated_wrongly_is_told(tmp_path, stated, said):
    right = {"positions": "standard", "eps": 1e-5, "activation": "gelu"}
    with pytest.raises((UnknownName, BadArgument), match=said):
        imported(tmp_path, state(mlp=True), Stated(**{**right, **stated}))


class Runs:
    """What a malicious file holds: opening it would leave a file behind."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace = tmp_path / "trace"
    torch.save({**state(), "more": Runs(trace)}, tmp_path / "bad.pth")
    (tmp_path / "bad.pt").write_bytes(pickle.dumps(Runs(trace)))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    for name in ("bad.pth", "bad.pt", "module.pth"):
        with pytest.raises(UnsafeWeights, match=r"can run code when opened\. Save the state dict alone"):
            import_model(tmp_path / name, tmp_path / "out")
    assert not trace.exists()
    pickle.loads((tmp_path / "bad.pt").read_bytes())  # so that the test knows that its file is dangerous
    assert trace.exists()


@pytest.mark.parametrize(
    ("write", "error", "said"),
    [
        (lambda path: None, ModelNotFound, "there is no such file"),
        (lambda path: path.mkdir(), ModelNotFound, "it is a folder"),
        (lambda path: path.write_text("hello"), BrokenWeights, "no whole file of torch.save"),
        (lambda path: path.write_bytes(b""), BrokenWeights, "no whole file of torch.save"),
        (lambda path: torch.save([1, 2], path), ModelNotFound, "it holds a list"),
        (lambda path: torch.save({}, path), ModelNotFound, "it is empty"),
        (lambda path: torch.save({"wte.weight": torch.zeros(2)}, path), ModelNotFound, "headscope.load"),
        (lambda path: torch.save({"a": state(), "b": state()}, path), ModelNotFound, r"several state dicts \(a, b\)"),
    ],
)
def test_files_that_are_no_state_dict(tmp_path, write, error, said):
    write(tmp_path / "model.pth")
    with pytest.raises(error, match=said):
        import_model(tmp_path / "model.pth", tmp_path / "out")


def test_configs_that_cannot_be_read(tmp_path):
    torch.save(state(), tmp_path / "model.pth")
    (tmp_path / "model.safetensors").write_bytes(b"no")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "list.json").write_text("[1]")
    for config, said in [(None, "none of TransformerLens"), ("list.json", "none of"), ("no.json", "no JSON file")]:
        with pytest.raises(BadArgument, match=said):
            import_model(tmp_path / "model.pth", tmp_path / "out", config=config and tmp_path / config)
    with pytest.raises(BrokenWeights, match="no whole safetensors"):
        import_model(tmp_path / "model.safetensors", tmp_path / "out")


def run(*words):
    return CliRunner().invoke(build(words[0]), list(words))


def test_the_command_refuses_in_one_sentence(tmp_path):
    path, out = tmp_path / "model.pth", tmp_path / "out"
    torch.save({**state(), "more": Runs(tmp_path / "trace")}, path)
    for words in ([str(path)], [str(tmp_path / "none.pth")], [str(path), "--norm", "LM"]):
        result = run("import", *words, "--out", str(out), "--quiet")
        assert result.exit_code == HeadscopeError.exit_code == 2
        assert (result.stdout, len(result.stderr.strip().splitlines())) == ("", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]
    assert run("import", str(path)).exit_code == 2
