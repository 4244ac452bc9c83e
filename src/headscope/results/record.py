"""The record of a sweep: a folder in which finished work survives whatever happens to the process.

    OUT/manifest.json        model, prompts, measure, versions, command; marks the folder as ours
    OUT/cells.json           what was done in the cells that were asked for last, as JSON of interventions
    OUT/parts/N.parquet      what is finished: batch of prompts, cell, example, value
    OUT/sweep.parquet        the table, once every cell is done; sweep.json beside it says what its columns mean.
                             top_heads.parquet, .json where only the heads that matter most were asked for

Values are kept by the hash of their cell and by example, so that the same command goes on where it stopped, within a
cell too (a sweep of many prompts goes through them part by part), and another grid over the same prompts takes what
is there. After a kill there are whole parts and perhaps a hidden file that the next
opening removes. A lock, which the system drops when a process dies, keeps a second one out.
"""

import contextlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headscope.errors import OutputExists, Partial, Unwritable, system_errors
from headscope.results.files import PREFIX, SCHEMA, check_writable, read_mark, write_json, writing
from headscope.tables import Table

MANIFEST, CELLS, LOCK, PARTS = "manifest.json", "cells.json", ".headscope-lock", "parts"
KIND = "sweep"
# What a finished table may be called: all cells, or the heads that matter most, from cells of some of the prompts.
TABLES = ("sweep", "top_heads")
# A part is written when so many seconds have passed, so that a kill costs no more than them.
PART_SECONDS = 5.0

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Values = NDArray[np.float64]
Examples = NDArray[np.int32]
# What must be the same for values of two runs to stand in one table.
_SAME = ("identity", "measure", "interventions in every cell", "dtype", "device")


class Record:
    """Finished values in one folder; made by `opened`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done: dict[tuple[int, str], list[tuple[Examples, Values]]] = defaultdict(list)
        self._waiting: list[tuple[int, str, Examples, Values]] = []
        self._last_written = time.monotonic()
        self._batches = 1

    def take(self, batch: int, cell: str, examples: Examples) -> tuple[Values, NDArray[np.bool_]]:
        """What is there of a cell on these examples [example], and of which of them there is something."""
        values, known = np.full(1 + examples.max(), np.nan), np.zeros(1 + examples.max(), dtype=bool)
        for kept, own in self._done[batch, cell]:
            within = kept < len(values)
            values[kept[within]], known[kept[within]] = own[within], True
        return values[examples], known[examples]

    def add(self, batch: int, cell: str, examples: Examples, values: Values) -> None:
        """Keep values of a cell on these examples.

        They are on the disk after the next `flush`, which happens by itself in time.
        """
        self._done[batch, cell].append((examples, values))
        self._waiting.append((batch, cell, examples, values))
        if time.monotonic() - self._last_written >= PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not on the disk yet as one more part.

        Raises:
            Partial: if it cannot be written; what was written before stays.
        """
        self._last_written = time.monotonic()
        if not self._waiting:
            return
        frame = pl.DataFrame(
            {
                "batch": np.concatenate([np.full(len(v), b, dtype=np.int32) for b, _, _, v in self._waiting]),
                "cell": [cell for _, cell, _, values in self._waiting for _ in values],
                "example": np.concatenate([examples for _, _, examples, _ in self._waiting]),
                "value": np.concatenate([values for *_, values in self._waiting]),
            }
        )
        parts = self.folder / PARTS
        number = 1 + max((int(path.stem) for path in parts.glob("[0-9]*.parquet")), default=0)
        with self._going_on():
            _write(parts / f"{number:06d}.parquet", frame.write_parquet)
        self._waiting.clear()

    def add_prompts(self, recipe: Mapping[str, Any]) -> None:
        """One more batch of prompts takes part.

        Raises:
            OutputExists: if the folder holds cells of other prompts under that number.
        """
        path = self.folder / MANIFEST
        told = json.loads(path.read_text(encoding="utf-8"))
        if len(told["prompts"]) > self._batches:
            if told["prompts"][self._batches]["hash"] != recipe["hash"]:
                raise _other(["prompts"], self.folder)
        else:
            with self._going_on():
                _dump(path, {**told, "prompts": [*told["prompts"], recipe]})
        self._batches += 1

    def finish(self, table: Table) -> None:
        """Write the table of what was asked for, under its own name."""
        self.flush()
        with self._going_on():
            _write(self.folder / f"{table.name}.parquet", table.write_parquet)
            _dump(self.folder / f"{table.name}.json", table.describe())

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Partial.after(self.folder, error) from error

    def _read(self) -> None:
        for path in sorted((self.folder / PARTS).glob("[0-9]*.parquet")):
            try:
                frame = pl.read_parquet(path)
            except pl.exceptions.PolarsError as error:
                raise OutputExists(
                    f"cannot go on with the sweep in {str(self.folder)!r}: {PARTS}/{path.name} is damaged. Remove "
                    "that file, and its cells are run again."
                ) from error
            for (batch, cell), rows in frame.group_by("batch", "cell", maintain_order=True):
                self._done[int(batch), str(cell)].append((rows["example"].to_numpy(), rows["value"].to_numpy()))


