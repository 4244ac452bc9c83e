"""The softmax linear unit: the one activation of the literature on small models that transformers lacks.

In: what the MLP computes before its activation, [..., mlp]. Out: the same shape. A neuron is scaled by its
share of a softmax over all neurons, so that few of them speak at a time (Elhage et al. 2022, "Softmax Linear
Units"). `solu` is that alone; `solu_ln` is followed by a LayerNorm, as in the models of that paper and in the
published ones after it: with weights where the model's norms have them, without elsewhere.
"""

from torch import Tensor, nn

from headscope.architectures.config import ToyConfig

SOLU = ("solu", "solu_ln")


class SoLU(nn.Module):
    """x softmax(x), and for `solu_ln` the LayerNorm after it."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        if config.activation == "solu_ln":
            trained = config.norm == "layernorm"
            self.norm = nn.LayerNorm(config.d_mlp, eps=config.norm_eps, elementwise_affine=trained)

    def forward(self, before: Tensor) -> Tensor:
        """What the MLP's second projection reads, [..., mlp]."""
        out: Tensor = self.norm(before * before.softmax(dim=-1))
        return out
