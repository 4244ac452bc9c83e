"""The run folder: a study on disk, complete or not there at all.

    OUT/manifest.json        what it takes to run it again; marks the folder as ours
    OUT/study.json           claims, summary, tables, as one file
    OUT/tables/NAME.parquet  every table; NAME.json beside it says what its columns mean
    OUT/figures/NAME.svg
    OUT/report.html

Everything is written into a hidden folder first and moved at the end, so that an error or a full disk leaves
nothing half-written. A folder that exists is kept and its content replaced, which also serves the current
folder and a mounted one. Content that is not ours, down to a single file, is never replaced.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from headscope.errors import OutputExists
from headscope.results.files import PREFIX, check_writable, writing
from headscope.results.study import Study

MANIFEST = "manifest.json"
_OURS = re.compile(
    r"(manifest\.json|study\.json|report\.html|tables|tables/[^/]+\.(parquet|json)|figures|figures/[^/]+\.svg)"
)


def check_free(out: Path) -> None:
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
                f"cannot write a run into {str(out)!r}: it is a file. Name a folder with --out."
            )
        foreign = _foreign(place) if place.is_dir() else ""
    if foreign:
        raise OutputExists(
            f"cannot write a run into {str(out)!r}: it holds files that are not a run of headscope ({foreign}). "
            "Name another folder with --out."
        )
    check_writable(place, out)


def save(study: Study, out: Path, render: Callable[[Study], str]) -> Path:
    """Write a study and its rendered report; returns the path of the report.

    Raises:
        OutputExists: if the folder holds something else.
        Unwritable: if it cannot be written.
    """
    check_free(out)
    page = render(study)
    with writing(out):
        place = out.resolve()
        beside = place if place.is_dir() else place.parent
        beside.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
        try:
            fresh = hidden / "new"
            fresh.mkdir()
            _fill(fresh, study, page)
            if place.is_dir():
                _replace_content(place, fresh, hidden / "old")
            else:
                os.rename(fresh, place)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    return out / "report.html"


def _foreign(folder: Path) -> str:
    """What in the folder is not ours, as a word for a message; empty if it is empty or an earlier run."""
    found = sorted(folder.rglob("*"))
    for path in found:
        name = path.relative_to(folder).as_posix()
        is_folder = name in ("tables", "figures")
        if path.is_symlink() or not _OURS.fullmatch(name) or path.is_dir() != is_folder:
            return name
    return "" if not found or _is_manifest(folder / MANIFEST) else f"no {MANIFEST} of ours"


def _is_manifest(path: Path) -> bool:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(told, dict) and isinstance(told.get("headscope"), str)


def _fill(folder: Path, study: Study, page: str) -> None:
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    for name, table in study.tables.items():
        table.write_parquet(folder / "tables" / f"{name}.parquet")
        _dump(folder / "tables" / f"{name}.json", table.describe())
    for figure in study.figures:
        (folder / "figures" / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
    _dump(folder / "study.json", study.to_json())
    (folder / "report.html").write_text(page, encoding="utf-8")
    _dump(folder / MANIFEST, {"headscope": study.name, **study.provenance})


def _replace_content(folder: Path, fresh: Path, aside: Path) -> None:
    """Move the content of `fresh` into `folder`, what was there before into `aside`; put back on an error.

    The manifest goes first and comes last: a folder with a manifest is whole.
    """
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    before = [path for path in folder.iterdir() if not path.name.startswith(PREFIX)]
    try:
        for source, target in [
            *((path, aside) for path in sorted(before, key=lambda path: path.name != MANIFEST)),
            *((path, folder) for path in sorted(fresh.iterdir(), key=lambda path: path.name == MANIFEST)),
        ]:
            os.rename(source, target / source.name)
            moved.append((source, target / source.name))
    except BaseException:
        for source, now in reversed(moved):
            os.rename(now, source)
        raise


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
