"""Which runs a folder holds, how far they are, and how they were made: `headscope runs`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headscope.results.record import KIND, MANIFEST, PARTS, TABLES, manifest_of


@dataclass(frozen=True)
class Run:
    """A run folder: what it is, on which model, and how far it got."""

    folder: Path
    kind: str
    model: str
    state: str
    date: str
    command: str


def runs_in(folder: Path) -> list[Run]:
    """Every run below a folder, the newest first."""
    runs = []
    for path in folder.rglob(MANIFEST):
        manifest = manifest_of(path.parent)
        if manifest is not None:
            model, date, command = (str(manifest.get(name, "")) for name in ("model", "date", "command"))
            kind, state = manifest["headscope"], _state(path.parent, manifest)
            runs.append(Run(path.parent, kind, model, state, date, command))
    return sorted(runs, key=lambda run: (run.date, str(run.folder)), reverse=True)


def _state(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Complete, or how many cells of how many are done on all prompts."""
    if manifest["headscope"] != KIND or any((folder / f"{name}.parquet").exists() for name in TABLES):
        return "complete"
    parts = sorted((folder / PARTS).glob("[0-9]*.parquet"))
    if not parts:
        return f"0 of {manifest['cells']} cells"
    try:
        done = pl.scan_parquet(parts).filter(pl.col("batch") == 0)
        by_cell = done.group_by("cell").agg(pl.col("example").n_unique()).collect()["example"]
    except pl.exceptions.PolarsError:
        return "damaged"
    # Records of before had whole cells only, and do not say of how many prompts.
    whole = int((by_cell == manifest["prompts"][0].get("count", by_cell.max())).sum())
    begun = f" and some prompts of {len(by_cell) - whole} more" if whole < len(by_cell) else ""
    return f"{whole} of {manifest['cells']} cells{begun}"
