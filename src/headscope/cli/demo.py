"""`headscope demo`: the heads study on the shipped model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headscope.cli.study import verb
from headscope.studies.registry import STUDIES

OUT = Path("runs/demo")


def register(app: typer.Typer, name: str, text: str) -> None:
    """Put the verb into the command: the heads study with a folder of its own."""
    run = verb("heads", STUDIES["heads"])
    run.__signature__ = run.__signature__.replace(
        parameters=[_with_folder(p) if p.name == "out" else p for p in run.__signature__.parameters.values()]
    )
    app.command(name, help=text)(run)


def _with_folder(parameter: Any) -> Any:
    annotation = Annotated[Path, typer.Option(help="Folder for tables, figures and report.html.")]
    return parameter.replace(default=OUT, annotation=annotation)
