"""One small forward pass during which everything is written down: which module ran when, on what, into what.

In: a causal language model. Out: the record from which its anatomy is read (models.anatomy) without a
single name of an architecture. Tensors are cloned when seen, since some families change them in place.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

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
class Probe:
    """What one forward pass did: events in order of their start, heads' outputs by attention module."""

    events: tuple[Event, ...]
    attended: dict[nn.Module, list[Tensor]]
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
    device = hf.get_input_embeddings().weight.device  # type: ignore[operator,union-attr]
    recorder = CallRecorder()
    with torch.no_grad(), recorder.active(), _recorded(hf) as events:
        logits = hf(ids.to(device), use_cache=False).logits
    return Probe(tuple(events), recorder.outputs, logits)


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
def _recorded(hf: nn.Module) -> Iterator[list[Event]]:
    events: list[Event] = []
    open_events: list[Event] = []
    paths = {module: path for path, module in hf.named_modules()}
    clock = iter(range(10**9))

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [tensor.detach().clone() for tensor in floating_tensors((args, kwargs))]
        event = Event(module, paths[module], next(clock), inputs)
        events.append(event)
        open_events.append(event)

    def after(module: nn.Module, args: Any, result: Any) -> None:
        event = open_events.pop()
        event.outputs = [tensor.detach().clone() for tensor in floating_tensors(result)]
        event.end = next(clock)

    with ExitStack() as stack:
        for module in paths:
            stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
            stack.enter_context(module.register_forward_hook(after))
        yield events
