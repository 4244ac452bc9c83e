"""Values that outlive a process that is killed: what was computed is found again when the same is asked.

In: a key, made of everything that decides a value, and how to compute it. Out: the value, from a store where one is
open and has it. Whoever computes (detectors, sweeps) knows the protocol alone and is blind to where values are kept
(results.unfinished); with no store open nothing is hashed and nothing kept. A value is a few tensors on the CPU.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.errors import BadArgument
from headscope.hashing import digest
from headscope.models.certificate import code_of, versions
from headscope.models.model import Model

Arrays = Mapping[str, NDArray[Any]]


class Store(Protocol):
    """Arrays by key; `put` may write them later, and whoever asks again may be another process."""

    def take(self, key: str) -> Arrays | None: ...

    def put(self, key: str, arrays: Arrays) -> None: ...


_open: ContextVar[Store | None] = ContextVar("open", default=None)


@contextmanager
def keeping(store: Store) -> Iterator[None]:
    """What is computed in the block is kept in this store, and taken from it."""
    token = _open.set(store)
    try:
        yield
    finally:
        _open.reset(token)


class Keeper:
    """The open store for one kind of value of one model, or none: then nothing is found and nothing is kept.

    `parts` are what decides the values beside the model, as anything that has a canonical form; what has none (a
    measure without a version, typed at a prompt) is not kept.
    """

    def __init__(self, kind: str, model: Model, *parts: Any) -> None:
        self._store, self._key = _open.get(), ""
        if self._store is None:
            return
        libraries = (versions(), code_of(Path(__file__).parents[1]))
        told = [model.name, model.identity, str(model.dtype), str(model.device), libraries]
        try:
            self._key = digest([kind, told, model.active_edits, parts])
        except BadArgument:
            self._store = None

    @property
    def keeps(self) -> bool:
        """Whether a store is open that can tell these values from others."""
        return self._store is not None

    def take(self, name: str = "") -> list[Tensor] | None:
        """The tensors that were kept under this name."""
        found = None if self._store is None else self._store.take(f"{self._key} {name}")
        if found is None:
            return None
        return [torch.from_numpy(np.array(found[str(index)])) for index in range(len(found))]

    def put(self, tensors: Sequence[Tensor], name: str = "") -> None:
        """Keep these under this name."""
        if self._store is not None:
            arrays = {str(index): each.detach().cpu().numpy() for index, each in enumerate(tensors)}
            self._store.put(f"{self._key} {name}", arrays)


def kept(kind: str, model: Model, parts: Sequence[Any], make: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """The tensors that `make()` gives, or gave an earlier process; `kind` and `parts` are all that decides them."""
    keeper = Keeper(kind, model, *parts)
    found = keeper.take()
    if found is None:
        found = list(make())
        keeper.put(found)
    return found
