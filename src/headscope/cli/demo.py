"""`headscope demo`: the heads study on the shipped model, in a folder of its own."""

from pathlib import Path

import typer

from headscope.cli.study import verb
from headscope.studies.registry import STUDIES

OUT = Path("runs/demo")


def register(app: typer.Typer, name: str, text: str) -> None:
    """Put the verb into the command."""
    app.command(name, help=text)(verb("heads", STUDIES["heads"], OUT))
