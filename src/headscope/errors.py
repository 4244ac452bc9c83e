"""One tree of exceptions, each a sentence that a user can act on.

Every message says what was being done, to what, what was expected and what came instead, and what to
do next. The command prints the message alone and leaves with `exit_code`; a traceback means a defect
of headscope itself. Constructors that need the same words in several places are class methods here,
so that a question is always answered in the same way.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

# A full disk, a quota that is used up, a file larger than is allowed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class HeadscopeError(Exception):
    """Anything that headscope refuses; the message is meant for the person who asked."""

    exit_code = 2

    @classmethod
    def importing(cls, file: object, why: str) -> Self:
        """The file at this path cannot be imported as a model."""
        return cls(f"cannot import {str(file)!r}: {why}")


class UnknownName(HeadscopeError):
    """A name that is not in a known list."""

    @classmethod
    def among(cls, kind: str, name: object, known: Iterable[str]) -> Self:
        """Name what exists, the nearest spelling first.

        >>> str(UnknownName.among("site", "resid_pree", ["resid_pre", "z"]))
        "there is no site named 'resid_pree': did you mean 'resid_pre'? Known: resid_pre, z."
        """
        listed = list(known)
        close = difflib.get_close_matches(str(name), listed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return cls(f"there is no {kind} named {str(name)!r}: {hint}Known: {', '.join(listed) or 'none'}.")


class BadArgument(HeadscopeError):
    """An argument of the wrong shape, type or range."""


class ModelNotFound(HeadscopeError):
    """Neither a zoo name, nor a folder with a model, nor an id that a hub answers to."""


class UnsafeWeights(HeadscopeError):
    """Weights that exist only as pickle files, which can run code when they are opened."""


class BrokenWeights(HeadscopeError):
    """Weights with values that are not numbers."""


class UnservedModel(HeadscopeError):
    """A model that headscope does not serve, and says so instead of guessing."""


class UnservedSite(HeadscopeError):
    """A site that this model does not have, or that was not captured."""


class OutOfRange(HeadscopeError):
    """A layer, head or position that does not exist."""

    @classmethod
    def index(cls, doing: str, what: str, got: object, count: int, of: str) -> Self:
        """`what` number `got` of something that has `count` of them, counted from 0."""
        return cls(
            f"cannot {doing}: there is no {what} {got}; {of} has {count}, numbered 0 to {count - 1}."
            if count
            else f"cannot {doing}: there is no {what} {got}; {of} has none."
        )


class PromptError(HeadscopeError):
    """Prompts that cannot be built or do not hold what is asked of them."""


class PositionMapNeeded(HeadscopeError):
    """A patch between prompts of unequal length without saying which position goes where."""

    @classmethod
    def between(cls, source_lengths: Sequence[int], target_lengths: Sequence[int]) -> Self:
        return cls(
            f"cannot patch a run of {_span(source_lengths)} tokens into one of {_span(target_lengths)}: "
            "which position goes where? Pass positions={source: target}, for example "
            "positions={-1: -1} for the last token."
        )


class OutputExists(HeadscopeError):
    """A folder that holds something else than a result of headscope."""


class Unwritable(HeadscopeError):
    """A place where nothing can be written."""

    @classmethod
    def because(cls, path: object, error: OSError, kept: str = "") -> Self:
        """`kept` is a sentence about what is not lost."""
        full = error.errno in FULL
        again = "Make room there and run again, or name" if full else "Name"
        return cls(
            f"cannot write {str(path)!r}: {error.strerror or error}. {again} another place with --out."
            f"{kept and ' ' + kept}"
        )


class Unkept(Unwritable):
    """A finished study that could not be written where it was to be.

    `study` is what it found, `folder` where it is kept instead; None if the temporary folder took it neither.
    """

    def __init__(self, why: object, study: Any, folder: Path | None) -> None:
        kept = (
            "The temporary folder takes it neither: what the study found is now only the `study` of this error."
            if folder is None
            else f"The study is finished and kept in {str(folder)!r}: move it to where it is to be."
        )
        super().__init__(f"{why} {kept}")
        self.study, self.folder = study, folder


class Partial(HeadscopeError):
    """Work that stopped half-way and goes on when the same command is run again."""

    exit_code = 5

    @classmethod
    def after(cls, folder: object, error: OSError) -> Self:
        return cls(
            f"cannot go on writing into {str(folder)!r}: {error.strerror or error}. What was finished is kept; make "
            "room and run the same command again to go on."
        )


class OutOfMemory(HeadscopeError):
    """The device has too little memory for the smallest piece of this work."""

    exit_code = 4


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise as an OSError what polars and safetensors word as errors of their own: a full disk, a lost folder."""
    try:
        yield
    except Exception as error:
        numbered = isinstance(error, OSError) and error.errno is not None
        said = None if numbered else re.search(r"\(os error (\d+)\)", str(error))
        if said is None:
            raise
        raise OSError(int(said[1]), os.strerror(int(said[1]))) from error


def first_line(error: Exception) -> str:
    """What another library says of an error, as one sentence.

    >>> first_line(ValueError("does not fit:\\n  2 rows, 3 expected\\nand more"))
    'does not fit: 2 rows, 3 expected.'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = " ".join(line.strip() for line in (lines[:2] if lines[0].endswith(":") else lines[:1]))
    return said.rstrip(".") + "."


def _span(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"
