"""A published state dict becomes a folder that opens, with the logits of the published formulas."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoTokenizer
from typer.testing import CliRunner

import headscope as hs
from headscope.architectures.lens import Stated
from headscope.cli.main import build
from headscope.errors import BadArgument, BrokenWeights, ModelNotFound, OutputExists
from headscope.results.imported import import_model
from headscope.training.tokenizer import word_tokenizer
from tests.lens import (
    ACTIVATIONS,
    CONTEXT,
    HEADS,
    IDS,
    LAYERS,
    MLP,
    SIZES,
    VOCAB,
    imported,
    reference,
    rotary_tables,
    state,
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize(
    ("made", "stated", "how"),
    [
        ({"norm": "LNPre", "biases": False}, {"norm": "LNPre", "positions": "standard", "eps": 1e-5}, {}),
        ({"norm": "LNPre"}, {"norm": "LNPre", "positions": "standard", "eps": 0.1}, {"eps": 0.1}),
        ({"mlp": True}, {"positions": "standard", "eps": 1e-5, "activation": "gelu_new"}, {"act": "gelu_new"}),
        ({"positions": "shortformer"}, {"positions": "shortformer", "eps": 1e-5}, {}),
        ({"norm": "none", "positions": "shortformer"}, {"norm": "none", "positions": "shortformer"}, {}),
        ({"norm": "RMS", "biases": False}, {"positions": "standard", "eps": 1e-3}, {"eps": 1e-3}),
        ({"norm": "RMSPre"}, {"norm": "RMSPre", "positions": "standard", "eps": 1e-5}, {}),
        ({"norm": "LN", "positions": "none"}, {"positions": "none", "eps": 1e-5}, {}),
    ],
    ids=["lnpre", "eps", "mlp", "shortformer", "no-norm-shortformer", "rms", "rmspre", "no-positions"],
)
def test_logits_are_those_of_the_published_formulas(tmp_path, made, stated, how):
    tensors = state(**made)
    logits, card = imported(tmp_path, tensors, Stated(**stated))
    how = {"norm": made.get("norm", "LN"), "positions": made.get("positions", "standard"), **how}
    assert_close(logits, reference(tensors, IDS, **how), **CLOSE)
    assert card["taken_for_granted"] is not None
    assert {name: card["settings"][name]["value"] for name in stated} == stated


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
@pytest.mark.parametrize("norm", ["LN", "LNPre"])
def test_every_activation(tmp_path, act, norm):
    tensors = state(mlp=True, norm=norm, mlp_norm=act == "solu_ln")
    config = {**SIZES, "d_mlp": MLP, "normalization_type": norm, "act_fn": act}
    logits, card = imported(tmp_path, tensors, config=config)
    assert_close(logits, reference(tensors, IDS, act=act, norm=norm), **CLOSE)
    assert card["settings"]["activation"] == {"value": act, "known_from": "config"}
    assert card["settings"]["eps"] == {"value": 1e-5, "known_from": "default of TransformerLens"}


@pytest.mark.parametrize("pairs", ["halves", "adjacent"])
@pytest.mark.parametrize("base", [10_000.0, 50.0])
def test_stored_angles_say_how_rotary_positions_turn(tmp_path, pairs, base):
    tensors = state(positions="rotary")
    stated = Stated(eps=1e-5, rotary_base=None if base == 10_000.0 else base)
    for layer in range(LAYERS):
        tables = rotary_tables(pairs, base=base)
        tensors |= {f"blocks.{layer}.attn.{name}": table for name, table in tables.items()}
    logits, card = imported(tmp_path, tensors, stated)
    assert_close(logits, reference(tensors, IDS, positions="rotary", pairs=pairs, base=base), **CLOSE)
    assert card["settings"]["positions"] == {"value": "rotary", "known_from": "tensors"}
    assert card["settings"]["rotary_pairs"] == {"value": pairs, "known_from": "tensors"}
    other = reference(
        tensors, IDS, positions="rotary", pairs="halves" if pairs == "adjacent" else "adjacent", base=base
    )
    assert (other - logits).abs().max() > 1e-2
    assert ("reordered" in (tmp_path / "out" / "README.md").read_text()) == (pairs == "adjacent")


def test_stored_angles_win_no_argument(tmp_path):
    tensors = state(positions="rotary")
    for layer in range(LAYERS):
        tensors |= {f"blocks.{layer}.attn.{n}": t for n, t in rotary_tables("halves").items()}
    with pytest.raises(BadArgument, match="its option says that rotary pairs are adjacent, and its stored"):
        imported(tmp_path, tensors, Stated(eps=1e-5, rotary_pairs="adjacent"))
    with pytest.raises(BadArgument, match=r"not those of the base 500\. Give another one with --rotary-base"):
        imported(tmp_path, tensors, Stated(eps=1e-5, rotary_base=500.0))


def test_rotary_positions_without_stored_angles_are_asked_for(tmp_path):
    tensors = state(positions="rotary")
    config = {**SIZES, "attn_only": True, "positional_embedding_type": "rotary", "rotary_base": 10000}
    with pytest.raises(BadArgument, match=r"which dimensions turn together.*--rotary-pairs halves or adjacent"):
        imported(tmp_path, tensors, config=config)
    config["rotary_adjacent_pairs"] = True
    logits, _ = imported(tmp_path, tensors, config=config)
    assert_close(logits, reference(tensors, IDS, positions="rotary", pairs="adjacent"), **CLOSE)


def test_the_configs_of_published_models_are_read(tmp_path):
    # The older form: "normalization", "shortformer_pos", "ln_eps", training settings, d_mlp beside attn_only.
    config = {
        **SIZES,
        **{"d_mlp": 48, "attn_only": True, "normalization": "LN", "shortformer_pos": False, "ln_eps": 1e-5},
        **{"act_fn": "solu_ln", "neuron_scale": 0.5, "neuron_temp": 2.0, "betas": [0.9, 0.99], "lr_hidden": 0.002},
        **{"tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits", "use_bfloat16_matmul": True},
    }
    tensors = state()
    del tensors["unembed.b_U"]
    for layer in range(LAYERS):
        tensors[f"blocks.{layer}.attn.IGNORE"] = torch.tensor(-1e5)
    logits, card = imported(tmp_path, tensors, config=config)
    assert_close(logits, reference(tensors, IDS), **CLOSE)
    assert {known["known_from"] for known in card["settings"].values()} == {"config", "tensors"}
    assert card["tokenizer_named_by_config"] == config["tokenizer_name"]
    assert card["taken_for_granted"] is None


def test_a_config_elsewhere_in_the_newer_form(tmp_path):
    # Unset sizes are -1, no norm is null, and settings that change no logit are passed over.
    config = {
        **SIZES,
        **{"d_mlp": -1, "attn_only": True, "normalization_type": None, "positional_embedding_type": "shortformer"},
        **{"eps": 1e-5, "d_vocab_out": 29, "attn_scale": math.sqrt(6), "use_attn_scale": True, "final_rms": False},
        **{"attention_dir": "causal", "window_size": None, "attn_scores_soft_cap": -1.0, "device": "cuda"},
        **{"original_architecture": None, "act_fn": "gelu_new", "shortformer_pos": True},
    }
    (tmp_path / "newer.json").write_text(json.dumps(config))
    tensors = state(norm="none", positions="shortformer")
    logits, card = imported(tmp_path, tensors, config_at=tmp_path / "newer.json")
    assert_close(logits, reference(tensors, IDS, norm="none", positions="shortformer"), **CLOSE)
    assert sorted(card["settings"]) == ["context", "norm", "positions"]
    assert card["config"]["file"].endswith("newer.json")


def test_other_files_give_the_same_model(tmp_path):
    tensors = state(norm="LNPre")
    stated = Stated(norm="LNPre", positions="standard", eps=1e-5)
    expected = reference(tensors, IDS, norm="LNPre")
    nested, plain, half = tmp_path / "nested.pt", tmp_path / "plain.safetensors", tmp_path / "half.pth"
    torch.save({"step": 3, "model_state_dict": tensors, "optimizer": {"state": {}, "lr": 1e-3}}, nested)
    save_file(dict(tensors), plain)
    coarse = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    torch.save({name: torch.nn.Parameter(v, requires_grad=False) for name, v in coarse.items()}, half)
    for path in (nested, plain, half):
        import_model(path, tmp_path / "out", stated=stated)
        model = hs.load(tmp_path / "out")
        if path == half:
            expected = reference(
                {name: v.float() if v.is_floating_point() else v for name, v in coarse.items()}, IDS, norm="LNPre"
            )
        assert_close(model.run(IDS.tolist()).logits, expected, **CLOSE)
        assert {weight.dtype for weight in model.hf.parameters()} == {torch.float32}


STATED = Stated(positions="standard", eps=1e-5)


def test_a_folder_is_ours_or_left_alone(tmp_path):
    path, out = tmp_path / "model.pth", tmp_path / "out"
    torch.save(state(), path)
    import_model(path, out, stated=STATED)
    before = (out / "model.safetensors").read_bytes()
    torch.save(state(seed=1), path)
    import_model(path, out, stated=STATED)  # an earlier import is replaced
    assert (out / "model.safetensors").read_bytes() != before
    torch.save({"embed.W_E": torch.zeros(2, 2)}, path)
    kept = (out / "card.json").read_text()
    with pytest.raises(BrokenWeights):
        import_model(path, out, stated=STATED)
    assert (out / "card.json").read_text() == kept
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="not a model of headscope"):
        import_model(path, out, stated=STATED)
    with pytest.raises(OutputExists, match="it is a file"):
        import_model(path, path, stated=STATED)
    foreign = tmp_path / "theirs"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(OutputExists, match=r"no card\.json of ours"):
        import_model(path, foreign, stated=STATED)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pth", "out", "theirs"]


def test_a_tokenizer_is_kept_beside_the_weights(tmp_path):
    path, words = tmp_path / "model.pth", tmp_path / "words"
    torch.save(state(), path)
    word_tokenizer(["<bos>", *(f"w{n}" for n in range(1, VOCAB))], CONTEXT).save_pretrained(words)
    card = import_model(path, tmp_path / "out", tokenizer=words, stated=STATED)
    model = hs.load(tmp_path / "out")
    assert model.tokenizer("w3 w1")["input_ids"] == AutoTokenizer.from_pretrained(words)("w3 w1")["input_ids"]
    assert model.bos_token_id == model.config.bos_token_id == 0
    assert card["tokenizer"] == str(words)
    import_model(path, tmp_path / "out", stated=Stated(positions="standard", eps=1e-5, bos=7))
    bare = hs.load(tmp_path / "out")
    assert (bare.tokenizer, bare.bos_token_id) == (None, 7)
    assert "There is no tokenizer" in (tmp_path / "out" / "README.md").read_text()
    import_model(path, tmp_path / "out", stated=STATED)
    assert hs.load(tmp_path / "out").bos_token_id is None
    word_tokenizer(["<bos>", *(f"w{n}" for n in range(40))], CONTEXT).save_pretrained(words)
    with pytest.raises(BadArgument, match="token ids up to 40, and the model has 29"):
        import_model(path, tmp_path / "out", tokenizer=words, stated=STATED)
    (words / "tokenizer.json").write_text("{")
    for place, said in [(words, "cannot read a tokenizer"), (tmp_path / "none", "no folder here")]:
        with pytest.raises(ModelNotFound, match=said):
            import_model(path, tmp_path / "out", tokenizer=place, stated=STATED)


def run(*words):
    return CliRunner().invoke(build(words[0]), list(words))


def test_the_command_imports_and_the_other_verbs_open_it(tmp_path):
    path, out = tmp_path / "model.pth", tmp_path / "out"
    torch.save(state(), path)
    words = ["import", str(path), "--out", str(out), "--positions", "standard", "--eps", "1e-5"]
    told = json.loads(run(*words, "--json").stdout)
    assert told["model"] == str(out)
    assert told["source"]["file"] == str(path)
    assert len(told["source"]["sha256"]) == 64
    assert told["command"] == f"headscope import {path} --out {out} --positions standard --eps 1e-05"
    shown = run(*words)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == f"Model: {out.resolve()}\n"
    assert "norm: LN (tensors)" in shown.stderr
    certificate = json.loads(run("check", str(out), "--json").stdout)
    assert certificate["passed"]
    assert certificate["refused"] == []
    heads = hs.detect(hs.load(out), ["previous_token", "current_token"])
    assert len(heads.frame) == 2 * LAYERS * HEADS


def test_transformer_lens_itself_gives_these_logits(tmp_path):
    lens = pytest.importorskip("transformer_lens")
    try:
        lens.HookedTransformer  # noqa: B018
    except (AttributeError, ImportError):
        pytest.skip("this release of transformer_lens has no HookedTransformer")
    config = {**SIZES, "d_mlp": MLP, "act_fn": "gelu_new", "normalization_type": "LN", "device": "cpu"}
    theirs = lens.HookedTransformer(lens.HookedTransformerConfig(**config))
    logits, _ = imported(tmp_path, theirs.state_dict(), config=config)
    assert_close(logits, theirs(IDS).detach(), **CLOSE)
