"""The direct path from every component to the scores, as the linear map that it is once the norms' scales are fixed.

In: a run that captured `sites`, and a direction after the final norm for each token. Out: the dot product of that
direction with what each head or MLP adds to the residual stream, past all that scales it on the way: a norm after the
attention, later layers that scale the stream, the final norm. Whose scales count is the choice of the run that the
paths are made of: that of the clean run, to see what a component writes differently under an ablation. Not done
here: which direction (measures.direct_effect).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.models.model import Model
from headscope.models.norms import FrozenNorm
from headscope.models.run import Run


@dataclass(frozen=True)
class DirectPaths:
    """The norms of a run as fixed linear maps.

    `direction` [batch, position, model] at the end of the residual stream; `attention[layer]` is a norm between a
    layer's output projection and the residual stream, where there is one.
    """

    direction: Tensor
    attention: dict[int, FrozenNorm]

    @classmethod
    @torch.no_grad()
    def of(cls, run: Run, towards: Callable[[FrozenNorm], Tensor]) -> "DirectPaths":
        """`towards` gives the direction at the end of the residual stream from the final norm, frozen there."""
        model, attention = run.model, {}
        stream = run["resid_post", model.n_layers - 1].nan_to_num()
        for index, layer in enumerate(model.anatomy.layers):
            if layer.heads and not layer.projection_is_term:
                assert layer.attention_term is not None
                assert layer.projection is not None
                projected = layer.projection(run["z", index].nan_to_num().flatten(2))
                attention[index] = FrozenNorm.at(layer.attention_term.module, projected)
        return cls(towards(FrozenNorm.at(model.anatomy.final_norm, stream)), attention)

    def to_heads(self, model: Model, layer: int) -> Tensor:
        """The direction [batch, position, model] at the output of a layer's projection."""
        term = model.anatomy.layers[layer].attention_term
        assert term is not None
        read = self.direction * (term.scale * _carried(model, layer))
        # A norm stands between the projection and the residual stream: linear too once its scale is frozen.
        return self.attention[layer].pull_back(read) if layer in self.attention else read

    def to_mlp(self, model: Model, layer: int) -> Tensor:
        """The direction [batch, position, model] at what a layer's MLP adds."""
        return self.direction * _carried(model, layer)


def sites(model: Model, *, mlps: bool = True) -> list[tuple[str, int]]:
    """What a run captures so that direct paths can be made of it and followed."""
    layers = list(enumerate(model.anatomy.layers))
    wanted = [("z", index) for index, layer in layers if layer.heads]
    wanted += [("mlp_out", index) for index, layer in layers if mlps and layer.mlp_term]
    return [*wanted, ("resid_post", model.n_layers - 1)]


def _carried(model: Model, layer: int) -> float:
    """What is left at the end of what a layer adds to the residual stream: later layers may scale it."""
    return math.prod(after.carry or 1.0 for after in model.anatomy.layers[layer + 1 :])
