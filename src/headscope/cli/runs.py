"""`headscope runs`: the runs in a folder, how far they are, and the command that made each."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from headscope.cli.common import Json, guarded, print_json, stdout
from headscope.errors import BadArgument
from headscope.results.runs import runs_in

Folder = Annotated[Path, typer.Argument(help="Where to look, with everything below.")]


@guarded
def run(folder: Folder = Path("runs"), json: Json = False) -> None:
    """List runs, the newest first."""
    if not folder.is_dir():
        raise BadArgument(f"cannot list runs in {str(folder)!r}: there is no such folder. Name one that has runs.")
    runs = runs_in(folder)
    if json:
        print_json([{**dataclasses.asdict(one), "folder": str(one.folder)} for one in runs])
        return
    for one in runs:
        stdout.print(f"{one.folder}  {one.kind}  {one.model}  {one.state}  {one.date}", markup=False)
        stdout.print(f"    {one.command}", markup=False, style="dim")
    if not runs:
        stdout.print(f"No runs in {folder}.", markup=False)
