"""Whole attention layers left out at random while a model trains, so that no layer can be relied on.

In: a model and a share. Out: nothing; inside the context, each example of a batch loses what each attention
layer would add, at every position, with that probability, and what stays is scaled up so that the mean is
kept. A model that has learnt so has several layers for the same job: redundancy put there on purpose, as a
positive control for studies that look for it. (Structured dropout: Fan et al. 2020, "Reducing Transformer
Depth on Demand with Structured Dropout"; here for the attention of single examples.)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headscope.architectures import ToyForCausalLM
from headscope.architectures.attention import ToyAttention


@contextmanager
def attention_dropped(model: ToyForCausalLM, share: float, n: int, generator: np.random.Generator) -> Iterator[None]:
    """Leave attention layers out for a share of `n` examples, drawn from `generator`; 0 changes nothing."""
    if share == 0:
        yield
        return
    attentions = [module for module in model.modules() if isinstance(module, ToyAttention)]
    drawn = generator.random((len(attentions), n)) >= share
    scales = torch.from_numpy(drawn / (1 - share)).float()

    def scaled(scale: Tensor, module: nn.Module, given: Any, result: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        return result[0] * scale[:, None, None], result[1]

    with ExitStack() as hooks:
        for attention, scale in zip(attentions, scales, strict=True):
            hooks.enter_context(attention.register_forward_hook(partial(scaled, scale)))
        yield
