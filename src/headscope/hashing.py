"""What makes a thing itself: the canonical form and the hash of a frozen description.

Interventions, prompts, plans and recipes are frozen data. Two that say the same must have the same hash
on every machine, since the hash keys finished cells, caches and run folders. The canonical form is plain
JSON with sorted keys; a raw tensor enters by its content, and whatever can name how it was made (a run,
a model) enters by that recipe.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from headscope.errors import BadArgument


@runtime_checkable
class HasRecipe(Protocol):
    """Something that is identified by how it was made rather than by what it holds."""

    def recipe(self) -> Mapping[str, Any]: ...


def canonical(value: Any) -> Any:
    """`value` as plain JSON data.

    >>> from headscope.vocabulary import Head
    >>> canonical(Head(0, 2))
    {'kind': 'Head', 'layer': 0, 'index': 2}

    Raises:
        BadArgument: for a value that has no canonical form, such as a function.
    """
    return _canonical(value, lambda part: canonical(part.recipe()))


def _canonical(value: Any, named: Callable[[HasRecipe], Any]) -> Any:
    """The canonical form, in which `named` stands for what has a recipe."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return list(value)  # token ids, by the thousand
    if isinstance(value, HasRecipe):
        return named(value)
    if isinstance(value, torch.Tensor):
        return _tensor(value.detach().cpu().contiguous())
    if isinstance(value, np.ndarray):
        return _tensor(torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, np.generic):
        return value.item()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _canonical(getattr(value, field.name), named) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item, named) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        items = [_canonical(item, named) for item in value]
        return sorted(items, key=_dumps) if isinstance(value, set | frozenset) else items
    raise BadArgument(f"cannot describe a {type(value).__name__} in a form that can be hashed and written.")


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the canonical form."""
    return digests([value])[0]


def digests(values: Iterable[Any]) -> list[str]:
    """The digests of many values, which may share large parts: each part is hashed once.

    A part that has a recipe enters the whole by its own hash, as a tensor does by its content's.
    """
    return [_hash(outline)[:16] for outline in outlines(values)]


def outlines(values: Iterable[Any]) -> list[Any]:
    """Canonical forms in which every part that has a recipe stands by its hash alone."""
    known: dict[int, Any] = {}

    def folded(part: Any) -> Any:
        if id(part) not in known:
            recipe = {name: _canonical(item, folded) for name, item in part.recipe().items()}
            known[id(part)] = {"kind": type(part).__name__, "sha256": _hash(recipe)}
        return known[id(part)]

    listed = list(values)  # kept alive, so that no identity is used twice
    return [_canonical(value, folded) for value in listed]


def _hash(data: Any) -> str:
    return hashlib.sha256(_dumps(data).encode()).hexdigest()


def _tensor(values: torch.Tensor) -> dict[str, Any]:
    content = hashlib.sha256(values.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    return {"kind": "tensor", "shape": list(values.shape), "dtype": str(values.dtype), "sha256": content}


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
