"""The studies by name, and `study`: load a model, run one, write its folder.

In: a name, a model (or what to load), settings. Out: the Study record; with `out`, a run folder too.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headscope.errors import UnknownName
from headscope.models.loading import load
from headscope.models.model import Model
from headscope.report import render
from headscope.results.folder import check_free, save_somewhere
from headscope.results.provenance import command
from headscope.results.study import Study
from headscope.studies.bayes import plan as bayes
from headscope.studies.context import Plan
from headscope.studies.heads import plan as heads
from headscope.studies.redundancy import plan as redundancy
from headscope.studies.vectors import plan as vectors
from headscope.vocabulary import Progress, silent

STUDIES: dict[str, Plan[Any]] = {plan.name: plan for plan in (heads.PLAN, bayes.PLAN, redundancy.PLAN, vectors.PLAN)}


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
    model: Model | str | None = None,
    out: str | Path | None = None,
    quick: bool = False,
    options: Mapping[str, object] = MappingProxyType({}),
    progress: Progress = silent,
    **settings: Any,
) -> Study:
    """Run a study by name; with `out`, write tables, figures and report.html there.

    `model` defaults to the shipped model that the study shows itself on. `settings` are fields of the
    study's configuration; `quick` makes smaller what they leave at its default. `options` are those with
    which the model was loaded (dtype, device, revision), for the command that is recorded.

    >>> hs.study("heads", model="zoo:induction-2l", out="runs/heads").claims     # doctest: +SKIP

    Raises:
        UnknownName: for an unknown study or setting.
        OutputExists, Unwritable: if `out` cannot be written, before anything is run.
        Unkept: if it cannot be written any more when the study is finished, which is kept elsewhere.
    """
    plan = entry(name)
    known = [field.name for field in dataclasses.fields(plan.settings)]
    for setting in settings:
        if setting not in known:
            raise UnknownName.among(f"setting of the study {name!r}", setting, known)
    config = plan.settings(**settings)
    if out is not None:
        check_free(Path(out))
    opened = model if isinstance(model, Model) else load(plan.shown_on if model is None else model)
    config = config.quick() if quick else config
    result = plan.run(config, opened, progress)
    told = {**result.provenance, "command": command(opened, name, config, options)}
    result = dataclasses.replace(result, provenance=told)
    if out is not None:
        save_somewhere(result, Path(out), render)
    return result
