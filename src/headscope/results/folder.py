"""The run folder: a study on disk, complete or not there at all.

    OUT/manifest.json        what it takes to run it again; marks the folder as ours
    OUT/study.json           claims, summary, tables, as one file
    OUT/tables/NAME.parquet  every table; NAME.json beside it says what its columns mean
    OUT/figures/NAME.svg
    OUT/report.html

Everything is written into a folder beside the final one and renamed at the end, so that an error or a full
disk leaves nothing half-written. A folder that is not ours is never replaced.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from headscope.errors import OutputExists
from headscope.results.study import Study

MANIFEST = "manifest.json"


def check_free(out: Path) -> None:
    """Raise OutputExists unless `out` can be written: absent, empty, or an earlier result of ours.

    To be called before the work, not after it.
    """
    if out.is_file():
        raise OutputExists(f"cannot write a run into {str(out)!r}: it is a file. Name a folder with --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise OutputExists(
            f"cannot write a run into {str(out)!r}: it holds files that are not a run of headscope. "
            "Name another folder with --out."
        )


def save(study: Study, out: Path, render: Callable[[Study], str]) -> Path:
    """Write a study and its rendered report; returns the path of the report.

    Raises:
        OutputExists: if the folder holds something else.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _fill(fresh, study, render(study))
        # mkdtemp makes folders that only the owner can enter; a run is meant to be shared.
        fresh.chmod(0o755)
        _put_in_place(fresh, out)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return out / "report.html"


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


def _put_in_place(fresh: Path, out: Path) -> None:
    if not out.exists():
        os.rename(fresh, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent)) / "old"
    os.rename(out, aside)
    os.rename(fresh, out)
    shutil.rmtree(aside.parent)


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
