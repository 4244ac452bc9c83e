"""`headscope sweep MODEL`: any grid of interventions over generated or given prompts, resumable."""

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from headscope.cli import sweep_parts as parts
from headscope.cli.common import Json, ModelName, Quiet, opened, opens_model, print_json, stdout, with_fields
from headscope.cli.progress import progress_bar
from headscope.measures import MIN_UNITS
from headscope.results.agreement import agreement
from headscope.results.collect import check, sweep_approximately, sweep_batches
from headscope.sweeps import forecast
from headscope.tables import Table

Precision = Annotated[float | None, typer.Option(help="Add prompts until every interval is within this.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say how many cells, how much memory, how long.")]
Out = Annotated[Path | None, typer.Option(help="Folder that keeps finished cells; run again to go on there.")]
Approximate = Annotated[
    bool, typer.Option("--approximate", help="Estimate all cells to first order, from one pass there and back.")
]
VerifyTop = Annotated[
    int, typer.Option("--verify-top", help="With --approximate: run this many of the largest effects.")
]

MOST_ROWS = 40


@with_fields(parts.SweepOptions)
@opens_model
def run(
    model: ModelName,
    precision: Precision = None,
    dry_run: Dry = False,
    out: Out = None,
    approximate: Approximate = False,
    verify_top: VerifyTop = 0,
    json: Json = False,
    quiet: Quiet = False,
    *,
    settings: dict[str, Any],
    opening: dict[str, Any],
) -> None:
    """Apply an intervention in every cell of a grid to the same prompts, and measure."""
    parts.check_approximate(approximate, verify_top, {"--precision": precision, "--dry-run": dry_run, "--out": out})
    options = parts.SweepOptions(**settings)
    with progress_bar(quiet) as bar:
        loaded = opened(model, opening, bar)
        batches = parts.batches(loaded, options)
        if dry_run:
            first = batches(0)
            check(first)
            told = forecast(loaded, first.prompts, first.cells, first.measure)
        elif approximate:
            table = sweep_approximately(batches(0), verify_top=verify_top, progress=bar)
        else:
            command = shlex.join(["headscope", *sys.argv[1:]])
            table = sweep_batches(batches, precision=precision, out=out, command=command, progress=bar)
    if dry_run:
        print_json(dataclasses.asdict(told)) if json else stdout.print(told.sentence, markup=False)
        return
    if json:
        print_json({"model": loaded.name, "identity": loaded.identity, "sweep": table.to_records()})
        return
    _show(table)
    if out is not None:
        stdout.print(f"Table: {(out / 'sweep.parquet').resolve()}", markup=False)


def _show(table: Table) -> None:
    """The cells that matter most first, as many as a terminal shows."""
    frame = table.frame
    axes = [name for name in ("layer", "head", "position") if frame[name].null_count() < len(frame)]
    estimated = ["path"] if "estimate" in frame.columns else []
    named = str(frame["measure"][0]) if len(frame) else "value"
    grid = RichTable(*axes, named, "95% interval", *estimated, box=None, pad_edge=False)
    middle = frame["value"].median()
    order = (frame["value"] - (middle if isinstance(middle, float) else 0.0)).abs().arg_sort(descending=True)
    for row in frame[order[:MOST_ROWS]].iter_rows(named=True):
        grid.add_row(
            *(str(row[axis]) for axis in axes),
            f"{row['value']:.4f}",
            _interval(row["low"], row["high"]),
            *(row[name] for name in estimated),
        )
    stdout.print(grid)
    if len(frame) > MOST_ROWS:
        stdout.print(f"The {MOST_ROWS} of {len(frame)} cells farthest from the median; --json or --out gives all.")
    if estimated:
        stdout.print(agreement(table).sentence, markup=False)


def _interval(low: float, high: float) -> str:
    """Bounds; "[nan, nan]" would be taken for markup, and vanish."""
    return f"undefined: fewer than {MIN_UNITS} prompts" if math.isnan(low) else f"[{low:.4f}, {high:.4f}]"
