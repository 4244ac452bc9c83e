"""The weights of single heads: W_Q, W_K, W_V, W_O, from any architecture, by asking the modules.

In: a model and a layer. Out: one matrix per head, in the conventions of Elhage et al. 2021. The attention
module is shown basis vectors at position 0, where rotary turns by nothing, and what its kernel receives is
read: fused, split, transposed or grouped storage does not matter. W_O comes from the projection in the same
way. What cannot be a matrix (norms of queries and keys, values that depend on more than the token) is
withheld, and the rest given. The gain of the norm before attention can be folded in; its bias and the
centring are stated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headscope.errors import UnservedModel
from headscope.models.anatomy import Layer
from headscope.models.attention import AttentionCall
from headscope.models.devices import on_one_thread
from headscope.models.inline import watching
from headscope.models.layout import Layout
from headscope.models.norms import FrozenNorm
from headscope.models.tap import Tap

if TYPE_CHECKING:
    from headscope.models.model import Model

# Basis vectors are shown this loudly and this many at a time.
_ROWS_AT_ONCE = 512
_TOLERANCE = 1e-3
_MATRICES = {"W_Q": ("q", "queries"), "W_K": ("k", "keys"), "W_V": ("v", "values")}
_BETWEEN = "a gate or a norm stands between its values and the residual stream"

Show = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class HeadWeights:
    """Weights of the heads of one layer; a row vector x becomes x @ W + b.

    `w_q` [head, model, head_dim], `w_k` and `w_v` [kv_head, model, head_dim] (head h of several shares
    h // (heads / kv_heads)), `w_o` [head, head_dim, model]; `b_q`, `b_k`, `b_v` without the `model` axis,
    `b_o` [model]. `folded` says whether they act on the residual stream divided by its norm's scale (True) or on
    the output of the norm; `centred` whether that norm also subtracts the residual stream's mean. What `w_o` writes
    enters the residual stream times `scale`; `direct` is False where a gate or a norm stands on the way.
    `withheld` says why a matrix, "W_Q" say, cannot be given: asking for it raises UnservedModel.
    """

    maps: Mapping[str, tuple[Tensor, Tensor]]
    w_o: Float[Tensor, "head value_dim model"]
    b_o: Float[Tensor, " model"]
    folded: bool
    centred: bool
    scale: float
    direct: bool
    withheld: Mapping[str, str]

    @property
    def w_q(self) -> Float[Tensor, "head model head_dim"]:
        return self._map("W_Q")[0]

    @property
    def w_k(self) -> Float[Tensor, "kv_head model head_dim"]:
        return self._map("W_K")[0]

    @property
    def w_v(self) -> Float[Tensor, "kv_head model value_dim"]:
        return self._map("W_V")[0]

    @property
    def b_q(self) -> Float[Tensor, "head head_dim"]:
        return self._map("W_Q")[1]

    @property
    def b_k(self) -> Float[Tensor, "kv_head head_dim"]:
        return self._map("W_K")[1]

    @property
    def b_v(self) -> Float[Tensor, "kv_head value_dim"]:
        return self._map("W_V")[1]

    def _map(self, name: str) -> tuple[Tensor, Tensor]:
        if name in self.withheld:
            raise UnservedModel(
                f"cannot give {name} of this layer: {self.withheld[name]}. {', '.join([*self.maps, 'W_O'])} can be "
                "had, and so can scores and patterns."
            )
        return self.maps[name]

    def qk(self, head: int) -> Float[Tensor, "model model"]:
        """W_Q W_K^T of one head at offset 0: query side first."""
        return self.w_q[head] @ self.w_k[head * len(self.w_k) // len(self.w_q)].T

    def ov(self, head: int) -> Float[Tensor, "model model"]:
        """W_V W_O of one head, `scale` included: what a token attended to writes to the residual stream, as x @ W.

        Raises:
            UnservedModel: where a gate or norm stands between values and stream, so that it is no matrix.
        """
        if not self.direct:
            raise UnservedModel(f"cannot give the OV matrix of this layer: {_BETWEEN}. W_V and W_O are given apart.")
        return self.scale * self.w_v[head * len(self.w_v) // len(self.w_o)] @ self.w_o[head]


class _Shown(Exception):
    """Stops a forward pass once the attention module's arguments, which are its own, are known."""


def head_weights(model: "Model", layer: int, *, fold_norm: bool = True) -> HeadWeights:
    """The weights of every head of a layer.

    Raises:
        UnservedSite: if the layer has no attention, or no output projection was found.
    """
    model.require_site("z", layer)
    anatomy = model.anatomy.layers[layer]
    width = model.d_model
    why, show = _withheld(model, layer)
    basis = torch.eye(width, dtype=model.dtype, device=model.device)
    biases = {name: made[0] for name, made in show(torch.zeros_like(basis[:1])).items() if name not in why}
    shown = [show(basis[start : start + _ROWS_AT_ONCE]) for start in range(0, width, _ROWS_AT_ONCE)]
    matrices = {n: torch.cat([each[n] - bias for each in shown]).movedim(0, -2) for n, bias in biases.items()}
    centred, folded = False, False
    if fold_norm and anatomy.input_norm is not None:
        frozen = FrozenNorm.at(anatomy.input_norm, torch.randn(1, width, dtype=model.dtype, device=model.device))
        gain, shift = frozen.gain.to(model.dtype), frozen.bias.to(model.dtype)
        biases = {name: bias + shift @ matrices[name] for name, bias in biases.items()}
        matrices = {name: gain[:, None] * matrix for name, matrix in matrices.items()}
        centred, folded = frozen.centred, True
    w_o, b_o = model.output_matrix(layer), model.head_bias(layer)
    term = anatomy.attention_term
    maps = {name: (matrix, biases[name]) for name, matrix in matrices.items()}
    return HeadWeights(maps, w_o, b_o, folded, centred, 1.0 if term is None else term.scale, _direct(anatomy), why)


def withheld_weights(model: "Model") -> dict[tuple[str, str], list[int]]:
    """What of the weights of heads cannot be given and why, with the layers that it holds for."""
    found: dict[tuple[str, str], list[int]] = {}
    with on_one_thread(model.hf):
        for layer in (index for index in model.anatomy.attending if model.has("z", index)):
            why = _withheld(model, layer)[0]
            if not _direct(model.anatomy.layers[layer]):
                why["the OV matrix"] = _BETWEEN
            for told in why.items():
                found.setdefault(told, []).append(layer)
    return found


def _direct(layer: Layer) -> bool:
    """Whether nothing stands between the values and what is added to the residual stream."""
    return layer.attention_term is not None and layer.projection_is_term and not layer.gated


def _withheld(model: "Model", layer: int) -> tuple[dict[str, str], Show]:
    """Why matrices of a layer cannot be given, by name; and the function that shows rows to its attention."""
    refused = {name: model.why_not(site, layer) for name, (site, _) in _MATRICES.items()}
    why = {name: reason for name, reason in refused.items() if reason}
    show = _shown_to(model, layer, [name for name in _MATRICES if name not in why])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, model.d_model, generator=generator).to(device=model.device, dtype=model.dtype)
    # Affine: what is made of a mixture of two rows, weights adding up to 1, is that mixture of what is made of each.
    for name, (one, other, mixed) in show(torch.cat([rows, 3 * rows[:1] - 2 * rows[1:]])).items():
        expected = 3 * one - 2 * other
        tolerance = max(_TOLERANCE, 8 * torch.finfo(model.dtype).eps) * float(expected.abs().max())
        if not float((mixed - expected).abs().max()) <= tolerance:
            why[name] = (
                f"its {_MATRICES[name][1]} are no linear map of the normed residual stream (norms of queries and "
                "keys, or rounded activations, say)"
            )
    return why, show


def _shown_to(model: "Model", layer: int, names: Sequence[str]) -> Show:
    """A function from rows [row, model] to what the kernel receives of them, by matrix: [row, head, head_dim]."""
    attention = model.anatomy.layers[layer].attention
    assert attention is not None
    args, kwargs = _arguments(model, attention)

    def show(rows: Tensor) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}

        def read(call: AttentionCall) -> None:
            kept.update((name, getattr(call, _MATRICES[name][0])[:, :, 0].clone()) for name in names)

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
