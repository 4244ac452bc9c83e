"""The command `headscope`: finds the verb, loads that verb's file alone, and hands over.

Only the verb that is called is imported, so that `headscope --help` answers at once although a model
library stands behind most verbs. Exit codes: 0 ok, 1 internal, 2 usage, input or model, 4 out of memory,
5 partial and resumable, 130 interrupted.
"""

import importlib
import keyword
import sys
from importlib.metadata import version

import typer

VERBS = {
    "demo": "The main job on a shipped model, under a minute.",
    "study": "One question, one report: headscope study NAME --model MODEL.",
    "check": "The certificate of a model: what is proven on it, what is refused.",
    "heads": "The detector table of a model: what each head attends to.",
    "models": "The models that ship with headscope.",
    "sweep": "Any grid of interventions, exact and resumable.",
    "top": "Which heads matter most for a measure, without running the full grid.",
    "runs": "The runs in a folder, how far they are, and what made them.",
    "train": "Train a small model by recipe, with checkpoints.",
    "import": "A published state dict (TransformerLens' naming) as a model folder.",
}


def build(verb: str | None) -> typer.Typer:
    """The command with one verb loaded and the others known by name and help alone."""
    app = typer.Typer(
        name="headscope",
        help="What every attention head does, and what happens without it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, text in VERBS.items():
        if name == verb:
            # No module can be called import.
            file = f"{name}_" if keyword.iskeyword(name) else name
            module = importlib.import_module(f"headscope.cli.{file}")
            if hasattr(module, "register"):  # a verb with commands of its own
                module.register(app, name, text)
            else:
                app.command(name, help=text)(module.run)
        else:
            app.command(name, help=text)(_named_only)
    return app


def _named_only() -> None:
    """Stands for a verb that was not called."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headscope {version('headscope')}")
        raise typer.Exit()


def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and leave.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Options of the command itself."""


def main() -> None:
    """The entry point."""
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        build(verb if verb in VERBS else None)()
    except KeyboardInterrupt:
        # While a verb is being loaded; from then on the verb itself answers.
        typer.echo("headscope: interrupted.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
