"""The same activation function in one kernel, where a model writes it out step by step.

In: a model. Out: pairs of modules and functions to put in their place (`replay.replaced`). GPT-2 and its
descendants compute the tanh form of GELU in seven elementwise steps, each of which goes through memory; torch
has it as one kernel, which differs by rounding alone. In half precision each step rounds, so there the model's own
steps are kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import activations

_TANH_GELU = (activations.NewGELUActivation, activations.FastGELUActivation)


def fused(hf: nn.Module) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """The activation modules of a float32 model that one kernel can replace."""
    if next(hf.parameters()).dtype != torch.float32:
        return []
    return [(module, _tanh_gelu) for module in hf.modules() if type(module) in _TANH_GELU]


def _tanh_gelu(stream: Tensor) -> Tensor:
    return functional.gelu(stream, approximate="tanh")
