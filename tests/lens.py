"""Random models as TransformerLens saves them, and its forward pass written out on their tensors.

The forward pass follows the formulas and conventions of TransformerLens, in einsums, and uses nothing of our
architecture: it is the reference that an imported model is compared with.
"""

import json
import math
from collections import OrderedDict

import torch

import headscope as hs
from headscope.architectures.lens import Stated
from headscope.results.imported import import_model

VOCAB, MODEL, HEADS, HEAD_DIM, MLP, CONTEXT, LAYERS = 29, 12, 3, 6, 20, 16, 2
SIZES = {"n_layers": 2, "d_model": 12, "n_heads": 3, "d_head": 6, "d_vocab": 29, "n_ctx": 16}


def state(*, norm="LN", positions="standard", mlp=False, mlp_norm=False, biases=True, d_head=HEAD_DIM, seed=0):
    """A state dict as TransformerLens saves it, buffers included, with weights large enough to matter."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape, scale=0.5):
        return scale * torch.randn(shape, generator=generator)

    def gains(size):
        return 1.0 + drawn(size, scale=0.3)

    tensors = OrderedDict({"embed.W_E": drawn(VOCAB, MODEL)})
    if positions in ("standard", "shortformer"):
        tensors["pos_embed.W_pos"] = drawn(CONTEXT, MODEL)
    weights = {"LN": ("w", "b"), "RMS": ("w",)}.get(norm, ())
    norms = {"ln_final": MODEL}
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        norms[f"{block}.ln1"] = MODEL
        for name in ("W_Q", "W_K", "W_V"):
            tensors[f"{block}.attn.{name}"] = drawn(HEADS, MODEL, d_head)
        tensors[f"{block}.attn.W_O"] = drawn(HEADS, d_head, MODEL)
        if biases:
            tensors |= {f"{block}.attn.{name}": drawn(HEADS, d_head) for name in ("b_Q", "b_K", "b_V")}
            tensors[f"{block}.attn.b_O"] = drawn(MODEL)
        tensors[f"{block}.attn.mask"] = torch.ones(CONTEXT, CONTEXT).tril().bool()
        tensors[f"{block}.attn.IGNORE"] = torch.tensor(-torch.inf)
        if mlp:
            norms[f"{block}.ln2"] = MODEL
            tensors |= {f"{block}.mlp.W_in": drawn(MODEL, MLP), f"{block}.mlp.W_out": drawn(MLP, MODEL)}
            if biases:
                tensors |= {f"{block}.mlp.b_in": drawn(MLP), f"{block}.mlp.b_out": drawn(MODEL)}
            if mlp_norm:
                norms[f"{block}.mlp.ln"] = MLP
    for name, size in norms.items():
        tensors |= {f"{name}.{weight}": gains(size) if weight == "w" else drawn(size) for weight in weights}
    tensors["unembed.W_U"] = drawn(MODEL, VOCAB)
    if biases:
        tensors["unembed.b_U"] = drawn(VOCAB)
    return tensors


def rotary_tables(pairs, d_head=HEAD_DIM, base=10_000.0):
    """sin and cos [position, d_head] as TransformerLens makes them; pairs: "halves" or "adjacent"."""
    frequency = base ** (torch.arange(d_head // 2) / (d_head / 2))
    column = frequency.repeat_interleave(2) if pairs == "adjacent" else torch.cat((frequency, frequency))
    angle = torch.arange(CONTEXT)[:, None] / column[None, :]
    return {"rotary_sin": angle.sin(), "rotary_cos": angle.cos()}


def rotated(x, pairs, base=10_000.0):
    """[batch, position, head, d_head], each pair of dimensions turned as a complex number."""
    d_head, length = x.shape[-1], x.shape[1]
    angle = torch.arange(length)[:, None] * base ** (-2.0 * torch.arange(d_head // 2) / d_head)
    turn = torch.polar(torch.ones_like(angle), angle)[None, :, None, :]
    if pairs == "adjacent":
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
    both = torch.complex(x[..., : d_head // 2], x[..., d_head // 2 :]) * turn
    return torch.cat((both.real, both.imag), dim=-1)


ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "solu": lambda x: x * torch.softmax(x, -1),
    "solu_ln": lambda x: x * torch.softmax(x, -1),
}


def reference(tensors, ids, *, norm="LN", positions="standard", act="gelu", eps=1e-5, pairs="halves", base=10_000.0):
    """Logits [batch, position, vocab] by the published formulas."""

    def get(name):
        return tensors.get(name, torch.tensor(0.0))

    def normed(x, name):
        if norm == "none":
            return x
        if norm.startswith("LN"):
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return x * tensors.get(f"{name}.w", torch.tensor(1.0)) + get(f"{name}.b")

    length = ids.shape[1]
    stream = tensors["embed.W_E"][ids]
    table = tensors["pos_embed.W_pos"][:length] if positions in ("standard", "shortformer") else None
    if positions == "standard":
        stream = stream + table
    for layer in range(LAYERS):
        attn = f"blocks.{layer}.attn"
        seen = normed(stream, f"blocks.{layer}.ln1")
        located = seen + table if positions == "shortformer" else seen
        q = torch.einsum("bpm,hmd->bphd", located, tensors[f"{attn}.W_Q"]) + get(f"{attn}.b_Q")
        k = torch.einsum("bpm,hmd->bphd", located, tensors[f"{attn}.W_K"]) + get(f"{attn}.b_K")
        v = torch.einsum("bpm,hmd->bphd", seen, tensors[f"{attn}.W_V"]) + get(f"{attn}.b_V")
        if positions == "rotary":
            q, k = rotated(q, pairs, base), rotated(k, pairs, base)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~tensors[f"{attn}.mask"][:length, :length], -1e5)
        z = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        stream = stream + torch.einsum("bqhd,hdm->bqm", z, tensors[f"{attn}.W_O"]) + get(f"{attn}.b_O")
        mlp = f"blocks.{layer}.mlp"
        if f"{mlp}.W_in" in tensors:
            before = normed(stream, f"blocks.{layer}.ln2") @ tensors[f"{mlp}.W_in"] + get(f"{mlp}.b_in")
            after = ACTIVATIONS[act](before)
            if act == "solu_ln":  # a LayerNorm of its own, with weights where the model's norms have them
                after = after - after.mean(-1, keepdim=True)
                after = after / (after.pow(2).mean(-1, keepdim=True) + eps).sqrt()
                after = after * tensors.get(f"{mlp}.ln.w", torch.tensor(1.0)) + get(f"{mlp}.ln.b")
            stream = stream + after @ tensors[f"{mlp}.W_out"] + get(f"{mlp}.b_out")
    return normed(stream, "ln_final") @ tensors["unembed.W_U"] + get("unembed.b_U")


IDS = torch.randint(0, VOCAB, (3, 14), generator=torch.Generator().manual_seed(9))


def imported(tmp_path, tensors, stated=None, config=None, config_at=None):
    """Write, import, open with headscope; the logits of IDS and the card."""
    path = tmp_path / "model_final.pth"
    torch.save(tensors, path)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    card = import_model(path, tmp_path / "out", config=config_at, stated=stated or Stated())
    model = hs.load(tmp_path / "out")
    return model.run(IDS.tolist()).logits, card
