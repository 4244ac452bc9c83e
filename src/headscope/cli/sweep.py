"""`headscope sweep MODEL`: any grid of interventions over generated or given prompts, resumable."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from headscope.cli import sweep_parts as parts
from headscope.cli.common import (
    Device,
    Dtype,
    Json,
    Memory,
    ModelName,
    Quiet,
    Revision,
    Seed,
    TrustRemoteCode,
    guarded,
    opened,
    print_json,
    progress_bar,
    stdout,
)
from headscope.results.agreement import agreement
from headscope.results.collect import sweep_approximately, sweep_batches
from headscope.sweeps import forecast
from headscope.tables import Table

Do = Annotated[str, typer.Option("--do", help=f"What is done: {', '.join(parts.DEEDS)}.")]
At = Annotated[
    str, typer.Option("--at", help="Where: z (heads), or a site such as resid_pre, attn_out, mlp_out.")
]
Axis = "'all', or numbers and spans by commas: 0,2,5-7."
Layers = Annotated[str, typer.Option(help=f"Layers: {Axis}")]
Heads = Annotated[str | None, typer.Option(help=f"Heads: {Axis} Without it whole layers (for z: all heads).")]
Positions = Annotated[
    str | None, typer.Option(help=f"Positions, one cell each: {Axis} Without it all at once.")
]
PromptsName = Annotated[
    str, typer.Option("--prompts", help=f"{', '.join(parts.PROMPTS)}, or a .json file of examples.")
]
Reference = Annotated[
    Path | None, typer.Option(help="With a file: the .json file that mean, resample or patch take from.")
]
MeasureName = Annotated[
    str, typer.Option("--measure", help="Measure, perhaps with a role: loss:predictable.")
]
Number = Annotated[int, typer.Option("--n", help="Prompts, or prompts of one batch with --precision.")]
Length = Annotated[int, typer.Option(help="Tokens of a generated segment or window.")]
Precision = Annotated[float | None, typer.Option(help="Add prompts until every interval is within this.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say how many cells, how much memory, how long.")]
Out = Annotated[Path | None, typer.Option(help="Folder that keeps finished cells; run again to go on there.")]
Approximate = Annotated[
    bool,
    typer.Option("--approximate", help="Estimate all cells to first order, from one pass there and back."),
]
VerifyTop = Annotated[
    int, typer.Option("--verify-top", help="With --approximate: run this many of the largest effects.")
]

MOST_ROWS = 40


def register(app: typer.Typer, name: str, text: str) -> None:
    """Put the verb into the command."""
    app.command(name, help=text)(run)


@guarded
def run(
    model: ModelName,
    do: Do = "zero",
    at: At = "z",
    layers: Layers = "all",
    heads: Heads = None,
    positions: Positions = None,
    prompts: PromptsName = "repeated",
    reference: Reference = None,
    measure: MeasureName = "",
    n: Number = 50,
    length: Length = 12,
    precision: Precision = None,
    dry_run: Dry = False,
    out: Out = None,
    approximate: Approximate = False,
    verify_top: VerifyTop = 0,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory: Memory = "1GB",
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply an intervention in every cell of a grid to the same prompts, and measure."""
    parts.check_approximate(
        approximate, verify_top, {"--precision": precision, "--dry-run": dry_run, "--out": out}
    )
    asked = parts.Asked(do, at, layers, heads, positions, prompts, reference, measure, n, length, seed)
    loaded = opened(
        model,
        device=device,
        dtype=dtype,
        memory=memory,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    batches, measured = parts.batches(loaded, asked), parts.measure_of(asked)
    if dry_run:
        first = batches(0)
        told = forecast(loaded, first.prompts, first.cells, measured)
        print_json(dataclasses.asdict(told)) if json else stdout.print(told.sentence, markup=False)
        return
    with progress_bar(quiet) as bar:
        shared: dict[str, Any] = {"progress": lambda done, of: bar("cells", done, of)}
        if approximate:
            table = sweep_approximately(loaded, batches(0), measured, verify_top=verify_top, **shared)
        else:
            shared |= {"precision": precision, "command": shlex.join(["headscope", *sys.argv[1:]])}
            table = sweep_batches(loaded, batches, measured, out=out, **shared)
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
            f"[{row['low']:.4f}, {row['high']:.4f}]",
            *(row[name] for name in estimated),
        )
    stdout.print(grid)
    if len(frame) > MOST_ROWS:
        stdout.print(
            f"The {MOST_ROWS} of {len(frame)} cells farthest from the median; --json or --out gives all."
        )
    if estimated:
        stdout.print(agreement(table).sentence, markup=False)
