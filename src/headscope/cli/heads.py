"""`headscope heads MODEL`: the detector table alone."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from headscope.cli.common import Json, ModelName, Quiet, Seed, opened, opens_model, print_json, stderr, stdout
from headscope.cli.progress import progress_bar
from headscope.detectors import DEFAULT, NAMING_UNITS, check_sizes, default_prompts, detect, detectors, reach_of
from headscope.errors import BadArgument
from headscope.results.files import check_file, write_file
from headscope.tables import Table
from headscope.tasks.text import read_text

Detectors = Annotated[str, typer.Option(help="Detectors, by commas; lookback:N is one for each N.")]
Text = Annotated[Path | None, typer.Option(help="UTF-8 file of real text for the detectors that want text.")]
Prompts = Annotated[int, typer.Option("--n", help="Prompts of each kind.")]
Gap = Annotated[int, typer.Option(help="Up to so many other tokens before each repeat.")]
Out = Annotated[Path | None, typer.Option(help="Also write the table to this .parquet or .csv file.")]

# As many heads as a terminal shows at once; larger models print what was named, or the highest of each kind.
MOST_ROWS = 64


@opens_model
def run(
    model: ModelName,
    detector: Detectors = ",".join(DEFAULT),
    text: Text = None,
    n: Prompts = 50,
    gap: Gap = 0,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
    *,
    opening: dict[str, Any],
) -> None:
    """Score every head on every detector, with intervals, uniform references and matched nulls."""
    wanted = [one.name for one in detectors(detector)]
    if out is not None and out.suffix not in (".parquet", ".csv"):
        raise BadArgument(f"cannot write the table to {str(out)!r}: name a .parquet or .csv file.")
    if out is not None:
        check_file(out)
    check_sizes("detect heads", n=n, seed=seed, fewest=NAMING_UNITS)
    if gap < 0:
        raise BadArgument(f"cannot detect heads with gap {gap}: it must be at least 0.")
    source = None if text is None else read_text(text)
    named = "a given text" if text is None else text.name
    reach = reach_of(detectors(wanted))
    with progress_bar(quiet) as progress:
        loaded = opened(model, opening, progress)
        prompts = default_prompts(loaded, n=n, seed=seed, text=source, named=named, gaps=(0, gap), reach=reach)
        if len(prompts.natural) < n and not quiet:
            given = f"{len(prompts.natural)} natural prompts of {prompts.natural.longest} tokens"
            stderr.print(f"The text gives {given}, not {n}.", markup=False)
        table = detect(loaded, wanted, prompts=prompts, progress=progress)
    if json:
        print_json({"model": loaded.name, "identity": loaded.identity, "heads": table.to_records()})
    else:
        _show(table, wanted, quiet)
    if out is not None:  # last: what cannot be written is seen at least
        write_file(out, table.write_parquet if out.suffix == ".parquet" else table.frame.write_csv)


def _show(table: Table, wanted: list[str], quiet: bool) -> None:
    heads: dict[str, dict[str, str]] = {}
    for row in table.rows():
        kind = "" if row["kind"] in ("", row["detector"]) else f" {row['kind']}"
        untold = "?" if math.isnan(row["adjusted_low"]) else " "
        cell = f"[bold]{row['score']:.3f} *{kind}[/bold]" if row["named"] else f"{row['score']:.3f} {untold}"
        heads.setdefault(row["head"], {})[row["detector"]] = cell
    shown, why = _shown(table, wanted, list(heads))
    grid = RichTable("head", *wanted, box=None, pad_edge=False)
    for head, cells in heads.items():
        if head in shown:
            grid.add_row(head, *(cells[kind] for kind in wanted))
    stdout.print(grid)
    if not quiet:
        left_out = f" Not shown: {len(heads) - len(shown)} of {len(heads)} heads, {why}." if why else ""
        stderr.print(
            "* named: the score exceeds its matched null by more than .1 (lower 95% bound for all heads at once)."
            " Beside it: its kind, where what it writes makes it another. ?: could not be tested."
            f"{left_out} --json or --out gives intervals and nulls.",
            markup=False,
        )


def _shown(table: Table, wanted: list[str], heads: list[str]) -> tuple[set[str], str]:
    """The heads to print, and what the others are: in a large model nearly all may be named, as resting on BOS."""
    if len(heads) <= MOST_ROWS:
        return set(heads), ""
    named = table.rows(named=True)
    if len(found := {row["head"] for row in named}) <= MOST_ROWS:
        return found, "named by nothing"
    each = max(1, MOST_ROWS // len(wanted))
    best = sorted(named, key=lambda row: -row["score"])
    highest = {row["head"] for kind in wanted for row in [r for r in best if r["detector"] == kind][:each]}
    return highest, f"named by nothing or below the {each} highest of each kind"
