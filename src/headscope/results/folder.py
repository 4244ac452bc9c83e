"""The run folder: a study on disk, complete or not there at all.

    OUT/manifest.json        what it takes to run it again; marks the folder as ours
    OUT/study.json           claims, summary, tables, as one file
    OUT/tables/NAME.parquet  every table, and `claims`, the comparisons behind every claim; NAME.json beside
                             it says what its columns mean
    OUT/figures/NAME.svg
    OUT/report.html

Everything is written into a hidden folder first and moved at the end, so that an error or a full disk leaves
nothing half-written. A folder that exists is kept and its content replaced, which also serves the current
folder and a mounted one. Content that is not ours, down to a single file, is never replaced.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headscope.errors import OutputExists, Unkept, Unwritable
from headscope.results.evidence import CLAIMS, evidence_table
from headscope.results.files import PREFIX, SCHEMA, check_writable, read_mark, write_json, writing
from headscope.results.study import Study

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Kind:
    """What a folder of ours is called in messages, the file that marks it, and all that it may hold.

    The mark is JSON with the key "headscope". `names` matches files and folders, by paths within it.
    """

    word: str
    mark: str
    names: re.Pattern[str]
    folders: tuple[str, ...] = ()


RUN = Kind(
    "run",
    MANIFEST,
    re.compile(
        r"(manifest\.json|study\.json|report\.html|tables|tables/[^/]+\.(parquet|json)|figures|figures/[^/]+\.svg)"
    ),
    ("tables", "figures"),
)


def check_free(out: Path, kind: Kind = RUN) -> None:
    """Raise unless `out` can be written: absent, empty, or holding an earlier result of ours and nothing else.

    To be called before the work, not after it.

    Raises:
        OutputExists: if it is a file or holds something else.
        Unwritable: if nothing can be written there.
    """
    with writing(out):
        place = out.resolve()
        if place.exists() and not place.is_dir():
            raise OutputExists(
                f"cannot write a {kind.word} into {str(out)!r}: it is a file. Name a folder with --out."
            )
        foreign = _foreign(place, kind) if place.is_dir() else ""
    if foreign:
        raise OutputExists(
            f"cannot write a {kind.word} into {str(out)!r}: it holds files that are not a {kind.word} of headscope "
            f"({foreign}). Name another folder with --out."
        )
    check_writable(place, out)


def save(study: Study, out: Path, render: Callable[[Study], str]) -> Path:
    """Write a study and its rendered report (`place_folder`); returns the path of the report."""
    page = render(study)
    place_folder(out, RUN, lambda folder: _fill(folder, study, page))
    return out / "report.html"


def save_somewhere(study: Study, out: Path, render: Callable[[Study], str]) -> None:
    """As `save`; where that fails, the study is finished all the same, and kept in the temporary folder.

    Raises:
        Unkept: if it is not in `out`; it says where it is.
    """
    try:
        save(study, out, render)
    except (Unwritable, OutputExists) as error:
        kept = None
        with contextlib.suppress(OSError, Unwritable):
            place = Path(tempfile.mkdtemp(prefix=f"headscope-{study.name}-"))
            try:
                save(study, place, render)
                kept = place
            finally:
                if kept is None:
                    os.rmdir(place)
        raise Unkept(error, study, kept) from error


def place_folder(out: Path, kind: Kind, fill: Callable[[Path], object]) -> None:
    """Let `fill` fill a hidden folder that then takes its place; an error leaves what was there before.

    Raises:
        OutputExists, Unwritable: as `check_free` says.
    """
    check_free(out, kind)
    with writing(out):
        place = out.resolve()
        beside = place if place.is_dir() else place.parent
        beside.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=beside, ignore_cleanup_errors=True) as hidden:
            fresh = Path(hidden) / "new"
            fresh.mkdir()
            fill(fresh)
            if place.is_dir():
                _replace_content(place, fresh, Path(hidden) / "old", kind.mark)
            else:
                os.rename(fresh, place)


def _foreign(folder: Path, kind: Kind) -> str:
    """What in the folder is not ours, as a word for a message; empty if it is empty or an earlier one of ours."""
    found = sorted(folder.rglob("*"))
    for path in found:
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not kind.names.fullmatch(name) or path.is_dir() != (name in kind.folders):
            return name
    return "" if not found or read_mark(folder / kind.mark) else f"no {kind.mark} of ours"


def _fill(folder: Path, study: Study, page: str) -> None:
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    if CLAIMS in study.tables:
        raise ValueError(f"study {study.name!r}: no table may be named {CLAIMS!r}, which holds the evidence")
    for name, table in {**study.tables, CLAIMS: evidence_table(study)}.items():
        table.write_parquet(folder / "tables" / f"{name}.parquet")
        write_json(folder / "tables" / f"{name}.json", table.describe())
    for figure in study.figures:
        (folder / "figures" / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
    write_json(folder / "study.json", study.to_json())
    (folder / "report.html").write_text(page, encoding="utf-8")
    write_json(folder / MANIFEST, {"headscope": study.name, "schema": SCHEMA, **study.provenance})


def _replace_content(folder: Path, fresh: Path, aside: Path, mark: str) -> None:
    """Move the content of `fresh` into `folder`, what was there before into `aside`; put back on an error.

    The mark goes first and comes last: a folder with a mark is whole.
    """
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    before = [path for path in folder.iterdir() if not path.name.startswith(PREFIX)]
    out = [(path, aside) for path in sorted(before, key=lambda path: path.name != mark)]
    into = [(path, folder) for path in sorted(fresh.iterdir(), key=lambda path: path.name == mark)]
    try:
        for source, target in (*out, *into):
            os.rename(source, target / source.name)
            moved.append((source, target / source.name))
    except BaseException:
        for source, now in reversed(moved):
            os.rename(now, source)
        raise
