"""Running a part of a model: one layer, some positions, many rows, by calling the model's own layers.

In: residual streams that stand before a layer, for the positions `start` to `stop` of some prompts, and the
keys and values of the positions before them. Out: the residual streams after it; at the end, logits. The decoder
layers are the model's own. What they are called with beside the residual stream (masks, rotary angles ...) the model
builds itself: its forward pass runs once over that many positions with every layer replaced by nothing,
and what each layer would have got is written down and used again. So nothing here knows any architecture;
and what an architecture does outside this scheme is found by comparing with a full pass (sweeps.check).

    replay.step(layer, stream, start=3, past)        the model's own layer, called by itself:

      past    keys, values  [0 1 2]                  kept from the base run, shared by all rows of a prompt
      stream  row = cell x prompt  [3 4 5]           what this pass computes
      masks, rotary angles for queries 3 to 5, keys 0 to 5      recorded once (`arguments`)
"""

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from headscope.models.anatomy import Anatomy
from headscope.models.fused import fused

Arguments = Mapping[str, Any]
_KEPT_WINDOWS = 8
# Replacing a forward is seen by every thread: one at a time on a model, and other threads get the module's own.
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()


class Past(DynamicCache):  # type: ignore[misc]
    """What the attention of one layer finds in its cache: keys and values of `length` earlier positions.

    `keys` and `values` [prompt, kv_head, position, head_dim] serve every row of their prompt, rows being
    ordered cell by cell; None where nothing is kept.
    """

    def __init__(self, length: int, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()
        self.length, self._keys, self._values = length, keys, values

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._keys is None or self._values is None or not self._keys.shape[2]:
            return key, value
        return _joined(self._keys, key), _joined(self._values, value)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        count = query_length if isinstance(query_length, int) else len(query_length)
        return self.length + count, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.length


class _Given(Past):
    """Keys and values that are complete already; what the layer makes is not used."""

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self._keys is not None
        assert self._values is not None
        return self._keys, self._values


class _Enough(Exception):
    """Raised once a layer's keys and values are known, when nothing else is wanted of it."""


class _KeysAlone(Past):
    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.found = super().update(key, value)
        raise _Enough


class Replay:
    """Calls parts of one model. `with_cache` is False where attention is not all that remembers positions."""

    def __init__(self, hf: nn.Module, anatomy: Anatomy, *, with_cache: bool = True) -> None:
        self.hf, self.anatomy, self.with_cache = hf, anatomy, with_cache
        self._layers = [layer.module for layer in anatomy.layers]
        self._named = [list(inspect.signature(type(m).forward).parameters)[1:] for m in self._layers]
        self.accepted = frozenset(inspect.signature(type(hf).forward).parameters)
        # Attention written out may fold batch and heads into one axis, and its arguments with it.
        self._per_row_count = bool(anatomy.inline)
        self._windows: OrderedDict[tuple[int, int, int], list[Arguments]] = OrderedDict()
        self._fused = fused(hf)
        # How many values a layer and an attention module return beside the first; None: a bare tensor.
        self.layer_extras: int | None = None
        self.attention_extras: dict[int, int | None] = {}
        # The layers whose attention module returns what its output projection made.
        self.projecting_last: dict[int, bool] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """No gradients, and activations in one kernel where there is one, until the block ends."""
        with torch.no_grad(), replaced(self.hf, self._fused):
            yield

    def arguments(self, like: Tensor, start: int, stop: int) -> list[Arguments]:
        """What each layer is called with, beside the residual stream, at positions `start` to `stop`."""
        rows = len(like) if self._per_row_count else 1
        key = (start, stop, rows)
        if key not in self._windows:
            self._windows[key] = self._record(like, start, stop, rows)
            while len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        return self._windows[key]

    def step(self, layer: int, stream: Tensor, start: int, past: Past | None) -> Tensor:
        """The residual stream [row, position, model] after a layer; its first position is `start`."""
        arguments = self.arguments(stream, start, start + stream.shape[1])[layer]
        return self.call(layer, stream, arguments, past)

    def call(self, layer: int, stream: Tensor, arguments: Arguments, past: Past | None) -> Tensor:
        """The residual stream after a layer that is called with these arguments and this cache."""
        given = {name: past if isinstance(value, Cache) else value for name, value in arguments.items()}
        result = self._layers[layer](stream, **given)
        after: Tensor = result[0] if isinstance(result, tuple | list) else result
        return after

    def step_from(self, layer: int, stream: Tensor, start: int, wanted: int, past: Past | None) -> Tensor:
        """The residual stream after a layer from position `wanted` on; earlier ones only give keys and values.

        Nothing may be edited in this layer.
        """
        skipped = wanted - start
        stop = start + stream.shape[1]
        if skipped <= 0 or past is None or self.anatomy.layers[layer].attention is None:
            return self.step(layer, stream, start, past)[:, max(0, skipped) :]
        keys_alone = _KeysAlone(past.length, past._keys, past._values)
        try:
            self.call(layer, stream, self.arguments(stream, start, stop)[layer], keys_alone)
        except _Enough:
            return self.step(layer, stream[:, skipped:], wanted, _Given(wanted, *keys_alone.found))
        return self.step(layer, stream, start, past)[:, skipped:]

    def after_attention(self, layer: int, stream: Tensor, attended: Callable[[], Tensor]) -> Tensor:
        """The residual stream after a layer whose attention module returns `attended()`."""
        module = self.anatomy.layers[layer].attention
        assert module is not None
        extras = self.attention_extras[layer]
        # Attention does not run, so arguments for any positions will do.
        arguments = self.arguments(stream, 0, stream.shape[1])[layer]
        with replaced(self.hf, [(module, lambda *_, **__: _with_extras(attended(), extras))]):
            return self.call(layer, stream, arguments, Past(0))

    def logits(self, stream: Tensor) -> Tensor:
        """Logits [row, position, vocab] from the residual stream [row, position, model] after the last layer."""
        through = [(m, lambda *_, **__: _with_extras(stream, self.layer_extras)) for m in self._layers]
        with replaced(self.hf, through):
            return self.hf(inputs_embeds=torch.zeros_like(stream), use_cache=False).logits  # type: ignore[no-any-return]

    def _record(self, like: Tensor, start: int, stop: int, rows: int) -> list[Arguments]:
        recorded: list[Arguments] = [{} for _ in self._layers]

        def stub(index: int) -> Callable[..., Any]:
            def record(*args: Any, **kwargs: Any) -> Any:
                given = dict(zip(self._named[index], args, strict=False)) | kwargs
                stream = given.pop(self._named[index][0])
                recorded[index] = given
                return _with_extras(stream, self.layer_extras)

            return record

        options: dict[str, Any] = {
            "inputs_embeds": like.new_zeros(rows, stop - start, like.shape[-1]),
            "position_ids": torch.arange(start, stop, device=like.device)[None],
            "past_key_values": Past(start) if self.with_cache else None,
            "use_cache": self.with_cache,
            "logits_to_keep": 1,
        }
        accepted = {name: value for name, value in options.items() if name in self.accepted}
        unembedding = self.anatomy.unembedding
        pairs = [(module, stub(index)) for index, module in enumerate(self._layers)]
        with replaced(self.hf, [*pairs, (unembedding, lambda stream, *_, **__: stream[..., :1])]):
            self.hf(**accepted)
        return recorded


@contextmanager
def replaced(hf: nn.Module, pairs: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Modules of a model compute something else in this thread until the block ends.

    An instance may carry a forward of its own already (offloading sets one): it is put back.
    """
    me = threading.get_ident()
    with _locks.setdefault(hf, threading.RLock()), ExitStack() as stack:
        for module, instead in pairs:
            if "forward" in module.__dict__:
                stack.callback(module.__dict__.update, forward=module.forward)
            else:
                stack.callback(module.__dict__.pop, "forward", None)
            module.__dict__["forward"] = _in_thread(me, instead, module.forward)
        yield


def _in_thread(me: int, instead: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (instead if threading.get_ident() == me else own)(*args, **kwargs)

    forward.stands_for = own  # type: ignore[attr-defined]  # who looks for changes of the model sees none
    return forward


def _with_extras(value: Tensor, extras: int | None) -> Any:
    return value if extras is None else (value, *[None] * extras)


def _joined(earlier: Tensor, own: Tensor) -> Tensor:
    """Keys or values of earlier positions, the same for each cell, before those of the rows."""
    rows, heads, new, width = own.shape
    prompts, _, before, _ = earlier.shape
    joined = own.new_empty(rows, heads, before + new, width)
    joined.view(rows // prompts, prompts, heads, before + new, width)[..., :before, :] = earlier
    joined[:, :, before:] = own
    return joined