@contextmanager
def opened(
    folder: Path, base: Mapping[str, Any], prompts: Mapping[str, Any], cells: Sequence[Any]
) -> Iterator[Record]:
    """The record in a folder, new or with what an earlier run of the same sweep left there.

    `base` is what a manifest says of model, measure, device, versions and command; `prompts` is the recipe
    of the first batch, with its hash; `cells` describes the cells. What is finished is flushed when the block
    ends, by an exception too.

    Raises:
        OutputExists: if the folder holds something else, another sweep, or one that a process is working on.
        Unwritable: if nothing can be written there.
    """
    if fcntl is None:
        raise Unwritable(
            f"cannot record a sweep in {str(folder)!r}: keeping a second process out needs file locks of a kind that "
            "this system does not have. Leave out --out (out=), and take the table as it is returned."
        )
    with writing(folder):
        place = folder.resolve()
        known = _manifest(place, folder)
        check_writable(place, folder)
        (place / PARTS).mkdir(parents=True, exist_ok=True)
    with _locked(place, folder):
        with writing(folder):
            _require_same(known, base, prompts, folder)
            for left in place.rglob(f"{PREFIX}*"):
                if left.is_file() and left.name != LOCK:
                    left.unlink()
            for name in TABLES:
                for stale in (f"{name}.parquet", f"{name}.json"):
                    (place / stale).unlink(missing_ok=True)
            kept = known["prompts"] if known else [prompts]
            told = {"headscope": KIND, "schema": SCHEMA, **base, "prompts": kept, "cells": len(cells)}
            _dump(place / MANIFEST, told)
            _dump(place / CELLS, list(cells))
        record = Record(place)
        record._read()
        try:
            yield record
        finally:
            record.flush()


@contextmanager
def _locked(place: Path, named: Path) -> Iterator[None]:
    with writing(named):
        (place / LOCK).touch()
    with open(place / LOCK, "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputExists(
                f"cannot write a sweep into {str(named)!r}: another process is working on it. Wait for it, or name "
                "another folder with --out."
            ) from error
        yield


def _manifest(place: Path, named: Path) -> Mapping[str, Any] | None:
    """What an earlier sweep left in the folder; None if it is empty or absent."""
    if place.exists() and not place.is_dir():
        raise OutputExists(f"cannot write a sweep into {str(named)!r}: it is a file. Name a folder with --out.")
    told = manifest_of(place)
    if not place.exists() or all(path.name == PARTS or path.name.startswith(PREFIX) for path in place.iterdir()):
        return None  # or stopped before its manifest was written
    if told is None or told["headscope"] != KIND:
        raise OutputExists(
            f"cannot write a sweep into {str(named)!r}: it holds something else. Name another folder with --out."
        )
    return told


def manifest_of(folder: Path) -> Mapping[str, Any] | None:
    """The manifest of a run folder of ours; None for anything else."""
    told = read_mark(folder / MANIFEST)
    damaged = told is None or (told["headscope"] == KIND and not {"prompts", "cells", *_SAME} <= set(told))
    return None if damaged else told


def _require_same(
    known: Mapping[str, Any] | None, base: Mapping[str, Any], prompts: Mapping[str, Any], named: Path
) -> None:
    if known is None:
        return
    differing = [name for name in _SAME if known.get(name) != base[name]]
    if known["prompts"][0]["hash"] != prompts["hash"]:
        differing.append("prompts")
    if "version" not in known["measure"]:
        raise OutputExists(
            f"cannot go on with the sweep in {str(named)!r}: it was recorded when measures were told apart by their "
            "compiled code, so whether its values are of the same measure is unknown. Name another folder with --out."
        )
    if differing:
        raise _other(differing, named)


def _other(differing: Sequence[str], named: Path) -> OutputExists:
    return OutputExists(
        f"cannot go on with the sweep in {str(named)!r}: it was made with other {' and '.join(differing)}. "
        "Name another folder with --out."
    )


def _write(path: Path, write: Any) -> None:
    """A file that is whole or not there, on the disk before it has its name."""
    beside = path.parent / f"{PREFIX}{path.name}"
    try:
        with system_errors():
            write(beside)
        with open(beside, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _dump(path: Path, value: object) -> None:
    _write(path, lambda beside: write_json(beside, value))
