"""Teaching a model to hold a task apart from the input it is applied to: a positive control for task vectors.

In: a batch about hidden functions, on its way through the model. Out: an extra loss. The residual stream that enters
a layer at some answer positions is put at the last position of prompts without context, `<bos> x ,` with an x of
their own, and from there the model must answer with *their* value of the hidden function. So what stands before that
layer has to carry the function, and x has to be read after it. Small models have no reason to work in that order by
themselves, and a study of transported tasks needs one that certainly does (interchange intervention training: Geiger
et al. 2022, "Inducing Causal Structure for Interpretable Neural Networks").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headscope.architectures import ToyForCausalLM
from headscope.tasks.functions import Ints
from headscope.tasks.pairs import BOS, WIDTH, Y_OFFSET, PairLanguage

PER_SEQUENCE = 4
"""How many answer positions of each sequence are tried; a prompt without context has 3 tokens, so it is cheap."""


@contextmanager
def entering(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What enters `layer` while the context is open: one stream [batch, position, model] per call."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda module, given: seen.append(given[0])):
        yield seen


def carried_loss_nats(
    model: ToyForCausalLM,
    language: PairLanguage,
    layer: int,
    stream: Tensor,
    parameters: Ints,
    generator: np.random.Generator,
) -> Tensor:
    """Mean loss of prompts without context that are handed the function through `layer`.

    `stream` [sequence, position, model] entered `layer` when the model read sequences about the functions
    `parameters` [sequence, 2]. Answers are corrupted as in the language, so that both losses want the same odds.
    """
    n, n_readouts = len(parameters), stream[0, Y_OFFSET - 1 :: WIDTH].shape[0]
    chosen = generator.random((n, n_readouts)).argsort(axis=1)[:, :PER_SEQUENCE]
    rows = np.arange(n)[:, None]
    handed = stream[rows, Y_OFFSET - 1 + WIDTH * chosen].flatten(0, 1)
    x = language.draw_inputs(n, chosen.shape[1], generator)
    y = language.shown_values(parameters, x, language.noise, generator)
    prompts = np.stack(
        (np.full(x.size, BOS), language.number_tokens(x).ravel(), np.full(x.size, language.comma)), axis=1
    )

    def hand_over(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return torch.cat((given[0][:, :-1], handed[:, None]), dim=1), *given[1:]

    with model.model.layers[layer].register_forward_pre_hook(hand_over):
        logits = model(torch.from_numpy(prompts)).logits[:, -1]
    wanted = torch.from_numpy(language.number_tokens(y).ravel())
    return nn.functional.cross_entropy(logits, wanted)
