"""One small forward pass during which everything is written down: which module ran when, on what, into what.

In: a causal language model. Out: the record from which its anatomy is read (models.anatomy) without a
single name of an architecture. Tensors are cloned when seen, since some families change them in place.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headscope.models.devices import device_of
from headscope.models.inline import InlineRecorder
from headscope.models.tap import CallRecorder

PROBE_TOKENS = 12


@dataclass
class Event:
    """One call of one module: its floating inputs and outputs, and its place in the order of calls."""

    module: nn.Module
    path: str
    start: int
    inputs: list[Tensor]
    outputs: list[Tensor] = field(default_factory=list)
    end: int = -1

    @property
    def depth(self) -> int:
        return self.path.count(".")


@dataclass(frozen=True)
class Attended:
    """The last attention call of a module: when, and what its heads returned, [batch, position, head, ...].

    `inline` modules compute attention themselves, `fused` ones among them by one fused call.
    """

    time: int
    by_head: Tensor
    inline: bool = False
    fused: bool = True


@dataclass(frozen=True)
class Probe:
    """What one forward pass did: events in order of their start, attention calls by module."""

    events: tuple[Event, ...]
    attended: dict[nn.Module, Attended]
    logits: Tensor

    def of(self, module: nn.Module) -> Event | None:
        """The first call of a module, or None if it did not run."""
        return next((event for event in self.events if event.module is module), None)

    def within(self, outer: Event) -> list[Event]:
        """The calls made while `outer` ran."""
        return [event for event in self.events if outer.start < event.start and event.end <= outer.end]


def probe(hf: nn.Module, vocab_size: int, context: int) -> Probe:
    """Run a few random tokens through the model and record every module call.

    Two examples of up to 12 tokens, drawn with a fixed seed.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (2, min(PROBE_TOKENS, context)), generator=generator)
    clock = itertools.count()
    events: list[Event] = []
    open_events: list[Event] = []

    def now() -> int:
        return next(clock)

    def innermost() -> nn.Module | None:
        having = (event.module for event in reversed(open_events) if _has_weights(event.module))
        return next(having, None)

    through, inline = CallRecorder(now), InlineRecorder(len(ids), ids.shape[1], innermost, now)
    with torch.no_grad(), through.active(), _recorded(hf, events, open_events, now), inline:
        logits = hf(ids.to(device_of(hf)), use_cache=False).logits
    attended = {
        module: Attended(*calls[-1], inline=True, fused=module in inline.fused)
        for module, calls in inline.calls.items()
    }
    # The kernels behind the interface call softmax too: what went through it counts as that.
    attended |= {module: Attended(*calls[-1]) for module, calls in through.calls.items()}
    return Probe(tuple(events), attended, logits)


def floating_tensors(value: Any) -> list[Tensor]:
    """All floating-point tensors inside nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in floating_tensors(item)]
    return []


@contextmanager
def _recorded(hf: nn.Module, events: list[Event], open_events: list[Event], now: Callable[[], int]) -> Iterator[None]:
    paths = {module: path for path, module in hf.named_modules()}

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [tensor.detach().clone() for tensor in floating_tensors((args, kwargs))]
        event = Event(module, paths[module], now(), inputs)
        events.append(event)
        open_events.append(event)

    def after(module: nn.Module, args: Any, result: Any) -> None:
        event = open_events.pop()
        event.outputs = [tensor.detach().clone() for tensor in floating_tensors(result)]
        event.end = now()

    with ExitStack() as stack:
        for module in paths:
            stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
            stack.enter_context(module.register_forward_hook(after))
        yield


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
