"""What tells one function from another, so that values on disk are never taken for those of another measure.

In: the function of a measure whose author declared no version. Out: plain data: its source text, and what it refers
to by name. Compiled code is not looked at: it changes with every Python. Functions of the same module are told by
their source too, those of other modules by their name. What has no source of its own is refused.
"""

import inspect
import textwrap
from types import FunctionType, ModuleType
from typing import Any

from headscope.errors import BadArgument
from headscope.hashing import canonical


def identity_of(function: Any, measure: str) -> Any:
    """The identity of the function of a measure of that name.

    Raises:
        BadArgument: for a lambda, a function typed at a prompt, an object that is called, or one that refers to
            something that cannot be written down.
    """
    return _identity(function, f"cannot keep values of the measure {measure!r}: ", frozenset())


def _identity(function: Any, refusing: str, around: frozenset[Any]) -> Any:
    own = inspect.unwrap(function)
    name = getattr(own, "__name__", type(own).__name__)
    try:
        source = None if name == "<lambda>" else textwrap.dedent(inspect.getsource(own))
    except (OSError, TypeError):
        source = None
    if source is None or not isinstance(own, FunctionType):
        raise BadArgument(
            f"{refusing}its function {name!r} has no source by which it could be told from another. Define it with "
            "def in a file, or pass version=1 and raise that whenever what it computes changes."
        )
    held = inspect.getclosurevars(own)
    named = {**held.globals, **held.nonlocals, "defaults": [own.__defaults__, own.__kwdefaults__]}
    around |= {own}
    return {
        "source": source,
        "refers to": {key: _named(item, own, f"{refusing}{key!r}, ", around) for key, item in named.items()},
    }


def _named(item: Any, user: FunctionType, refusing: str, around: frozenset[Any]) -> Any:
    if isinstance(item, ModuleType):
        return item.__name__
    if isinstance(item, FunctionType) and item.__module__ == user.__module__:
        return "itself" if inspect.unwrap(item) in around else _identity(item, refusing, around)
    if callable(item):
        return f"{getattr(item, '__module__', None)}.{getattr(item, '__qualname__', type(item).__qualname__)}"
    try:
        return canonical(item)
    except BadArgument as error:
        raise BadArgument(
            f"{refusing}to which its function refers, is of type {type(item).__name__} and cannot be written down. "
            "Pass version=1, and raise that whenever what it computes changes."
        ) from error
