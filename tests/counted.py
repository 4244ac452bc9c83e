"""Work counted as it is done: tokens through layers and through the unembedding, by hooks on a model's own modules.

A layer that stands in for nothing (a replay puts the stream past it to reach the unembedding) counts no token.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import headscope as hs


@dataclass
class Work:
    """`layer_tokens` are tokens times layers; `unembedded` tokens through the unembedding; `calls` of a layer."""

    layers: int
    layer_tokens: int = 0
    unembedded: int = 0
    calls: int = 0

    @property
    def token_passes(self) -> float:
        return self.layer_tokens / self.layers


@contextmanager
def counting(model: hs.Model, on_call: Any = None) -> Iterator[Work]:
    """Counts what is done in the block; `on_call(work)` is told after every layer."""
    work = Work(model.n_layers)

    def layer(module: Any, args: Any, kwargs: Any, result: Any) -> None:
        if hasattr(module.forward, "stands_for"):
            return
        stream = args[0] if args else kwargs["hidden_states"]
        work.layer_tokens += stream.shape[0] * stream.shape[1]
        work.calls += 1
        if on_call is not None:
            on_call(work)

    def unembedding(module: Any, args: Any, result: Any) -> None:
        if not hasattr(module.forward, "stands_for"):
            work.unembedded += math.prod(result.shape[:-1])

    hooks = [each.module.register_forward_hook(layer, with_kwargs=True) for each in model.anatomy.layers]
    hooks.append(model.anatomy.unembedding.register_forward_hook(unembedding))
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()
