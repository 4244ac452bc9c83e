"""The reference of the tests on real models: plain transformers, forward hooks, attention written out. No headscope.

In: a folder, opened a second time with a configuration of its own (models that share one share its attention too).
Out: logits under changes, what sites hold under them, and patterns of eager attention. A change takes a site of one
layer and returns what stands there instead: `z` before the output projection, `q`, `k`, `v` before rotary positions
(and after the norms that Gemma has on them), `resid_pre` before a layer, `mlp_out`. Slow: one full pass for all.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

Value = Callable[[Tensor, "Scene"], Tensor]


@dataclass(frozen=True)
class Change:
    """What stands at a site of a layer instead: `make` gets its value [batch, position, (head, head_dim | model)]."""

    site: str
    layer: int
    make: Value


@dataclass(frozen=True)
class Scene:
    """What surrounds a change of z: the pattern of its layer [batch, head, query, key], and values by query head."""

    pattern: Tensor | None = None
    values: Tensor | None = None


class Plain:
    """A model of the Llama or Gemma 3 type with nothing around it."""

    def __init__(self, folder: Path) -> None:
        self.hf: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.layers = self.hf.model.layers

    def logits(self, ids: Tensor, *changes: Change) -> Tensor:
        """Logits [batch, position, vocab]; several changes of one site are made in their order."""
        with ExitStack() as stack, torch.inference_mode():
            for handle in (hook for change in changes for hook in self._hooks(change)):
                stack.callback(handle.remove)
            return self.hf(ids, use_cache=False).logits

    def values(
        self, ids: Tensor, places: Iterable[tuple[str, int]], *changes: Change
    ) -> dict[tuple[str, int], Tensor]:
        """What sites hold under changes."""
        kept: dict[tuple[str, int], Tensor] = {}

        def keep(place: tuple[str, int]) -> Value:
            def look(value: Tensor, scene: Scene) -> Tensor:
                kept[place] = value.clone()
                return value

            return look

        self.logits(ids, *changes, *(Change(*place, keep(place)) for place in places))
        return kept

    def patterns(self, ids: Tensor, *changes: Change) -> list[Tensor]:
        """Attention of every layer [batch, head, query, key], as hooks compute it: the same up to rounding."""
        kept: list[Tensor] = []

        def keep(value: Tensor, scene: Scene) -> Tensor:
            kept.append(scene.pattern)
            return value

        self.logits(ids, *changes, *(Change("z", layer, keep) for layer in range(len(self.layers))))
        return kept

    def eager_patterns(self, ids: Tensor) -> list[Tensor]:
        """Attention of every layer as transformers' own eager attention returns it."""
        self.hf.set_attn_implementation("eager")
        with torch.inference_mode():
            told = self.hf(ids, use_cache=False, output_attentions=True).attentions
        self.hf.set_attn_implementation("sdpa")
        return list(told)

    def continued(self, ids: Tensor, tokens: int, changes: Callable[[], Sequence[Change]]) -> Tensor:
        """Greedy tokens [batch, token], the whole text computed anew for each."""
        start = ids.shape[1]
        for _ in range(tokens):
            ids = torch.cat([ids, self.logits(ids, *changes())[:, -1:].argmax(-1)], 1)
        return ids[:, start:]

    def _hooks(self, change: Change) -> list[Any]:
        layer, attention = self.layers[change.layer], self.layers[change.layer].self_attn
        if change.site == "resid_pre":
            return [layer.register_forward_pre_hook(lambda _, args: (change.make(args[0], Scene()), *args[1:]))]
        if change.site == "z":
            return self._z_hooks(change, attention)
        if change.site == "mlp_out":
            module = getattr(layer, "post_feedforward_layernorm", layer.mlp)
            return [module.register_forward_hook(lambda _, args, out: change.make(out, Scene()))]
        module = getattr(attention, f"{change.site}_norm", getattr(attention, f"{change.site}_proj"))
        heads_first = module is not getattr(attention, f"{change.site}_proj")

        def on_projection(_: Any, args: Any, out: Tensor) -> Tensor:
            by_head = out.transpose(1, 2) if heads_first else out.unflatten(-1, (-1, attention.head_dim))
            made = change.make(by_head, Scene())
            return made.transpose(1, 2) if heads_first else made.flatten(-2)

        return [module.register_forward_hook(on_projection)]

    def _z_hooks(self, change: Change, attention: Any) -> list[Any]:
        seen: dict[str, Tensor] = {}

        def enters(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen["pattern"], seen["values"] = attention_of(attention, args, kwargs)

        def leaves(_: Any, args: Any) -> tuple[Tensor]:
            z = args[0].unflatten(-1, (-1, attention.head_dim))
            return (change.make(z, Scene(seen["pattern"], seen["values"])).flatten(-2),)

        return [
            attention.register_forward_pre_hook(enters, with_kwargs=True),
            attention.o_proj.register_forward_pre_hook(leaves),
        ]


def attention_of(attention: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Pattern [batch, head, query, key] and values [batch, head, key, head_dim], from what enters the module.

    Written out: projections, norms on queries and keys, rotary positions, scores, mask, window, softmax.
    """
    hidden = args[0] if args else kwargs["hidden_states"]
    cos, sin = (each.unsqueeze(1) for each in kwargs["position_embeddings"])

    def by_head(name: str) -> Tensor:
        return getattr(attention, f"{name}_proj")(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    def rotated(name: str) -> Tensor:
        value = by_head(name)
        value = getattr(attention, f"{name}_norm")(value) if hasattr(attention, f"{name}_norm") else value
        low, high = value.chunk(2, -1)
        return value * cos + torch.cat([-high, low], -1) * sin

    groups = attention.num_key_value_groups
    keys, values = rotated("k").repeat_interleave(groups, 1), by_head("v").repeat_interleave(groups, 1)
    scores = rotated("q") @ keys.transpose(2, 3) * attention.scaling
    back = torch.arange(scores.shape[2])[:, None] - torch.arange(scores.shape[3])
    window = getattr(attention, "sliding_window", None) or scores.shape[3]
    seen = (back >= 0) & (back < window)
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1), values


def at(heads: Sequence[int], value: Callable[[Tensor, Scene, int], Tensor], positions: Any = slice(None)) -> Value:
    """A change of these heads alone, [batch, position, head, ...], at these positions: `value` gives each head's."""

    def make(current: Tensor, scene: Scene) -> Tensor:
        made = current.clone()
        for head in heads:
            made[:, positions, head] = value(current[:, :, head], scene, head)[:, positions]
        return made

    return make


def attending(rows: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Scene, int], Tensor]:
    """What a head returns where `rows` gives its pattern anew, [batch, query, key] from the same."""

    def value(_: Tensor, scene: Scene, head: int) -> Tensor:
        return rows(scene.pattern[:, head].clone()) @ scene.values[:, head]

    return value
