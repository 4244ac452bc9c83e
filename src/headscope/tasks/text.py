"""Plain text as prompts: one string an example, or a long text split into windows.

In: text and a model with a tokenizer. Out: prompts that start with the BOS token where the model has one.
For a first look where nobody names a text, `sample_text` reads prose that every Python has on disk (the
documentation strings of some standard modules) and its hash is recorded; serious work names its own.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headscope.errors import BadArgument, PromptError
from headscope.tasks.prompts import HasTokens, Prompts
from headscope.tasks.vocabulary import text_start

# Modules with long explanatory documentation, the same in spirit in every Python since 3.11.
_DOCUMENTED = (
    "argparse calendar configparser csv datetime decimal difflib fractions heapq inspect mailbox optparse pathlib "
    "random statistics string tarfile threading turtle typing zipfile"
)


def text(model: HasTokens, texts: str | Sequence[str]) -> Prompts:
    """One example per string, tokenised by the model's tokenizer, which says whether BOS stands in front.

    A string that begins with BOS gets no second one.

    Raises:
        PromptError: if the model has no tokenizer or a string has no tokens.
    """
    listed, start = [texts] if isinstance(texts, str) else list(texts), text_start(model)
    tokens = tuple(tuple(_begun(start, encode(model, one))) for one in listed)
    if not tokens or not all(listed):
        raise PromptError("cannot use empty prompts: every text needs at least one character.")
    return Prompts(tokens, made_by={"task": "text", "sha256": sha256("\0".join(listed)), "n": len(listed)})


def windows(model: HasTokens, source: str, *, length: int = 64, n: int = 50, named: str = "a given text") -> Prompts:
    """`n` windows of `length` tokens spread evenly over one long text, BOS in front of each where the tokenizer
    puts it before a text.

    Windows do not overlap as long as the text has `n * length` tokens; where it is shorter there are
    fewer windows, never overlapping ones, since prompts that share text are not independent.

    Raises:
        PromptError: if the text is shorter than one window.
        BadArgument: for no windows, or windows without room for two tokens.
    """
    if length < 2 or n < 1:
        raise BadArgument(
            f"cannot split {named} into {n} windows of {length} tokens: ask for at least 1 window of at least 2."
        )
    ids, start = encode(model, source), text_start(model)
    if start and ids[: len(start)] == start:
        ids = ids[len(start) :]  # each window gets its own
    body = length - len(start)
    available = len(ids) // body
    if available < 1:
        raise PromptError(
            f"cannot split {named} into windows of {length} tokens: it has {len(ids)}. "
            "Give a longer text or shorter windows."
        )
    count = min(n, available)
    begins = [index * (available // count) * body for index in range(count)]
    tokens = tuple(tuple(_begun(start, ids[begin : begin + body])) for begin in begins)
    recipe: dict[str, Any] = {"task": "windows", "text": named, "sha256": sha256(source), "length": length}
    return Prompts(tokens, made_by={**recipe, "n": count})


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        PromptError: if it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"cannot read the text file {str(path)!r}: {error}.") from error


def sample_text() -> tuple[str, str]:
    """English prose from this Python's own documentation strings, and a name that says which."""
    paragraphs = []
    for name in _DOCUMENTED.split():
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue  # left out of this Python's standard library
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        paragraphs += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    version = ".".join(map(str, sys.version_info[:3]))
    prose = "\n\n".join(paragraph for paragraph in paragraphs if len(paragraph) > 200)
    return prose, f"documentation strings of Python {version}"


def encode(model: HasTokens, source: str) -> list[int]:
    """The tokens of a text, nothing added."""
    if model.tokenizer is None:
        raise PromptError(
            "cannot tokenise text: this model was loaded without a tokenizer. Pass tokenizer=, or token ids."
        )
    try:
        ids: list[int] = model.tokenizer(source, add_special_tokens=False, verbose=False)["input_ids"]
    except Exception as error:  # tokenizers raise bare exceptions, for example for a word that they do not know
        raise PromptError(f"cannot tokenise {source[:40]!r}: the tokenizer says {str(error)[:120]!r}.") from error
    return ids


def _begun(start: Sequence[int], ids: Sequence[int]) -> list[int]:
    """A text with its start, unless it has that already."""
    return list(ids) if list(ids[: len(start)]) == list(start) else [*start, *ids]


def sha256(source: str) -> str:
    """The hash by which a recipe names a text."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]
