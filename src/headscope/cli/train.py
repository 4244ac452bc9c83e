"""`headscope train RECIPE`: train a small model, resumable, with checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from headscope import training
from headscope.cli.common import Json, Quiet, guarded, print_json, stdout
from headscope.cli.progress import progress_bar

Name = Annotated[str, typer.Argument(help="Name of a recipe.", metavar="RECIPE")]
Out = Annotated[Path | None, typer.Option(help="Folder for checkpoints and the final model.")]
Resume = Annotated[bool, typer.Option(help="Go on where an interrupted run of the same recipe stopped.")]


@guarded
def run(recipe: Name, out: Out = None, resume: Resume = True, json: Json = False, quiet: Quiet = False) -> None:
    """Train by recipe; the final folder opens with headscope.load."""
    chosen = training.recipe(recipe)
    folder = out if out is not None else Path("runs/train") / recipe
    with progress_bar(quiet) as progress:
        final = training.train(
            chosen,
            folder,
            resume=resume,
            progress=lambda evaluation: progress("training", evaluation.step, chosen.steps),
        )
    if json:
        print_json({"recipe": recipe, "model": str(final)})
    else:
        stdout.print(f"Model: {final.resolve()}", markup=False)
