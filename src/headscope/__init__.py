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
    from headscope import errors as errors
    from headscope import interventions as interventions
    from headscope import measures as measures
    from headscope import tasks as tasks
    from headscope.detectors import detect as detect
    from headscope.interventions import add as add
    from headscope.interventions import fixed_offset as fixed_offset
    from headscope.interventions import freeze_pattern as freeze_pattern
    from headscope.interventions import knock_out as knock_out
    from headscope.interventions import mean as mean
    from headscope.interventions import patch as patch
    from headscope.interventions import path_patch as path_patch
    from headscope.interventions import resample as resample
    from headscope.interventions import set_pattern as set_pattern
    from headscope.interventions import to_bos as to_bos
    from headscope.interventions import zero as zero
    from headscope.models.loading import load as load
    from headscope.models.model import Model as Model
    from headscope.models.run import Run as Run
    from headscope.results.collect import sweep as sweep
    from headscope.results.study import Study as Study
    from headscope.results.top_heads import top_heads as top_heads
    from headscope.studies.registry import study as study
    from headscope.sweeps import grid as grid
    from headscope.tasks.prompts import Prompts as Prompts
    from headscope.vocabulary import Head as Head

# Where each public name lives; None: it is a module of that name.
_INTERVENTIONS = "add fixed_offset freeze_pattern knock_out mean patch path_patch resample set_pattern to_bos zero"
_HOME = {
    "Head": "vocabulary",
    "Model": "models.model",
    "Prompts": "tasks.prompts",
    "Run": "models.run",
    "Study": "results.study",
    "detect": "detectors",
    "grid": "sweeps",
    "load": "models.loading",
    "study": "studies.registry",
    "sweep": "results.collect",
    "top_heads": "results.top_heads",
    **dict.fromkeys(_INTERVENTIONS.split(), "interventions"),
    **dict.fromkeys(("errors", "interventions", "measures", "tasks")),
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'headscope' has no attribute {name!r}")
    home = _HOME[name]
    module = import_module(f"headscope.{home or name}")
    member = globals()[name] = module if home is None else getattr(module, name)
    return member


def __dir__() -> list[str]:
    return list(__all__)
