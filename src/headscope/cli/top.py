"""`headscope top MODEL`: which heads matter most for a measure, at a part of the full grid's cost; resumable."""

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
from headscope.errors import BadArgument
from headscope.results.top_heads import share_run, top_of
from headscope.tables import Table

Count = Annotated[int, typer.Option("--k", help="How many heads.")]
Out = Annotated[Path | None, typer.Option(help="Folder that keeps what ran, as that of a sweep; run again to go on.")]


@with_fields(parts.SweepOptions)
@opens_model
def run(
    model: ModelName,
    k: Count = 10,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
    *,
    settings: dict[str, Any],
    opening: dict[str, Any],
) -> None:
    """Find the heads whose ablation damages a measure most; heads that cannot be among them are dropped early."""
    options = parts.SweepOptions(**settings)
    if options.positions is not None:
        raise BadArgument("cannot find the top heads position by position: leave --positions away, or use sweep.")
    options = dataclasses.replace(options, heads=options.heads or "all")
    with progress_bar(quiet) as bar:
        loaded = opened(model, opening, bar)
        grid = parts.batches(loaded, options)(0)
        table = top_of(
            grid, k, seed=options.seed, out=out, command=shlex.join(["headscope", *sys.argv[1:]]), progress=bar
        )
    if json:
        told = {"model": loaded.name, "identity": loaded.identity, "share_run": share_run(table)}
        print_json({**told, "top_heads": table.to_records()})
        return
    _show(table)
    if out is not None:
        stdout.print(f"Table: {(out / 'top_heads.parquet').resolve()}", markup=False)


def _show(table: Table) -> None:
    """The top, and what it took."""
    top = [row for row in table.rows() if row["status"] != "out"]
    grid = RichTable("head", "damage", "95% bounds", "prompts", "status", box=None, pad_edge=False)
    for row in top:
        bounds = "none: too alike" if math.isnan(row["low"]) else f"[{row['low']:.4f}, {row['high']:.4f}]"
        grid.add_row(
            row["head"], f"{row['mean_damage']:.4f}", bounds, f"{row['prompts']} of {row['of']}", row["status"]
        )
    stdout.print(grid)
    stdout.print(
        f"Damage of {top[0]['measure']} by '{table.rows()[0]['intervention'].split()[0]}' of one head; the top of "
        f"{len(table)} heads on these {top[0]['of']} prompts, found with {share_run(table):.0%} of the full grid.",
        markup=False,
    )
