"""Attention of every head on key sets, prompt by prompt, beside a null: what detector tables summarise, as samples.

In: a model, prompts and which keys count for which query (detectors.pairs, detectors.roles). Out: `KeyAttention`,
samples [prompt, head] of the attention and of its excess over the null, on prompts that every layer judges. The
null are the same key sets on matched prompts, or other visible keys of the same queries: those that the key sets
name (numbers of another role), or all. All nulls of a kind of heads of pairs: `roles.role_attention`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.detectors.scores import LayerMass
from headscope.errors import PromptError
from headscope.measures.samples import Samples, over_heads
from headscope.models.model import Model
from headscope.tables import Quantity
from headscope.tasks.prompts import Prompts

ATTENTION = Quantity("attention", "mean attention on the keys that count", "probability", (0.0, 1.0))
BEYOND_NULL = Quantity("beyond_null", "the same minus that on the null's keys", "probability", (-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class KeyAttention:
    """Attention on key sets and its excess over the null, both [prompt, head].

    `left_out` says which prompts and queries are not in it, and why; empty where all are.
    """

    attention: Samples
    beyond_null: Samples
    left_out: str = ""

    @classmethod
    def of(cls, model: Model, layers: Mapping[int, LayerMass]) -> "KeyAttention":
        """Of what one detector read in every layer, such as `roles.role_attention`.

        Raises:
            PromptError: where no prompt has a query to judge in every layer.
        """
        read = [layers[layer] for layer in sorted(layers)]
        kept = torch.stack([each.kept for each in read]).all(0)
        left_out = _left_out(layers, int(kept.sum()), len(kept))
        if not bool(kept.any()):
            raise PromptError(f"cannot read attention: no prompt has a query to judge in every layer{left_out}.")
        attention, excess = (
            over_heads(quantity, model.heads, torch.cat(values, dim=1)[kept].double().numpy())
            for quantity, values in (
                (ATTENTION, [each.mass for each in read]),
                (BEYOND_NULL, [each.above for each in read]),
            )
        )
        return cls(attention, excess, left_out.removeprefix("; "))


def _left_out(layers: Mapping[int, LayerMass], kept: int, prompts: int) -> str:
    """What is not counted, as the end of a sentence; empty where all is."""
    few = f"; {kept} of {prompts} prompts have a query to judge in every layer" if 0 < kept < prompts else ""
    hidden = {layer: read.hidden for layer, read in layers.items() if read.hidden}
    if not hidden:
        return few
    worst, many = max(hidden.values()), ", ".join(map(str, sorted(hidden)))
    return (
        f"{few}; in layer{'s' if len(hidden) > 1 else ''} {many} all keys of {'up to ' if len(hidden) > 1 else ''}"
        f"{worst:.0%} of queries lie outside the window"
    )


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
    return KeyAttention.of(
        model,
        {
            layer: LayerMass(mass[0], null[layer][0], reading.uniform[layer][0], float(reading.hidden[layer][0]))
            for layer, mass in reading.mass.items()
        },
    )
