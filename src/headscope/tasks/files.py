"""Prompts from a JSON file: what a command line, a colleague or another program hands over.

In: a JSON list with one object per example. Out: prompts with roles, answers and foils. An example has either
`tokens` (ids, used as they are) or `text` (tokenised, BOS in front where the model has one); `answer` and `foil`
are ids or texts of one token; `roles` maps names to positions, negative ones counted from the end.

    [{"text": "The Eiffel Tower is in", "answer": " Paris", "foil": " Rome", "roles": {"subject": [1, 2, 3]}}]
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headscope.errors import PromptError
from headscope.tasks.prompts import HasTokens, Prompts, Role
from headscope.tasks.text import encode, read_text, text

_KNOWN = {"tokens", "text", "answer", "foil", "roles"}


def read_prompts(model: HasTokens, path: Path) -> Prompts:
    """The prompts of a file.

    Raises:
        PromptError: naming the example and what is wrong with it.
    """
    source = read_text(path)
    try:
        listed = json.loads(source)
    except json.JSONDecodeError as error:
        raise PromptError(f"cannot read prompts from {str(path)!r}: it is no JSON ({error}).") from error
    if not isinstance(listed, list) or not listed:
        raise _wrong(path, None, "it holds no list of examples")
    examples = [_checked(one, row, path) for row, one in enumerate(listed)]
    tokens = tuple(_tokens(model, one, row, path) for row, one in enumerate(examples))
    recipe = {"task": "file", "sha256": hashlib.sha256(source.encode()).hexdigest()[:16], "n": len(tokens)}
    return Prompts(
        tokens,
        roles=_roles(examples, tokens, path),
        answers=_single_tokens(model, examples, "answer", path),
        foils=_single_tokens(model, examples, "foil", path),
        made_by=recipe,
    )


def _checked(one: Any, row: int, path: Path) -> Mapping[str, Any]:
    if not isinstance(one, dict) or ("tokens" in one) == ("text" in one):
        raise _wrong(path, row, "it must be an object with either 'tokens' or 'text'")
    if unknown := sorted(set(one) - _KNOWN):
        raise _wrong(path, row, f"it has {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    return one


def _tokens(model: HasTokens, one: Mapping[str, Any], row: int, path: Path) -> tuple[int, ...]:
    if "text" in one:
        if not isinstance(one["text"], str):
            raise _wrong(path, row, "its text is no string")
        return text(model, one["text"]).tokens[0]
    given = one["tokens"]
    if not isinstance(given, list) or not given or not all(type(token) is int for token in given):
        raise _wrong(path, row, "its tokens are no list of whole numbers")
    return tuple(given)


def _roles(examples: list[Mapping[str, Any]], tokens: tuple[tuple[int, ...], ...], path: Path) -> dict[str, Role]:
    named = [one.get("roles", {}) for one in examples]
    for row, (roles, own) in enumerate(zip(named, tokens, strict=True)):
        if not isinstance(roles, dict):
            raise _wrong(path, row, "its roles are no object")
        for role, marked in roles.items():
            listed = marked if isinstance(marked, list) else [marked]
            if not all(type(index) is int and -len(own) <= index < len(own) for index in listed):
                raise _wrong(path, row, f"the role {role!r} has positions that its {len(own)} tokens do not have")
    every = sorted({role for roles in named for role in roles})

    def positions(roles: Mapping[str, Any], role: str, length: int) -> tuple[int, ...]:
        marked = roles.get(role, [])
        return tuple(sorted(index % length for index in (marked if isinstance(marked, list) else [marked])))

    return {
        role: tuple(positions(roles, role, len(own)) for roles, own in zip(named, tokens, strict=True))
        for role in every
    }


def _single_tokens(model: HasTokens, examples: list[Mapping[str, Any]], what: str, path: Path) -> tuple[int, ...]:
    """The answers or foils, one token each; empty where no example has one."""
    if not any(what in one for one in examples):
        return ()
    tokens = []
    for row, one in enumerate(examples):
        given = one.get(what)
        ids = encode(model, given) if isinstance(given, str) else [given]
        if len(ids) != 1 or type(ids[0]) is not int:
            raise _wrong(path, row, f"its {what} {given!r} is not one token ({len(ids)} tokens)")
        tokens.append(ids[0])
    return tuple(tokens)


def _wrong(path: Path, row: int | None, why: str) -> PromptError:
    where = "" if row is None else f", example {row}"
    return PromptError(f"cannot read prompts from {str(path)!r}{where}: {why}.")
