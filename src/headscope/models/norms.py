"""A norm as the linear map that it is once its scale is fixed.

Direct effects read what one component alone writes to the logits, so the final norm must be linear: its
scale is *frozen* at what the whole residual stream gave it (Elhage et al. 2021; self-repair split off by McGrath et
al. 2023). Instead of knowing LayerNorm from RMSNorm by name, the map is recovered from the module itself
(is a shift ignored? what are the gains? what is the bias?) and then checked to reproduce the module on
the very residual stream it is frozen at. A norm that is no such map is refused.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headscope.errors import UnservedModel

# Large enough for any epsilon inside the square root to vanish in single precision.
_LOUD = 1e4


@dataclass(frozen=True)
class FrozenNorm:
    """norm(x) = (x - mean(x) if centred) * gain * inverse_scale(x) + bias, the inverse scale held fixed.

    `gain`, `bias` [model]; `inverse_scale` [..., 1], one per token of the residual stream it was frozen at.
    """

    gain: Tensor
    bias: Tensor
    centred: bool
    inverse_scale: Tensor

    def __call__(self, part: Tensor) -> Tensor:
        """What a part of the residual stream, [..., model], contributes to the normed one, without the bias."""
        if self.centred:
            part = part - part.mean(dim=-1, keepdim=True)
        return part * self.gain * self.inverse_scale

    def pull_back(self, direction: Tensor) -> Tensor:
        """The direction before the norm whose dot product with a part is `direction`'s with its image.

        `direction` is [..., model]; this is the transpose of the map above.
        """
        scaled = direction * self.gain * self.inverse_scale
        return scaled - scaled.mean(dim=-1, keepdim=True) if self.centred else scaled

    @classmethod
    def at(cls, norm: nn.Module | None, stream: Tensor) -> "FrozenNorm":
        """The map of `norm` at this stream, [..., model]; the identity where there is no norm.

        Of a half-precision model the map is in single precision.

        Raises:
            UnservedModel: if the module is not a centring (or not), scaling and shifting map.
        """
        width = stream.shape[-1]
        if stream.dtype in (torch.float16, torch.bfloat16):
            # Half precision is too coarse to tell gains from rounding: the same norm, in single precision.
            stream, norm = stream.float(), None if norm is None else copy.deepcopy(norm).float()
        if norm is None:
            ones = stream.new_ones(width)
            return cls(ones, torch.zeros_like(ones), False, stream.new_ones(*stream.shape[:-1], 1))
        with torch.no_grad():
            bias = norm(torch.zeros_like(stream.reshape(-1, width)[:1]))[0]
            signs = torch.where(torch.arange(width, device=stream.device) % 2 == 0, 1.0, -1.0).to(stream.dtype)
            centred = _ignores_shift(norm, signs)
            pure = signs - signs.mean() if centred else signs
            gain = (norm(_LOUD * signs[None])[0] - bias) * pure.pow(2).mean().sqrt() / pure
            normed = norm(stream) - bias
        middle = stream - stream.mean(dim=-1, keepdim=True) if centred else stream
        linear = middle * gain
        energy = linear.pow(2).sum(dim=-1, keepdim=True)
        # A residual stream of zeros (padding is one) has no scale, and takes none: 0 / 0 would refuse the whole norm.
        inverse_scale = (normed * linear).sum(dim=-1, keepdim=True) / torch.where(energy == 0, 1.0, energy)
        frozen = cls(gain, bias, centred, inverse_scale)
        if not torch.allclose(frozen(stream), normed, rtol=1e-3, atol=1e-3 * float(normed.abs().max())):
            raise UnservedModel(
                f"cannot freeze the norm {type(norm).__name__}: with its scale fixed it is not a linear map."
            )
        return frozen


def _ignores_shift(norm: nn.Module, signs: Tensor) -> bool:
    varied = signs * torch.linspace(0.5, 1.5, len(signs), device=signs.device, dtype=signs.dtype)
    plain, shifted = norm(varied[None]), norm(varied[None] + 3.0)
    return torch.allclose(plain, shifted, rtol=1e-2, atol=1e-2 * float(plain.abs().max()))
