"""What a study has computed so far, beside its folder, until it is written: a killed study goes on from there.

    OUT.unfinished/manifest.json    marks the folder as ours
    OUT.unfinished/N.npz            values by key (models.kept): one file every second or so, whole or not there

A file that is torn is ignored, and what it held is computed again. Where nothing can be written any more (a full
disk) a warning says so and the study goes on. Two processes may work side by side: each names its own files.
"""

import contextlib
import hashlib
import os
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headscope.errors import OutputExists, system_errors
from headscope.models.kept import Arrays, keeping
from headscope.results.files import PREFIX, SCHEMA, read_mark, write_json

MANIFEST, KIND = "manifest.json", "unfinished study"
PART_SECONDS = 1.0  # a kill costs no more than them


class Unfinished:
    """Values in one folder; implements the Store protocol. `taken` counts what an earlier process had computed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.taken, self._writes = folder, 0, True
        self._before: dict[str, dict[str, NDArray[Any]]] = {}
        for path in sorted(folder.glob("[0-9]*.npz")):
            self._read(path)
        self._new: dict[str, Arrays] = {}
        self._last, self._count = time.monotonic(), 0

    @property
    def found(self) -> int:
        """How many values an earlier process left."""
        return len(self._before)

    def take(self, key: str) -> Arrays | None:
        known = self._before.get(_short(key))
        self.taken += known is not None
        return known

    def put(self, key: str, arrays: Arrays) -> None:
        if self._writes:
            self._new[_short(key)] = arrays
            if time.monotonic() - self._last >= PART_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Write what is not on the disk yet; where that fails, say so once and keep nothing more."""
        self._last = time.monotonic()
        if not self._new or not self._writes:
            return
        flat = {f"{key} {name}": array for key, arrays in self._new.items() for name, array in arrays.items()}
        self._count += 1
        name = f"{os.getpid()}-{self._count:06d}.npz"
        beside = self.folder / f"{PREFIX}{name}"
        try:
            with system_errors():
                self.folder.mkdir(parents=True, exist_ok=True)
                if not (self.folder / MANIFEST).exists():
                    write_json(self.folder / MANIFEST, {"headscope": KIND, "schema": SCHEMA})
                np.savez(beside, **flat)  # type: ignore[arg-type]  # as the name of an array, never of an option
                os.replace(beside, self.folder / name)
        except OSError as error:
            self._writes = False
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            warnings.warn(
                f"cannot keep in {str(self.folder)!r} what is computed ({error.strerror or error}): the study goes "
                "on, but if it is stopped, what comes from here on is computed again.",
                stacklevel=2,
            )
        self._new = {}

    def remove(self) -> None:
        """Everything of ours, and the folder, unless somebody put something else there."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if path.suffix == ".npz" or path.name == MANIFEST or path.name.startswith(PREFIX):
                    path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _read(self, path: Path) -> None:
        """What a file holds; nothing of a torn one."""
        read: dict[str, dict[str, NDArray[Any]]] = {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                for flat in stored.files:
                    key, _, name = flat.partition(" ")
                    read.setdefault(key, {})[name] = stored[flat]
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return
        self._before |= read


def unfinished_of(out: Path) -> Path:
    """The folder beside `out` that keeps what is computed until that is written."""
    place = out.resolve()
    return place.with_name(f"{place.name}.unfinished")


def check_ours(out: Path) -> bool:
    """Whether an earlier run left something beside `out`.

    Raises:
        OutputExists: if what stands there is not ours.
    """
    folder = unfinished_of(out)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    mark: Mapping[str, Any] | None = read_mark(folder / MANIFEST) if folder.is_dir() else None
    if mark is None or mark["headscope"] != KIND:
        raise OutputExists(
            f"cannot keep what is computed in {str(folder)!r}: it holds something else. Name another folder with "
            "--out, or move that away."
        )
    return any(folder.glob("[0-9]*.npz"))


@contextmanager
def going_on(out: Path) -> Iterator[Unfinished]:
    """What is computed in the block is kept beside `out`, and taken from what an earlier process left there.

    It is on the disk when the block ends, by an exception too; whoever has written `out` removes it.
    """
    check_ours(out)
    store = Unfinished(unfinished_of(out))
    try:
        with keeping(store):
            yield store
    finally:
        store.flush()


def _short(key: str) -> str:
    """A key as a name in a file."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
