"""The same numbers under our names: TransformerLens' matrices by head become the toy's projections.

In: a `LensFile` and what a person states of it. Out: a toy with the same logits. Matrices are reshaped and
turned, and kept in float32; nothing is folded, centred or fitted. Two things have another form here. Rotary
pairs of neighbouring dimensions are brought into halves by reordering each head's queries and keys in the same
way, which no score sees. RMS norms without weights become RMS norms with weights of one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from headscope.architectures.config import ToyConfig
from headscope.architectures.lens.file import EMBEDDING, LensFile
from headscope.architectures.lens.refusals import check_config, check_final_norm
from headscope.architectures.lens.rotary import halves_order
from headscope.architectures.lens.settings import NORMS, NOTHING, POSITIONS, Setting, Stated, settings_of
from headscope.architectures.lens.shapes import (
    POSITION_TABLE,
    Sizes,
    check_masks,
    check_tensors,
    expected_shapes,
    sizes_of,
)
from headscope.architectures.toy import ToyForCausalLM


def to_toy(file: LensFile, stated: Stated = NOTHING) -> tuple[ToyForCausalLM, dict[str, Setting]]:
    """The model of a file, ready to run, and every choice behind it with where it comes from.

    Raises:
        BadArgument: if something that changes logits is not known; the message says how to state it.
        UnservedModel, UnknownName: if the model has what our architecture has not.
        BrokenWeights: if tensors are missing or have other shapes.
    """
    sizes = sizes_of(file)
    check_config(file, sizes)
    settings = settings_of(file, sizes, stated)
    chosen = {name: setting.value for name, setting in settings.items()}
    check_final_norm(file, chosen["norm"])
    expected = expected_shapes(
        sizes,
        norm=chosen["norm"],
        positions=chosen["positions"],
        n_ctx=chosen["context"],
        mlp_norm=chosen.get("activation") == "solu_ln" and chosen["norm"] == "LN",
    )
    rotary = chosen["positions"] == "rotary"
    check_tensors(file, expected, rotary=rotary, taken=_in_words(sizes, chosen))
    check_masks(file, chosen["context"])
    with torch.random.fork_rng(devices=[]):  # weights are drawn, then replaced
        model = ToyForCausalLM(ToyConfig(**_fields(sizes, chosen)))
    model.load_state_dict(dict(_renamed(file.tensors, sizes, chosen)), strict=True)
    return model.eval(), settings


def _fields(sizes: Sizes, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the toy's config."""
    fields: dict[str, Any] = {
        "vocab_size": sizes.d_vocab,
        "n_layers": sizes.n_layers,
        "d_model": sizes.d_model,
        "n_heads": sizes.n_heads,
        "d_head": sizes.d_head,
        "d_mlp": sizes.d_mlp,
        "n_ctx": chosen["context"],
        "positions": POSITIONS[chosen["positions"]],
        "norm": NORMS[chosen["norm"]],
        "attention_bias": sizes.attention_bias,
        "mlp_bias": sizes.mlp_bias,
        "unembed_bias": sizes.unembed_bias,
        "bos_token_id": chosen.get("bos"),
    }
    named = {"eps": "norm_eps", "rotary_base": "rope_theta", "activation": "activation"}
    return fields | {named[name]: value for name, value in chosen.items() if name in named}


def _renamed(tensors: Mapping[str, Tensor], sizes: Sizes, chosen: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Pairs of our name and tensor."""
    yield "model.embed_tokens.weight", tensors[EMBEDDING].float()
    yield "lm_head.weight", tensors["unembed.W_U"].float().T
    if sizes.unembed_bias:
        yield "lm_head.bias", tensors["unembed.b_U"].float()
    if chosen["positions"] in ("standard", "shortformer"):
        yield "model.embed_positions.weight", tensors[POSITION_TABLE].float()
    yield from _norm(tensors, "ln_final", "model.norm", sizes.d_model, chosen["norm"])
    turn = halves_order(sizes.d_head) if chosen.get("rotary_pairs") == "adjacent" else None
    for layer in range(sizes.n_layers):
        theirs, ours = f"blocks.{layer}", f"model.layers.{layer}"
        yield from _attention(tensors, f"{theirs}.attn", f"{ours}.self_attn", sizes, turn)
        yield from _norm(tensors, f"{theirs}.ln1", f"{ours}.input_layernorm", sizes.d_model, chosen["norm"])
        if not sizes.d_mlp:
            continue
        yield from _mlp(tensors, f"{theirs}.mlp", f"{ours}.mlp", sizes, chosen)
        yield from _norm(tensors, f"{theirs}.ln2", f"{ours}.post_attention_layernorm", sizes.d_model, chosen["norm"])


def _attention(
    tensors: Mapping[str, Tensor], theirs: str, ours: str, sizes: Sizes, turn: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    for letter in "QKV":
        matrix = tensors[f"{theirs}.W_{letter}"].float()  # [head, model, head_dim]
        order = slice(None) if turn is None or letter == "V" else turn
        name = f"{ours}.{letter.lower()}_proj"
        yield f"{name}.weight", matrix[:, :, order].transpose(1, 2).flatten(0, 1)
        if sizes.attention_bias:
            yield f"{name}.bias", tensors[f"{theirs}.b_{letter}"].float()[:, order].flatten()
    yield f"{ours}.o_proj.weight", tensors[f"{theirs}.W_O"].float().flatten(0, 1).T
    if sizes.attention_bias:
        yield f"{ours}.o_proj.bias", tensors[f"{theirs}.b_O"].float()


def _mlp(
    tensors: Mapping[str, Tensor], theirs: str, ours: str, sizes: Sizes, chosen: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    for way, name in (("in", "up_proj"), ("out", "down_proj")):
        yield f"{ours}.{name}.weight", tensors[f"{theirs}.W_{way}"].float().T
        if sizes.mlp_bias:
            yield f"{ours}.{name}.bias", tensors[f"{theirs}.b_{way}"].float()
    if chosen["activation"] == "solu_ln" and chosen["norm"] == "LN":
        yield from _norm(tensors, f"{theirs}.ln", f"{ours}.act_fn.norm", sizes.d_mlp, "LN")


def _norm(
    tensors: Mapping[str, Tensor], theirs: str, ours: str, size: int, norm: str
) -> Iterator[tuple[str, Tensor]]:
    if norm in ("LN", "RMS"):
        yield f"{ours}.weight", tensors[f"{theirs}.w"].float()
    if norm == "LN":
        yield f"{ours}.bias", tensors[f"{theirs}.b"].float()
    if norm == "RMSPre":
        yield f"{ours}.weight", torch.ones(size)


def _in_words(sizes: Sizes, chosen: Mapping[str, Any]) -> str:
    """What the model is taken for, as words for a message."""
    parts = [f"{sizes.n_layers} layers", f"{chosen['norm']} norms", f"{chosen['positions']} positions"]
    parts.append(f"MLPs with {chosen['activation']}" if sizes.d_mlp else "no MLPs")
    return ", ".join(parts).replace("none norms", "no norms").replace("none positions", "no positions")
