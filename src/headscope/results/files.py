"""Writing: told to be impossible before the work, done whole or not at all.

In: a place. Out: nothing if it can be written, one sentence if not. A file is written beside its place and
renamed, so that whoever reads it never sees half of it.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headscope.errors import OutputExists, Unwritable, system_errors

# The form of what a run folder holds, in every manifest.json and study.json. It goes up whenever a key or a file is
# renamed, removed or changes its meaning; a key that is added does not change it.
SCHEMA = 2

# Hidden, and ours by its name whatever the place is called.
PREFIX = ".headscope-"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a place into one sentence, libraries that word it as their own included.

    Raises:
        Unwritable: instead of an OSError.
    """
    try:
        with system_errors():
            yield
    except OSError as error:
        raise Unwritable.because(path, error) from error


def check_writable(folder: Path, named: Path) -> None:
    """Raise Unwritable unless `folder`, or the nearest one above that exists, takes a new folder.

    `named` is the place that the message names.
    """
    with writing(named):
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        os.rmdir(tempfile.mkdtemp(prefix=PREFIX, dir=existing))


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_mark(path: Path) -> dict[str, Any] | None:
    """The JSON of a file that marks a folder as ours by the key "headscope"; None for anything else."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and isinstance(told.get("headscope"), str) else None


def check_file(path: Path) -> None:
    """Raise unless a file can be written there. To be called before the work, not after it."""
    with writing(path):
        place = path.resolve()
        if place.is_dir():
            raise OutputExists(f"cannot write {str(path)!r}: it is a folder. Name a file with --out.")
    check_writable(place.parent, path)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file that then takes its place; an error leaves what was there before."""
    check_file(path)
    with writing(path):
        place = path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place.parent) as beside:
            fresh = Path(beside) / place.name
            write(fresh)
            os.replace(fresh, place)
