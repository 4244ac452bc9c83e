"""Attention of every head on key sets, prompt by prompt, beside a null: what detector tables summarise, as samples.

In: a model, prompts and which keys count for which query (detectors.pairs, detectors.roles). Out: `KeyAttention`,
samples [prompt, head] of the attention and of its excess over the null, on prompts that every layer judges. The
null are the same key sets on matched prompts, or other visible keys of the same queries: those that the key sets
name (numbers of another role), or all. All nulls of a kind of heads of pairs: `roles.role_attention`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.errors import PromptError
from headscope.measures.samples import Samples, over_heads
from headscope.models.model import Model
from headscope.tables import Quantity
from headscope.tasks.prompts import Prompts

ATTENTION = Quantity("attention", "mean attention on the keys that count", "probability", (0.0, 1.0))
BEYOND_NULL = Quantity("beyond_null", "the same minus that on the null's keys", "probability", (-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class KeyAttention:
    """Attention on key sets and its excess over the null, both [prompt, head]."""

    attention: Samples
    beyond_null: Samples


def key_attention(
    model: Model, keys: Callable[[Prompts], KeySets], shown: Prompts, matched: Prompts | None = None
) -> KeyAttention:
    """Attention on these keys; the null is on `matched` prompts or, without them, on other keys of the same queries.

    Raises:
        PromptError: where no prompt has a query to judge in every layer.
    """
    reading = MassReading([keys(shown)])
    model.read(shown, [reading])
    null = reading.other
    if matched is not None:
        on_matched = MassReading([keys(shown)])
        model.read(matched, [on_matched])
        null = on_matched.mass
    layers = sorted(reading.mass)
    mass = torch.cat([reading.mass[layer][0] for layer in layers], dim=1)
    beyond = mass - torch.cat([null[layer][0] for layer in layers], dim=1)
    kept = ~beyond.isnan().any(1)
    if not bool(kept.any()):
        raise PromptError("cannot read attention: no prompt has a query to judge in every layer.")
    attention, excess = (
        over_heads(quantity, model.heads, values[kept].double().numpy())
        for quantity, values in ((ATTENTION, mass), (BEYOND_NULL, beyond))
    )
    return KeyAttention(attention, excess)
