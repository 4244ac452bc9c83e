"""The one wrapped function through which headscope sees the attention of every model.

transformers asks `AttentionInterface.get_interface` for a kernel in nearly every architecture. That method
is wrapped once, at import. While nothing is active it returns the kernel itself; while a `Tap` is active *in this
thread*, a kernel that lets the tap edit and read the call. Un-edited logits are bit-identical. (Registering
a kernel under a name of one's own instead changes the masks that some families build: silently wrong.)

Taps nest: the outermost edits first. A tap leaves no trace when its block ends, by an exception too. New
threads start without taps; run them in `contextvars.copy_context()` to hand one on.
"""

import functools
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import transformers
from torch import Tensor, nn
from transformers import modeling_utils

from headscope.errors import HeadscopeError
from headscope.models.attention import AttentionCall, Kernel
from headscope.models.layout import Layout
from headscope.models.protocols import CallChange, CallEdit, SiteChange, SiteEdit

T = TypeVar("T")
_stack: ContextVar[tuple["Tap", ...]] = ContextVar("headscope_taps", default=())
_lock = threading.Lock()
# A plain number, tested before the ContextVar: cheap, and transparent to torch.compile while it is 0.
_active = 0


class Tap:
    """What one run changes in, and reads from, one model.

    `layer_of` names the attention modules that belong to the model; calls of others pass untouched. `edits` apply
    in their order: those of q, k and v before a kernel runs, those of the pattern and the call after it, others where
    hooks ask for `changed` (models.hooks). `readers` maps a layer to functions of the finished call.
    """

    def __init__(
        self,
        layer_of: Mapping[nn.Module, int],
        layout: Layout,
        *,
        edits: Sequence[SiteEdit | CallEdit] = (),
        readers: Mapping[int, Sequence[Callable[[AttentionCall], None]]] | None = None,
    ) -> None:
        self.layer_of, self.layout = layer_of, layout
        self._readers = readers or {}
        self._changes: dict[tuple[str, int], list[SiteChange]] = defaultdict(list)
        self._call_changes: dict[int, list[tuple[str, CallChange]]] = defaultdict(list)
        for edit in edits:
            if isinstance(edit, CallEdit):
                self._call_changes[edit.layer].append(("call", edit.change))
            elif edit.site == "pattern":
                self._call_changes[edit.layer].append(("pattern", rewriting(edit)))
            else:
                self._changes[edit.site, edit.layer].append(edit.change)
        # What was changed so far: an edit whose place is never reached must not pass for one that did nothing.
        self.reached: set[tuple[str, int]] = set()

    def changes(self, layer: int, *sites: str) -> bool:
        """Whether there is a change of one of these sites in a layer."""
        return any((site, layer) in self._changes for site in sites)

    def touches(self, layer: int) -> bool:
        """Whether this tap changes or reads anything of that layer's attention."""
        return self.changes(layer, "q", "k", "v") or layer in self._call_changes or layer in self._readers

    def changed(self, site: str, layer: int, value: Tensor) -> Tensor:
        """The value of a site after all changes of it; itself where there are none."""
        for change in self._changes.get((site, layer), ()):
            self.reached.add((site, layer))
            value = change(value, self.layout)
        return value

    def edit_inputs(self, call: AttentionCall, names: Sequence[str] = ("q", "k", "v")) -> None:
        for name in names:
            if self.changes(call.layer, name):
                value = getattr(call, name).transpose(1, 2)
                setattr(call, name, self.changed(name, call.layer, value).transpose(1, 2))

    def edit_call(self, call: AttentionCall) -> None:
        for site, change in self._call_changes.get(call.layer, ()):
            self.reached.add((site, call.layer))
            change(call, self.layout)

    def read(self, call: AttentionCall) -> None:
        for reader in self._readers.get(call.layer, ()):
            reader(call)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Edit and read every call of this thread until the block ends."""
        global _active
        with _lock:
            _active += 1
        try:
            with holding(_stack, (*_stack.get(), self)):
                yield
        finally:
            with _lock:
                _active -= 1

    @property
    def is_current(self) -> bool:
        """Whether this tap is active in the current thread (hooks of modules are seen by all threads)."""
        return any(tap is self for tap in _stack.get())


def _tapped(kernel: Kernel, eager: Kernel, stack: tuple[Tap, ...]) -> Kernel:
    @functools.wraps(kernel)
    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        taps = [tap for tap in stack if module in tap.layer_of]
        if not taps:
            return kernel(module, query, key, value, attention_mask, **options)
        layer, layout = taps[-1].layer_of[module], taps[-1].layout
        call = AttentionCall(layer, module, query, key, value, attention_mask, options, kernel, eager, layout)
        weights = pass_through(call, taps)
        return call.out, weights

    return attend


def pass_through(call: AttentionCall, taps: Sequence[Tap]) -> Tensor | None:
    """Run one call's kernel with the edits and readings of these taps; returns the kernel's weights."""
    for tap in taps:
        tap.edit_inputs(call)
    weights = call.run_kernel()
    finish(call, taps)
    return weights


def finish(call: AttentionCall, taps: Sequence[Tap]) -> None:
    """What happens to a call after its kernel: edits, in the order given, then readings."""
    for tap in taps:
        tap.edit_call(call)
    for tap in taps:
        tap.read(call)


def rewriting(edit: SiteEdit) -> CallChange:
    """A change of the pattern [batch, cell, head, key] as a change of the call."""

    def rewrite(call: AttentionCall, layout: Layout) -> None:
        before = call.pattern().transpose(1, 2)
        by_query = edit.change(before, layout)
        if edit.within_window and call.hides:
            call.require_seen(((by_query > 0) & (by_query != before)).any(2), layout, edit.within_window)
        call.write_pattern(by_query.transpose(1, 2))

    return rewrite


@contextmanager
def holding(variable: ContextVar[T], value: T) -> Iterator[None]:
    """A block in which a variable of this thread has this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def aside() -> AbstractContextManager[None]:
    """Forward passes of this thread in the block are nobody's: no tap edits or reads them."""
    return holding(_stack, ())


def _install() -> None:
    interface = getattr(modeling_utils, "AttentionInterface", None)
    original = getattr(interface, "get_interface", None)
    parameters = list(inspect.signature(original).parameters) if original is not None else []
    if parameters != ["self", "attn_implementation", "default"]:
        raise HeadscopeError(
            f"cannot use transformers {transformers.__version__}: headscope needs "
            "AttentionInterface.get_interface(attn_implementation, default), which exists from 5.1 on. "
            "Install transformers 5.1 or newer, below 6."
        )
    assert original is not None

    @functools.wraps(original)
    def get_interface(self: Any, attn_implementation: str, default: Kernel) -> Kernel:
        kernel: Kernel = original(self, attn_implementation, default)
        if not _active:
            return kernel
        stack = _stack.get()
        return _tapped(kernel, default, stack) if stack else kernel

    interface.get_interface = get_interface  # type: ignore[union-attr]


_install()
