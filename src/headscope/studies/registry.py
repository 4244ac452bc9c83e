"""The studies by name, and `study`: load a model, run one, write its folder.

In: a name, a model (or what to load), settings. Out: the Study record; with `out`, a run folder too.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headscope.errors import BadArgument, UnknownName
from headscope.models.history import History, history_of
from headscope.models.loading import load
from headscope.models.model import Model
from headscope.report import render
from headscope.results.folder import check_free, save_somewhere
from headscope.results.provenance import command
from headscope.results.study import Study
from headscope.results.unfinished import check_ours, going_on
from headscope.studies.abilities import plan as abilities
from headscope.studies.bayes import plan as bayes
from headscope.studies.budgets import Budget, seconds_of
from headscope.studies.context import Plan
from headscope.studies.forecasts import Forecast
from headscope.studies.heads import plan as heads
from headscope.studies.phase_change import plan as phase_change
from headscope.studies.redundancy import plan as redundancy
from headscope.studies.vectors import plan as vectors
from headscope.vocabulary import Progress, silent

_PLANS = (heads.PLAN, abilities.PLAN, phase_change.PLAN, bayes.PLAN, redundancy.PLAN, vectors.PLAN)
STUDIES: dict[str, Plan[Any]] = {plan.name: plan for plan in _PLANS}


def entry(name: str) -> Plan[Any]:
    """The study of that name.

    Raises:
        UnknownName: naming the studies that exist.
    """
    if name not in STUDIES:
        raise UnknownName.among("study", name, STUDIES)
    return STUDIES[name]


def study(
    name: str,
    *,
    model: Model | str | Sequence[str] | None = None,
    out: str | Path | None = None,
    quick: bool = False,
    budget: str | float | None = None,
    options: Mapping[str, object] = MappingProxyType({}),
    progress: Progress = silent,
    **settings: Any,
) -> Study:
    """Run a study by name; with `out`, write tables, figures and report.html there.

    `model` defaults to the shipped model that the study shows itself on; a study of trainings takes the names of one
    or several (`zoo:NAME`, folders with step-N folders, Hub ids). `settings` are fields of the
    study's configuration; `quick` makes smaller what they leave at its default. `budget` ("10m", or seconds) is the
    time that it may take: what is left at its default shrinks to fit, and the record says so. `options` are those
    with which the model was loaded (dtype, device, revision), for the command that is recorded. With `out`, what is
    computed is kept beside it until the study is written: one that is stopped goes on from there.

    >>> hs.study("heads", model="zoo:induction-2l", out="runs/heads").claims     # doctest: +SKIP

    Raises:
        UnknownName: for an unknown study or setting.
        BadArgument: for a budget that is none, or too small.
        OutputExists, Unwritable: if `out` cannot be written, before anything is run.
        Unkept: if it cannot be written any more when the study is finished, which is kept elsewhere.
    """
    plan, config = _asked(name, settings)
    seconds = None if budget is None else seconds_of(budget)
    if out is not None:
        check_free(Path(out))
        check_ours(Path(out))
    opened, histories = _opened(plan, model)
    config = config.quick() if quick else config
    with nullcontext() if out is None else going_on(Path(out)) as kept:
        given = None
        if seconds is not None:
            progress("fitting the study into its budget", 0, 1)
            fit = plan.fitting(config, opened, seconds, histories)
            config, given = fit.settings, Budget.starting(seconds, opened, fit.reduced)
        result = plan.run(config, opened, progress, given, histories)
    names = [each.name for each in histories] or [opened.name]
    told = {**result.provenance, "command": command(names, name, config, options)}
    result = dataclasses.replace(result, provenance=told)
    if out is not None:
        save_somewhere(result, Path(out), render)
    if kept is not None:
        kept.remove()
    return result


def forecast(
    name: str,
    *,
    model: Model | str | Sequence[str] | None = None,
    quick: bool = False,
    budget: str | float | None = None,
    **settings: Any,
) -> Forecast:
    """What `study` would ask of the model with the same arguments, and about how long; a few passes are timed.

    Raises:
        UnknownName: for an unknown study or setting.
        BadArgument: for a study that does not say what it asks, and for a budget that is none, or too small.
    """
    plan, config = _asked(name, settings)
    seconds = None if budget is None else seconds_of(budget)
    opened, histories = _opened(plan, model)
    config = config.quick() if quick else config
    if seconds is None:
        return plan.forecast(config, opened, histories)
    fit = plan.fitting(config, opened, seconds, histories)
    return dataclasses.replace(plan.forecast(fit.settings, opened, histories), notes=fit.reduced)


def _opened(plan: Plan[Any], model: Model | str | Sequence[str] | None) -> tuple[Model, tuple[History, ...]]:
    """The model that a study is about, or the trainings with the last checkpoint of the first one."""
    if not plan.suites:
        if not isinstance(model, Model | str | None):
            raise BadArgument(f"cannot run the study {plan.name!r} on {len(model)} models: it takes one.")
        return model if isinstance(model, Model) else load(plan.shown_on if model is None else model), ()
    if isinstance(model, Model):
        raise BadArgument(
            f"cannot run the study {plan.name!r} on an opened model: it is about trainings. Name one or several: "
            "zoo:NAME, a folder with step-N folders, or a Hub id."
        )
    names = plan.suites if model is None else [model] if isinstance(model, str) else list(model)
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice or not names:
        what = f"{twice[0]} twice" if twice else "no training"
        raise BadArgument(f"cannot run the study {plan.name!r} on {what}: name each training once.")
    histories = tuple(map(history_of, names))
    return histories[0].open(histories[0].steps[-1]), histories


def _asked(name: str, settings: Mapping[str, Any]) -> tuple[Plan[Any], Any]:
    """The study of that name, and its settings."""
    plan = entry(name)
    known = [field.name for field in dataclasses.fields(plan.settings)]
    for setting in settings:
        if setting not in known:
            raise UnknownName.among(f"setting of the study {name!r}", setting, known)
    return plan, plan.settings(**settings)
