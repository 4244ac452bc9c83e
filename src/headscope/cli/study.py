"""`headscope study NAME`: run a study on a model and write its folder."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from headscope.cli.common import (
    Json,
    Quiet,
    default_out,
    guarded,
    opened,
    opens_model,
    print_json,
    stderr,
    stdout,
    with_fields,
)
from headscope.cli.progress import progress_bar
from headscope.errors import Unkept
from headscope.results.folder import check_free
from headscope.results.study import Study, Verdict
from headscope.results.unfinished import check_ours, unfinished_of
from headscope.studies.budgets import in_words, seconds_of
from headscope.studies.context import Plan
from headscope.studies.forecasts import Forecast
from headscope.studies.registry import STUDIES, forecast, study

Out = Annotated[Path | None, typer.Option(help="Folder for tables, figures and report.html.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller, for a first look.")]
Limit = Annotated[
    str | None, typer.Option("--budget", help="Time it may take (90s, 10m, 1h): what was not chosen shrinks to fit.")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say what it would ask of the model, and how long.")]
ModelName = Annotated[str, typer.Option(help="zoo:NAME, a folder, a GGUF file, or a Hub id.")]
Trainings = Annotated[
    list[str] | None,
    typer.Option("--model", help="zoo:NAME, a folder with step-N folders, or a Hub id; again for more."),
]

_COLOUR = {Verdict.SUPPORTED: "green", Verdict.REFUTED: "red", Verdict.UNDETERMINED: "yellow"}


def register(app: typer.Typer, name: str, text: str) -> None:
    """Put the verb, with one command per study, into the command."""
    group = typer.Typer(no_args_is_help=True)
    for study_name, entry in STUDIES.items():
        group.command(study_name, help=entry.help)(verb(study_name, entry))
    app.add_typer(group, name=name, help=text)


def verb(name: str, found: Plan[Any], place: Path | None = None) -> Any:
    """The command of one study; its options are the fields of its settings, `place` the default of --out."""
    if found.suites:
        return _of_trainings(name, found)

    @with_fields(found.settings)
    @opens_model
    def run(
        model: ModelName = found.shown_on,
        out: Out = place,
        quick: Quick = False,
        budget: Limit = None,
        dry_run: Dry = False,
        json: Json = False,
        quiet: Quiet = False,
        *,
        settings: dict[str, Any],
        opening: dict[str, Any],
    ) -> None:
        folder = out if out is not None else default_out(name, model)
        found.settings(**settings)  # refuses numbers out of range before the model is opened
        if budget is not None:
            seconds_of(budget)
        if dry_run:
            with progress_bar(quiet) as progress:
                loaded = opened(model, opening, progress)
                progress("timing passes", 0, 1)
                told = forecast(name, model=loaded, quick=quick, budget=budget, **settings)
            print_json(told.to_json()) if json else show_forecast(told)
            return
        check_free(folder)
        if check_ours(folder) and not quiet:
            said = f"going on from what an unfinished run kept in {unfinished_of(folder)}"
            stderr.print(said, markup=False, soft_wrap=True)
        unkept = None
        with progress_bar(quiet) as progress:
            loaded = opened(model, opening, progress)
            how = {name: value for name, value in opening.items() if name != "memory"}
            try:
                result = study(
                    name,
                    model=loaded,
                    out=folder,
                    quick=quick,
                    budget=budget,
                    options=how,
                    progress=progress,
                    **settings,
                )
            except Unkept as error:
                result, unkept = error.study, error
        show(result, folder if unkept is None else unkept.folder, json)
        if unkept is not None:
            raise unkept

    return run


def _of_trainings(name: str, found: Plan[Any]) -> Any:
    """The command of a study of trainings, whose checkpoints are opened one by one."""

    @with_fields(found.settings)
    @guarded
    def run(
        model: Trainings = None,
        out: Out = None,
        quick: Quick = False,
        budget: Limit = None,
        dry_run: Dry = False,
        json: Json = False,
        quiet: Quiet = False,
        *,
        settings: dict[str, Any],
    ) -> None:
        found.settings(**settings)
        if dry_run:
            told = forecast(name, model=model, quick=quick, budget=budget, **settings)
            print_json(told.to_json()) if json else show_forecast(told)
            return
        folder = out if out is not None else default_out(name, model[0] if model else "shipped")
        check_free(folder)
        with progress_bar(quiet) as progress:
            result = study(name, model=model, out=folder, quick=quick, budget=budget, progress=progress, **settings)
        show(result, folder, json)

    return run


def show_forecast(told: Forecast) -> None:
    """A row for each stage, and what all of them take."""
    grid = RichTable(
        "stage", "cells", "prompts", "tokens", "token-passes", "unembedded", "time", box=None, pad_edge=False
    )
    for column in grid.columns[1:]:
        column.justify = "right"
    for stage, seconds in zip(told.stages, told.seconds_each, strict=True):
        numbers = (stage.cells, stage.prompts, stage.tokens, stage.token_passes, stage.unembedded)
        grid.add_row(stage.name, *(f"{number:,.0f}" for number in numbers), in_words(seconds))
    stdout.print(grid)
    memory = f"up to {told.memory_bytes / 2**20:,.0f} MB beside the model"
    stdout.print(f"{told.study} on {told.model}: about {in_words(told.seconds)}, {memory}.", markup=False)
    if told.notes:
        stdout.print(f"Made smaller to fit: {'; '.join(told.notes)}.", markup=False)


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
