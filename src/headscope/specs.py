"""What makes a thing itself: the canonical form and the hash of a frozen description.

Interventions, prompts, plans and recipes are frozen data. Two that say the same must have the same hash
on every machine, since the hash keys finished cells, caches and run folders. The canonical form is plain
JSON with sorted keys; a raw tensor enters by its content, and whatever can name how it was made (a run,
a model) enters by that recipe.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
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
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(type(item) is int for item in value):
        return list(value)  # token ids, by the thousand
    if isinstance(value, HasRecipe):
        return canonical(value.recipe())
    if isinstance(value, torch.Tensor):
        return _tensor(value.detach().cpu().contiguous())
    if isinstance(value, np.ndarray):
        return _tensor(torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, np.generic):
        return canonical(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        items = [canonical(item) for item in value]
        return sorted(items, key=_dumps) if isinstance(value, set | frozenset) else items
    raise BadArgument(f"cannot describe a {type(value).__name__} in a form that can be hashed and written.")


def digest(value: Any, *, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of the canonical form."""
    return hashlib.sha256(_dumps(canonical(value)).encode()).hexdigest()[:length]


def _tensor(values: torch.Tensor) -> dict[str, Any]:
    content = hashlib.sha256(values.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
    return {"kind": "tensor", "shape": list(values.shape), "dtype": str(values.dtype), "sha256": content}


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
