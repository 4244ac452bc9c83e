"""Attention that a model file computes by itself: softmax(QK)V written out, or a fused call of its own.

Some families (gpt_neo, gptj, codegen, bloom, mpt, xglm, falcon ...) never ask for a kernel. For them the
torch functions called *within the attention module's forward* are watched: a fused call is served like any
kernel; otherwise the first softmax over keys gives the pattern and the next matrix product mixes the
values. Un-edited, every function gets its own arguments and returns its own result, so logits stay
bit-identical. Of the written-out form, queries and keys cannot be told apart safely: `q` and `k` are
refused there (models.model), everything else is served.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headscope.models.attention import AttentionCall, redirected
from headscope.models.layout import Layout
from headscope.models.tap import Tap, pass_through

SOFTMAXES = frozenset({F.softmax, torch.softmax, torch.Tensor.softmax, torch._softmax})
PRODUCTS = frozenset({torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__})
_FUSED_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class WrittenOutCall(AttentionCall):
    """A call whose softmax has run in the model file: its pattern is known, its values come later."""

    def __init__(self, layer: int, module: nn.Module, pattern: Tensor, layout: Layout) -> None:
        nothing = pattern.new_empty(len(pattern), pattern.shape[1], 0, 0)
        super().__init__(layer, module, nothing, nothing, nothing, None, {}, _no_kernel, _no_kernel, layout)
        self._pattern = self._unedited = pattern

    @property
    def keys(self) -> int:
        return self.written.shape[3]

    @property
    def queries(self) -> int:
        return self.written.shape[2]

    @property
    def queries_per_key(self) -> int:
        return self.q.shape[1] // self.v.shape[1]

    def visible(self) -> Tensor:
        """A masked key has probability 0 in every head; none else has in all of them."""
        return (self._unedited > 0).any(dim=1)

    def write_pattern(self, pattern: Tensor) -> None:
        self._pattern = pattern

    def join(self, parts: Sequence[tuple[slice, AttentionCall]]) -> None:
        self._pattern = self.written.clone()
        for rows, part in parts:
            self._pattern[rows] = part.pattern()

    def redirect(self, head: int, rows: Tensor, cells: Tensor, strength: float = 1.0) -> None:
        # The values are still to come: a row with one key in the pattern returns that key's value.
        self._pattern = redirected(self.written, head, rows, cells, strength)

    @property
    def written(self) -> Tensor:
        """The pattern that the values are to be mixed with."""
        assert self._pattern is not None
        return self._pattern


class InlineAttention(TorchFunctionMode):
    """Watches one forward of one attention module; entered and left by hooks on it."""

    def __init__(self, layer: int, module: nn.Module, tap: Tap) -> None:
        super().__init__()
        self._layer, self._module, self._tap = layer, module, tap
        self._call: WrittenOutCall | None = None
        self._done = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._done:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._fused(func, args, kwargs)
        if func in SOFTMAXES and self._call is None:
            return self._softmax(func(*args, **kwargs))
        if func in PRODUCTS and self._call is not None:
            return self._mix(func, args, kwargs)
        return func(*args, **kwargs)

    def _fused(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        given = dict(zip(_FUSED_NAMES, args, strict=False)) | kwargs

        def kernel(_: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **__: Any) -> tuple[Tensor, None]:
            rest = {name: value for name, value in given.items() if name not in ("query", "key", "value")}
            return func(q, k, v, **rest).transpose(1, 2), None

        call = AttentionCall(
            self._layer,
            self._module,
            q=given["query"],
            k=given["key"],
            v=given["value"],
            mask=given.get("attn_mask"),
            options={"scaling": given.get("scale"), "is_causal": given.get("is_causal", False)},
            kernel=kernel,
            eager=written_out,
            layout=self._tap.layout,
            fused_inline=True,
        )
        self._done = True
        pass_through(call, [self._tap])
        return call.out.transpose(1, 2)

    def _softmax(self, weights: Tensor) -> Tensor:
        layout, rows = self._tap.layout, len(self._tap.layout.lengths)
        if not is_pattern(weights, rows, layout.cells_now):
            return weights
        call = WrittenOutCall(self._layer, self._module, by_example(weights, rows), layout)
        before = call.written
        self._tap.edit_call(call)
        self._call = call
        if call.written is before:
            return weights
        return call.written.reshape(weights.shape).to(weights).contiguous()  # model files view it

    def _mix(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        call, rows = self._call, len(self._tap.layout.lengths)
        assert call is not None
        weights, values = args[0], args[1]
        if weights.numel() != call.written.numel() or values.shape[-2] != call.keys:
            return func(*args, **kwargs)  # type: ignore[no-any-return]
        call.k = call.v = before = by_example(values, rows)
        self._tap.edit_inputs(call, ("v",))
        if call.v is not before:
            values = call.v.reshape(values.shape)
        mixed = func(weights, values, *args[2:], **kwargs)
        call.q = mixed.new_empty(rows, call.written.shape[1], 0, 0)
        call.out = by_example(mixed, rows).transpose(1, 2)
        self._done = True
        self._tap.read(call)
        return mixed  # type: ignore[no-any-return]


def is_pattern(weights: Tensor, rows: int, queries: int) -> bool:
    """Whether a softmax's result is [batch, head, query, key], or the same with batch and head in one."""
    if weights.ndim == 4:
        return weights.shape[0] == rows and weights.shape[2] == queries
    return weights.ndim == 3 and weights.shape[0] % rows == 0 and weights.shape[1] == queries


def written_out(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scaling: float | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """Plain attention, with which the pattern of a fused call is computed beside it."""
    keys, values = (tensor.repeat_interleave(q.shape[1] // tensor.shape[1], dim=1) for tensor in (k, v))
    scores = q @ keys.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = (scores if mask is None else scores + mask).float().softmax(-1).to(q.dtype)
    return (weights @ values).transpose(1, 2), weights


@contextmanager
def watching(tap: Tap, inline: dict[nn.Module, int]) -> Iterator[None]:
    """Watch the inline attention modules that this tap touches until the block ends."""
    entered: list[InlineAttention] = []

    def before(module: nn.Module, args: Any) -> None:
        if tap.is_current:
            mode = InlineAttention(inline[module], module, tap)
            mode.__enter__()  # type: ignore[no-untyped-call]
            entered.append(mode)

    def after(module: nn.Module, args: Any, result: Any) -> None:
        if tap.is_current and entered:
            entered.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    with ExitStack() as stack:
        for module, layer in inline.items():
            if tap.touches(layer):
                stack.callback(module.register_forward_pre_hook(before).remove)
                # always_call: the mode must be left by an exception too.
                stack.callback(module.register_forward_hook(after, always_call=True).remove)
        yield


def by_example(tensor: Tensor, rows: int) -> Tensor:
    """[batch * head, ...] or [batch, head, ...] as [batch, head, ...]."""
    return tensor if tensor.ndim == 4 else tensor.reshape(rows, -1, *tensor.shape[1:])


def _no_kernel(*_: Any, **__: Any) -> tuple[Tensor, Tensor | None]:
    raise AssertionError("a written-out call has no kernel")
