"""The same numbers under our names: TransformerLens' matrices by head become the toy's projections.

In: a `LensFile` and what a person states of it. Out: a toy with the same logits. Matrices are reshaped and
turned, and kept in float32; nothing is folded, centred or fitted. Two things have another form here. Rotary
pairs of neighbouring dimensions are brought into halves by reordering each head's queries and keys in the same
way, which no score sees. RMS norms without weights become RMS norms with weights of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headscope.architectures.config import ToyConfig
from headscope.architectures.lens.file import EMBEDDING, LensFile
from headscope.architectures.lens.refusals import check_config, check_final_norm
from headscope.architectures.lens.rotary import halves_order
from headscope.architectures.lens.settings import NORMS, NOTHING, POSITIONS, Setting, Stated, settings_of
from headscope.architectures.lens.shapes import (
    POSITION_TABLE,
    UNEMBED_BIAS,
    Sizes,
    check_masks,
    check_tensors,
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
    places = _places(sizes, chosen)
    expected = {name: place.shape for name, place in places.items()}
    check_tensors(file, expected, rotary=chosen["positions"] == "rotary", taken=_in_words(sizes, chosen))
    check_masks(file, chosen["context"])
    with torch.random.fork_rng(devices=[]):  # weights are drawn, then replaced
        model = ToyForCausalLM(ToyConfig(**_fields(sizes, chosen)))
    state = {place.ours: place.turned(file.tensors[name].float()) for name, place in places.items()}
    if chosen["norm"] == "RMSPre":  # ours have weights, and start as ones
        state |= {name: weight for name, weight in model.state_dict().items() if "norm" in name}
    model.load_state_dict(state, strict=True)
    return model.eval(), settings


def _fields(sizes: Sizes, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the toy's config."""
    fields = asdict(sizes)
    fields |= {
        "vocab_size": fields.pop("d_vocab"),
        "n_ctx": chosen["context"],
        "positions": POSITIONS[chosen["positions"]],
        "norm": NORMS[chosen["norm"]],
        "bos_token_id": chosen.get("bos"),
    }
    named = {"eps": "norm_eps", "rotary_base": "rope_theta", "activation": "activation"}
    return fields | {named[name]: value for name, value in chosen.items() if name in named}


class _Place(NamedTuple):
    """A weight of theirs: its shape, our name for it, and how our form of it comes about."""

    shape: tuple[int, ...]
    ours: str
    turned: Callable[[Tensor], Tensor] = Tensor.contiguous


def _places(sizes: Sizes, chosen: Mapping[str, Any]) -> dict[str, _Place]:
    """Every weight of a model with these choices, by TransformerLens' name."""
    heads, model, head_dim, mlp, vocab = sizes.n_heads, sizes.d_model, sizes.d_head, sizes.d_mlp, sizes.d_vocab
    adjacent = chosen.get("rotary_pairs") == "adjacent"
    order = halves_order(head_dim) if adjacent else torch.arange(head_dim)
    places = {
        EMBEDDING: _Place((vocab, model), "model.embed_tokens.weight"),
        "unembed.W_U": _Place((model, vocab), "lm_head.weight", Tensor.t),
    }
    if chosen["positions"] in ("standard", "shortformer"):
        places[POSITION_TABLE] = _Place((chosen["context"], model), "model.embed_positions.weight")
    if sizes.unembed_bias:
        places[UNEMBED_BIAS] = _Place((vocab,), "lm_head.bias")
    norm_weights = {"LN": {"w": "weight", "b": "bias"}, "RMS": {"w": "weight"}}.get(chosen["norm"], {})

    def norm(theirs: str, ours: str, size: int) -> None:
        for name, own in norm_weights.items():
            places[f"{theirs}.{name}"] = _Place((size,), f"{ours}.{own}")

    norm("ln_final", "model.norm", model)
    for layer in range(sizes.n_layers):
        block, own = f"blocks.{layer}", f"model.layers.{layer}"
        for letter in "QKV":
            turned = partial(_rows_by_head, torch.arange(head_dim) if letter == "V" else order)
            name = f"{own}.self_attn.{letter.lower()}_proj"
            places[f"{block}.attn.W_{letter}"] = _Place((heads, model, head_dim), f"{name}.weight", turned)
            if sizes.attention_bias:
                places[f"{block}.attn.b_{letter}"] = _Place((heads, head_dim), f"{name}.bias", turned)
        name = f"{own}.self_attn.o_proj"
        places[f"{block}.attn.W_O"] = _Place(
            (heads, head_dim, model), f"{name}.weight", lambda out: out.flatten(0, 1).T
        )
        if sizes.attention_bias:
            places[f"{block}.attn.b_O"] = _Place((model,), f"{name}.bias")
        norm(f"{block}.ln1", f"{own}.input_layernorm", model)
        if not mlp:
            continue
        for way, name, shape in (("in", "up_proj", (model, mlp)), ("out", "down_proj", (mlp, model))):
            places[f"{block}.mlp.W_{way}"] = _Place(shape, f"{own}.mlp.{name}.weight", Tensor.t)
            if sizes.mlp_bias:
                places[f"{block}.mlp.b_{way}"] = _Place(shape[1:], f"{own}.mlp.{name}.bias")
        norm(f"{block}.ln2", f"{own}.post_attention_layernorm", model)
        if chosen["activation"] == "solu_ln" and chosen["norm"] == "LN":
            norm(f"{block}.mlp.ln", f"{own}.mlp.act_fn.norm", mlp)
    return places


def _rows_by_head(order: Tensor, by_head: Tensor) -> Tensor:
    """[head, model, head_dim] or [head, head_dim] as [head * head_dim, ...], each head's dimensions in this order."""
    return by_head[..., order].movedim(-1, 1).flatten(0, 1)


def _in_words(sizes: Sizes, chosen: Mapping[str, Any]) -> str:
    """What the model is taken for, as words for a message."""
    parts = [f"{sizes.n_layers} layers", f"{chosen['norm']} norms", f"{chosen['positions']} positions"]
    parts.append(f"MLPs with {chosen['activation']}" if sizes.d_mlp else "no MLPs")
    return ", ".join(parts).replace("none norms", "no norms").replace("none positions", "no positions")
