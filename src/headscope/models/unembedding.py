"""Logits where they are read, and nowhere else: in a model with many tokens the unembedding is most of a pass.

In: the unembedding of a model, and which positions are read. Out: a context in which it is given the vectors of those
positions alone; what it makes of them goes back to its places, with zeros around. Whatever the model does to logits
after that (soft-caps, scales) it still does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from headscope.models.tap import holding

_reading: ContextVar[Tensor | None] = ContextVar("headscope_reading", default=None)


@contextmanager
def read_only_at(unembedding: nn.Module, where: Tensor) -> Iterator[None]:
    """Passes of this thread in the block compute the logits of the positions `where` [batch, position] alone."""

    # Hooks on a module are seen by every thread.
    def enter(_: nn.Module, args: tuple[Any, ...]) -> Any:
        applies = _reading.get() is where and args and args[0].shape[:2] == where.shape
        return (args[0][where], *args[1:]) if applies else None

    def leave(_: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        if _reading.get() is not where or not isinstance(result, Tensor) or result.ndim != 2:
            return None
        whole = result.new_zeros(*where.shape, result.shape[-1])
        whole[where] = result
        return whole

    with (
        holding(_reading, where),
        unembedding.register_forward_pre_hook(enter),
        unembedding.register_forward_hook(leave, prepend=True),
    ):
        yield


def worth_it(where: Tensor) -> bool:
    """Whether so few positions are read that the rest is worth leaving out."""
    return bool(torch.count_nonzero(where) * 2 < where.numel())
