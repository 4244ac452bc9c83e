"""Prompts from a JSON file: what a command line, a colleague or another program hands over.

In: a JSON list with one object per example. Out: prompts with roles, answers and foils. An example has either
`tokens` (ids, used as they are) or `text` (tokenised, BOS in front where the model has one); `answer` and `foil`
are ids or texts of one token; `roles` maps names to positions, negative ones counted from the end.

    [{"text": "The Eiffel Tower is in", "answer": " Paris", "foil": " Rome", "roles": {"subject": [1, 2, 3]}}]
"""

import json
from pathlib import Path
from typing import Any

from headscope.errors import PromptError
from headscope.tasks.prompts import HasTokens, Prompts
from headscope.tasks.text import encode, read_text, sha256, text

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
        raise PromptError(f"cannot read prompts from {str(path)!r}: it holds no list of examples.")
    # What one example has, all must have.
    wanted = [what for what in ("answer", "foil") if any(what in one for one in listed if isinstance(one, dict))]
    tokens, roles, single = [], [], []
    for row, one in enumerate(listed):
        try:
            tokens.append(_tokens(model, one))
            roles.append(_positions(one.get("roles", {}), len(tokens[-1])))
            single.append({what: _single_token(model, one.get(what), what) for what in wanted})
        except ValueError as error:
            raise PromptError(f"cannot read prompts from {str(path)!r}, example {row}: {error}.") from error
    every = sorted({role for marked in roles for role in marked})
    return Prompts(
        tuple(tokens),
        roles={role: tuple(marked.get(role, ()) for marked in roles) for role in every},
        answers=tuple(each["answer"] for each in single if "answer" in each),
        foils=tuple(each["foil"] for each in single if "foil" in each),
        made_by={"task": "file", "sha256": sha256(source), "n": len(tokens)},
    )


def _tokens(model: HasTokens, one: Any) -> tuple[int, ...]:
    if not isinstance(one, dict) or ("tokens" in one) == ("text" in one):
        raise ValueError("it must be an object with either 'tokens' or 'text'")
    if unknown := sorted(set(one) - _KNOWN):
        raise ValueError(f"it has {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    if "text" in one:
        if not isinstance(one["text"], str):
            raise ValueError("its text is no string")
        return text(model, one["text"]).tokens[0]
    given = one["tokens"]
    if not isinstance(given, list) or not given or not all(type(token) is int for token in given):
        raise ValueError("its tokens are no list of whole numbers")
    return tuple(given)


def _positions(roles: Any, length: int) -> dict[str, tuple[int, ...]]:
    if not isinstance(roles, dict):
        raise ValueError("its roles are no object")
    listed = {role: marked if isinstance(marked, list) else [marked] for role, marked in roles.items()}
    for role, marked in listed.items():
        if not all(type(index) is int and -length <= index < length for index in marked):
            raise ValueError(f"the role {role!r} has positions that its {length} tokens do not have")
    return {role: tuple(sorted(index % length for index in marked)) for role, marked in listed.items()}


def _single_token(model: HasTokens, given: Any, what: str) -> int:
    ids = encode(model, given) if isinstance(given, str) else [given]
    if len(ids) != 1 or type(ids[0]) is not int:
        raise ValueError(f"its {what} {given!r} is not one token ({len(ids)} tokens)")
    return ids[0]
