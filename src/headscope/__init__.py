"""What every attention head does, and what happens without it.

>>> import headscope as hs
>>> hs.Head.parse("1.4")
Head(1, 4)
"""

from headscope import errors, measures, tasks
from headscope.detectors import detect
from headscope.interventions import add, mean, patch, to_bos, zero
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
    "grid",
    "load",
    "mean",
    "measures",
    "patch",
    "study",
    "sweep",
    "tasks",
    "to_bos",
    "zero",
]
