"""What every attention head does, and what happens without it.

Names are imported when first used, so that `import headscope` and `headscope --help` answer at once
although a model library stands behind most of them.

>>> import headscope as hs
>>> hs.Head.parse("1.4")
Head(1, 4)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headscope import errors, interventions, measures, tasks
    from headscope.detectors import detect
    from headscope.interventions import (
        add,
        fixed_offset,
        freeze_pattern,
        knock_out,
        mean,
        patch,
        path_patch,
        resample,
        set_pattern,
        to_bos,
        zero,
    )
    from headscope.models.loading import load
    from headscope.models.model import Model
    from headscope.models.run import Run
    from headscope.results.collect import sweep
    from headscope.results.study import Study
    from headscope.studies.registry import study
    from headscope.sweeps import grid
    from headscope.tasks.prompts import Prompts
    from headscope.vocabulary import Head

__all__ = [
    "Head",
    "Model",
    "Prompts",
    "Run",
    "Study",
    "add",
    "detect",
    "errors",
    "fixed_offset",
    "freeze_pattern",
    "grid",
    "interventions",
    "knock_out",
    "load",
    "mean",
    "measures",
    "patch",
    "path_patch",
    "resample",
    "set_pattern",
    "study",
    "sweep",
    "tasks",
    "to_bos",
    "zero",
]

# Where each public name lives; None: it is a module of that name.
_HOME: dict[str, str | None] = {
    "Head": "vocabulary",
    "Model": "models.model",
    "Prompts": "tasks.prompts",
    "Run": "models.run",
    "Study": "results.study",
    "add": "interventions",
    "detect": "detectors",
    "errors": None,
    "fixed_offset": "interventions",
    "freeze_pattern": "interventions",
    "grid": "sweeps",
    "interventions": None,
    "knock_out": "interventions",
    "load": "models.loading",
    "mean": "interventions",
    "measures": None,
    "patch": "interventions",
    "path_patch": "interventions",
    "resample": "interventions",
    "set_pattern": "interventions",
    "study": "studies.registry",
    "sweep": "results.collect",
    "tasks": None,
    "to_bos": "interventions",
    "zero": "interventions",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'headscope' has no attribute {name!r}")
    home = _HOME[name]
    found = (
        import_module(f"headscope.{name}")
        if home is None
        else getattr(import_module(f"headscope.{home}"), name)
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
