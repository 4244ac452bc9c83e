"""`headscope study NAME`: run a study on a model and write its folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headscope.cli.common import Json, Quiet, default_out, opened, opens_model, print_json, stdout, with_fields
from headscope.cli.progress import progress_bar
from headscope.errors import Unkept
from headscope.results.folder import check_free
from headscope.results.study import Study, Verdict
from headscope.studies.context import Plan
from headscope.studies.registry import STUDIES, study

Out = Annotated[Path | None, typer.Option(help="Folder for tables, figures and report.html.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller, for a first look.")]
ModelName = Annotated[str, typer.Option(help="zoo:NAME, a folder, a GGUF file, or a Hub id.")]

_COLOUR = {Verdict.SUPPORTED: "green", Verdict.REFUTED: "red", Verdict.UNDETERMINED: "yellow"}


def register(app: typer.Typer, name: str, text: str) -> None:
    """Put the verb, with one command per study, into the command."""
    group = typer.Typer(no_args_is_help=True)
    for study_name, entry in STUDIES.items():
        group.command(study_name, help=entry.help)(verb(study_name, entry))
    app.add_typer(group, name=name, help=text)


def verb(name: str, found: Plan[Any], place: Path | None = None) -> Any:
    """The command of one study; its options are the fields of its settings, `place` the default of --out."""

    @with_fields(found.settings)
    @opens_model
    def run(
        model: ModelName = found.shown_on,
        out: Out = place,
        quick: Quick = False,
        json: Json = False,
        quiet: Quiet = False,
        *,
        settings: dict[str, Any],
        opening: dict[str, Any],
    ) -> None:
        folder = out if out is not None else default_out(name, model)
        check_free(folder)
        found.settings(**settings)  # refuses numbers out of range before the model is opened
        unkept = None
        with progress_bar(quiet) as progress:
            loaded = opened(model, opening, progress)
            how = {name: value for name, value in opening.items() if name != "memory"}
            try:
                result = study(
                    name, model=loaded, out=folder, quick=quick, options=how, progress=progress, **settings
                )
            except Unkept as error:
                result, unkept = error.study, error
        show(result, folder if unkept is None else unkept.folder, json)
        if unkept is not None:
            raise unkept

    return run


def show(result: Study, folder: Path | None, as_json: bool) -> None:
    """The question, its answer, the claims and the path of the report, if there is one; or everything as JSON."""
    report = None if folder is None else folder / "report.html"
    if as_json:
        print_json({**result.to_json(), "report": None if report is None else str(report)})
        return
    stdout.print(result.question, markup=False, style="bold")
    for paragraph in result.answer:
        stdout.print(paragraph, markup=False)
    stdout.print()
    for claim in result.claims:
        colour = _COLOUR[claim.verdict]
        stdout.print(f"[{colour}]{claim.verdict:>12}[/{colour}]  ", end="")
        stdout.print(claim.statement, markup=False)
        stdout.print(f"{'':14}{claim.because}", markup=False, style="dim")
    stdout.print()
    if report is not None:
        stdout.print(f"Report: {report.resolve()}", markup=False)
