"""The run from which the cells of a sweep resume: streams, keys, values, and what attention returned.

In: prompts, the edits that hold in every cell, and what will be needed. Out: a `BaseRun`. A residual stream is kept
as it *enters* its layer, before edits of `resid_pre`, and z as it enters the projection, before edits of z:
whoever resumes there applies the edits of that place again, his own after them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import DynamicCache

from headscope.models.attention import AttentionCall
from headscope.models.execution import edited
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.models.replay import Past, Replay
from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class Needs:
    """What is to be kept: streams before these layers (the number of layers: after the last), and more.

    `inside` are the layers that will be entered after their attention, `calls` those whose attention call
    will be replayed; `keys` says whether keys and values are wanted.
    """

    streams: frozenset[int]
    inside: frozenset[int] = frozenset()
    calls: frozenset[int] = frozenset()
    keys: bool = True


@dataclass
class BaseRun:
    """What one run left behind, at positions 0 to `stop` of all prompts.

    `stream[layer]` [prompt, position, model]; `attended[layer]` what the attention module returned, likewise;
    `z[layer]` and `projected[layer]` what entered and left the output projection; `keys` and `values`
    [prompt, kv_head, position, head_dim].
    """

    prompts: Prompts
    stop: int
    layout: Layout
    edits: tuple[SiteEdit | CallEdit, ...]
    stream: dict[int, Tensor] = field(default_factory=dict)
    attended: dict[int, Tensor] = field(default_factory=dict)
    z: dict[int, Tensor] = field(default_factory=dict)
    projected: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    calls: dict[int, AttentionCall] = field(default_factory=dict)

    def past(self, layer: int, length: int) -> Past:
        """The keys and values of the first `length` positions of a layer."""
        if not length or layer not in self.keys:
            return Past(length)
        return Past(length, self.keys[layer][:, :, :length], self.values[layer][:, :, :length])


def base_run(
    replay: Replay,
    prompts: Prompts,
    device: torch.device,
    edits: Sequence[SiteEdit | CallEdit],
    needs: Needs,
    stop: int,
) -> BaseRun:
    """Run the prompts up to position `stop` under these edits and keep what is needed."""
    layout = Layout.of(prompts, device)
    base = BaseRun(prompts, stop, layout, tuple(edits))
    cache = DynamicCache() if replay.with_cache and needs.keys else None
    options: dict[str, Any] = {"use_cache": cache is not None, "past_key_values": cache}
    if "logits_to_keep" in replay.accepted:
        options["logits_to_keep"] = 1
    with _keeping(replay, base, needs, edits):
        replay.hf(prompts.ids[:, :stop].to(device), **options)
    for index in needs.inside - set(replay.projecting_last):
        left, kept = base.attended[index], base.projected[index]
        replay.projecting_last[index] = torch.equal(left.reshape(-1), kept.reshape(-1))
    if cache is not None:
        for index, layer in enumerate(cache.layers):
            base.keys[index], base.values[index] = layer.keys, layer.values
    return base


def resumed_run(
    replay: Replay, earlier: BaseRun, edits: Sequence[SiteEdit | CallEdit], needs: Needs, layer: int
) -> BaseRun:
    """The base run under other edits that differ from those of an earlier one in this layer and later alone.

    Keys and values are not kept: for cells that start at position 0.
    """
    if needs.keys or layer not in earlier.stream:
        return base_run(replay, earlier.prompts, earlier.layout.lengths.device, edits, needs, earlier.stop)
    base = replace(earlier, edits=tuple(edits), layout=Layout.of(earlier.prompts, earlier.layout.lengths.device))
    for name in ("stream", "attended", "z", "projected", "calls"):
        setattr(base, name, dict(getattr(earlier, name)))
    base.layout.advance(base.stop)
    stream = base.stream[layer]
    replay.arguments(stream, 0, base.stop)  # now, while nothing is edited
    with _keeping(replay, base, needs, [edit for edit in edits if edit.layer >= layer]):
        for index in range(layer, len(replay.anatomy.layers)):
            stream = replay.step(index, stream, 0, Past(0) if replay.with_cache else None)
    return base


@contextmanager
def _keeping(replay: Replay, base: BaseRun, needs: Needs, edits: Sequence[SiteEdit | CallEdit]) -> Iterator[None]:
    """Edits, and hooks that keep what is needed. Those entered last and put first see values before edits."""

    def reader(call: AttentionCall) -> None:
        if call.layer in needs.calls:
            base.calls[call.layer] = call

    layers, watch = replay.anatomy.layers, reader if needs.calls else None
    with ExitStack() as stack:
        stack.enter_context(edited(replay.hf, replay.anatomy, base.layout, edits=edits, reader=watch))
        for index, layer in enumerate(layers):
            if index in needs.streams:
                stack.enter_context(_keep_input(layer.module, base.stream, index))
            if index in needs.inside and layer.attention is not None:
                stack.enter_context(_keep_output(layer.attention, base.attended, index, replay.attention_extras))
            if index in needs.inside and layer.projection is not None:
                stack.enter_context(_keep_input(layer.projection, base.z, index))
                stack.enter_context(_keep_output(layer.projection, base.projected, index))
        last: dict[int, int | None] = {}
        stack.enter_context(_keep_output(layers[-1].module, base.stream, len(layers), last, prepend=False))
        yield
        replay.layer_extras = last[len(layers)]


def _keep_input(module: nn.Module, kept: dict[int, Tensor], index: int) -> RemovableHandle:
    # Clones, here and below: some families change in place what they hand on.
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs), "")
        kept[index] = (args[0] if args else kwargs[name]).clone()

    return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)


def _keep_output(
    module: nn.Module,
    kept: dict[int, Tensor],
    index: int,
    extras: dict[int, int | None] | None = None,
    *,
    prepend: bool = True,
) -> RemovableHandle:
    def hook(_: nn.Module, args: Any, result: Any) -> None:
        several = isinstance(result, tuple | list)
        kept[index] = (result[0] if several else result).clone()
        if extras is not None:
            extras[index] = len(result) - 1 if several else None

    return module.register_forward_hook(hook, prepend=prepend)
