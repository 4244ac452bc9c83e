"""The weights of single heads: W_Q, W_K, W_V, W_O, from any architecture, by asking the modules.

In: a model and a layer. Out: one matrix per head, in the conventions of Elhage et al. 2021. The attention
module is shown basis vectors at position 0, where rotary turns by nothing, and what its kernel receives is
read: fused, split, transposed or grouped storage does not matter. W_O comes from the projection in the same
way. What cannot be a matrix (norms of queries and keys, values that depend on more than the token) is
refused. The gain of the norm before attention can be folded in; its bias and the centring are stated.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.errors import UnservedModel
from headscope.models.anatomy import Layer
from headscope.models.attention import AttentionCall
from headscope.models.inline import watching
from headscope.models.layout import Layout
from headscope.models.norms import FrozenNorm
from headscope.models.tap import Tap

if TYPE_CHECKING:
    from headscope.models.model import Model

# Basis vectors are shown this loudly and this many at a time.
_ROWS_AT_ONCE = 512
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class HeadWeights:
    """Weights of the heads of one layer; a row vector x becomes x @ W + b.

    `w_q` [head, model, head_dim], `w_k` and `w_v` [kv_head, model, head_dim] (head h of several shares
    h // (heads / kv_heads)), `w_o` [head, head_dim, model]; `b_q`, `b_k`, `b_v` without the `model` axis,
    `b_o` [model]. `folded` says whether they act on the residual stream divided by its norm's scale (True) or on
    the output of the norm; `centred` whether that norm also subtracts the residual stream's mean. What `w_o` writes
    enters the residual stream times `scale`; `direct` is False where a gate or a norm stands on the way.
    """

    w_q: Float[Tensor, "head model head_dim"]
    w_k: Float[Tensor, "kv_head model head_dim"]
    w_v: Float[Tensor, "kv_head model value_dim"]
    w_o: Float[Tensor, "head value_dim model"]
    b_q: Float[Tensor, "head head_dim"]
    b_k: Float[Tensor, "kv_head head_dim"]
    b_v: Float[Tensor, "kv_head value_dim"]
    b_o: Float[Tensor, " model"]
    folded: bool
    centred: bool
    scale: float
    direct: bool

    def qk(self, head: int) -> Float[Tensor, "model model"]:
        """W_Q W_K^T of one head at offset 0: query side first."""
        return self.w_q[head] @ self.w_k[head * len(self.w_k) // len(self.w_q)].T

    def ov(self, head: int) -> Float[Tensor, "model model"]:
        """W_V W_O of one head, `scale` included: what a token attended to writes to the residual stream, as x @ W.

        Raises:
            UnservedModel: where a gate or norm stands between values and stream, so that it is no matrix.
        """
        if not self.direct:
            raise UnservedModel(
                "cannot give the OV matrix of this layer: a gate or a norm stands between its values and the "
                "residual stream. W_V and W_O are given apart."
            )
        return self.scale * self.w_v[head * len(self.w_v) // len(self.w_q)] @ self.w_o[head]


class _Shown(Exception):
    """Stops a forward pass once the attention module's arguments, which are its own, are known."""


def head_weights(model: "Model", layer: int, *, fold_norm: bool = True) -> HeadWeights:
    """The weights of every head of a layer.

    Raises:
        UnservedSite: if the layer has no attention, or its factors cannot be told apart.
        UnservedModel: if queries, keys or values are no affine map of the token's normed residual stream.
    """
    for site in ("q", "k", "v", "z"):
        model.require_site(site, layer)
    anatomy = model.anatomy.layers[layer]
    width = model.d_model
    show = _shown_to(model, anatomy, layer)
    basis = torch.eye(width, dtype=model.dtype, device=model.device)
    zero = torch.zeros_like(basis[:1])
    biases = [made[0] for made in show(zero)]
    shown = [show(basis[start : start + _ROWS_AT_ONCE]) for start in range(0, width, _ROWS_AT_ONCE)]
    matrices = [
        torch.cat([parts[index] - bias for parts in shown]).movedim(0, -2) for index, bias in enumerate(biases)
    ]
    _refuse_unless_affine(model, layer, show, matrices, biases)
    centred, folded = False, False
    if fold_norm and anatomy.input_norm is not None:
        frozen = FrozenNorm.at(anatomy.input_norm, torch.randn(1, width, dtype=model.dtype, device=model.device))
        biases = [bias + frozen.bias @ matrix for bias, matrix in zip(biases, matrices, strict=True)]
        matrices = [frozen.gain[:, None] * matrix for matrix in matrices]
        centred, folded = frozen.centred, True
    w_o, b_o = model.output_matrix(layer), model.head_bias(layer)
    term = anatomy.attention_term
    direct = term is not None and anatomy.projection_is_term and not anatomy.gated
    scale = 1.0 if term is None else term.scale
    (w_q, w_k, w_v), (b_q, b_k, b_v) = matrices, biases
    return HeadWeights(w_q, w_k, w_v, w_o, b_q, b_k, b_v, b_o, folded, centred, scale, direct)


def _shown_to(model: "Model", anatomy: Layer, layer: int) -> Any:
    """A function from rows [row, model] to what the kernel receives of them: q, k, v [row, head, head_dim]."""
    attention = anatomy.attention
    assert attention is not None
    args, kwargs = _arguments(model, attention)

    def show(rows: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []

        def read(call: AttentionCall) -> None:
            kept.extend(tensor[:, :, 0].clone() for tensor in (call.q, call.k, call.v))

        layout = Layout((1,) * len(rows), {}, device=rows.device)
        layout.advance(1)
        tap = Tap(model.anatomy.through_interface, layout, readers={layer: [read]})
        given = [rows[:, None] if index == 0 else value for index, value in enumerate(args)]
        named = {name: rows[:, None] if name == "hidden_states" else value for name, value in kwargs.items()}
        with torch.no_grad(), tap.active(), watching(tap, model.anatomy.inline):
            attention(*given, **named)
        return kept

    return show


def _arguments(model: "Model", attention: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that the model gives its attention for a single token."""

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Shown(args, kwargs)

    try:
        with torch.no_grad(), attention.register_forward_pre_hook(stop, with_kwargs=True):
            model.hf(torch.tensor([[0]], device=model.device), use_cache=False)
    except _Shown as shown:
        args, kwargs = shown.args
        return args, kwargs
    raise UnservedModel(f"cannot read the weights of {model.name}: its attention was not called for one token.")


def _refuse_unless_affine(
    model: "Model", layer: int, show: Any, matrices: list[Tensor], biases: list[Tensor]
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, model.d_model, generator=generator).to(device=model.device, dtype=model.dtype)
    for name, made, matrix, bias in zip(("queries", "keys", "values"), show(rows), matrices, biases, strict=True):
        expected = torch.einsum("rm,hmd->rhd", rows, matrix) + bias
        if not torch.allclose(made, expected, rtol=_TOLERANCE, atol=_TOLERANCE * float(expected.abs().max())):
            raise UnservedModel(
                f"cannot give matrices for the heads of layer {layer} of {model.name}: its {name} are no linear "
                "map of the normed residual stream (norms of queries and keys, say). Scores and patterns still work."
            )
