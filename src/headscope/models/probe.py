"""One small forward pass during which everything is written down: which module ran when, on what, into what.

In: a causal language model. Out: the record from which its anatomy is read (models.anatomy) without a
single name of an architecture. Tensors are cloned when seen, since some families change them in place.
"""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headscope.models.attention import AttentionCall
from headscope.models.devices import device_of
from headscope.models.inline import PRODUCTS, SOFTMAXES, by_example, is_pattern
from headscope.models.layout import Layout
from headscope.models.tap import Tap

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
    recorder = _Recorder(hf, *ids.shape)
    modules = list(recorder.paths)
    through: dict[nn.Module, Attended] = {}

    def read(call: AttentionCall) -> None:
        through[modules[call.layer]] = Attended(recorder.now(), call.out.detach().clone())

    numbered = {module: index for index, module in enumerate(modules)}
    tap = Tap(numbered, Layout([ids.shape[1]] * len(ids), {}), readers={key: [read] for key in numbered.values()})
    with torch.no_grad(), tap.active(), recorder.watching_modules(), recorder:
        logits = hf(ids.to(device_of(hf)), use_cache=False).logits
    # The kernels behind the interface call softmax too: what went through it counts as that.
    return Probe(tuple(recorder.events), recorder.attended | through, logits)


class _Recorder(TorchFunctionMode):
    """Notes every module call, and what the heads of modules return that compute attention themselves."""

    def __init__(self, hf: nn.Module, rows: int, cells: int) -> None:
        super().__init__()
        self.paths = {module: path for path, module in hf.named_modules()}
        self.events: list[Event] = []
        self.attended: dict[nn.Module, Attended] = {}
        self.now = itertools.count().__next__
        self._rows, self._cells = rows, cells
        self._under_way: list[Event] = []
        self._patterns: dict[nn.Module, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inner = (event.module for event in reversed(self._under_way))
        module = next((module for module in inner if any(True for _ in module.parameters())), None)
        if module is None:
            return result
        if func is F.scaled_dot_product_attention:
            self._note(module, result, fused=True)
        elif func in SOFTMAXES and is_pattern(result, self._rows, self._cells):
            if result.shape[-1] == self._cells:
                self._patterns[module] = result
        elif func in PRODUCTS and module in self._patterns and args[0].numel() == self._patterns[module].numel():
            del self._patterns[module]
            self._note(module, by_example(result, self._rows), fused=False)
        return result

    def _note(self, module: nn.Module, by_head: Tensor, *, fused: bool) -> None:
        copy = by_head.detach().transpose(1, 2).clone()
        self.attended[module] = Attended(self.now(), copy, inline=True, fused=fused)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = [tensor.detach().clone() for tensor in floating_tensors((args, kwargs))]
        self.events.append(Event(module, self.paths[module], self.now(), inputs))
        self._under_way.append(self.events[-1])

    def _after(self, module: nn.Module, args: Any, result: Any) -> None:
        event = self._under_way.pop()
        event.outputs = [tensor.detach().clone() for tensor in floating_tensors(result)]
        event.end = self.now()

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Note every module call until the block ends."""
        with ExitStack() as stack:
            for module in self.paths:
                stack.enter_context(module.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True))
                stack.enter_context(module.register_forward_hook(self._after))
            yield


def floating_tensors(value: Any) -> list[Tensor]:
    """All floating-point tensors inside nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in floating_tensors(item)]
    return []
