"""What the heads study asks of a model, question by question: stages (studies.forecasts).

In: settings and a model. Out: stages, counted as if heads of every kind are named.
"""

from dataclasses import replace

import numpy as np

from headscope.detectors.detect import NAMING_UNITS
from headscope.models.model import Model
from headscope.studies.context import Context
from headscope.studies.forecasts import Stage, checked
from headscope.studies.heads.experiment import PREDICTABLE, HeadsSettings, every_prompt
from headscope.studies.heads.joint_ablation import MOST_HEADS, MOST_IN_SETS
from headscope.tasks.prompts import Prompts

_GROUPS = 4  # kinds of heads that a model usually has
_HOST_SECONDS = 0.8  # bounds and figures on one core


def stages(settings: HeadsSettings, model: Model) -> list[Stage]:
    """In the order of the questions."""
    shown = every_prompt(Context(replace(settings, n=NAMING_UNITS), (model,)))
    n, heads, layers = settings.n, len(model.heads), model.n_layers
    middle = (layers + 1) / (2 * layers)
    repeated, natural = _mean_length(shown.repeated), _mean_length(shown.natural)
    read = float(np.mean([len(each) for each in shown.repeated.roles[PREDICTABLE]]))
    sweep = Stage("ablating each head", n, repeated, cells=4 * heads, share=middle, read=read, passes=5, whole=4)
    on_text = replace(sweep, name="ablating each head on text", tokens=natural, cells=heads, read=natural, whole=1)
    sets = replace(sweep, cells=_GROUPS * (1 + settings.random_sets), name="random sets of heads", passes=1, whole=1)
    jointly = replace(sets, cells=2 ** (MOST_IN_SETS - 1), name="ablating sets of heads", whole=MOST_HEADS)
    pairs, positions = 2 * settings.length, settings.length
    patched = Stage("patching", n, pairs, cells=2 * (layers + 1) * positions, share=middle / 2, passes=4, whole=4)
    return [
        Stage("reading attention on text", 2 * n, natural, passes=1),
        Stage("reading attention on repeats", 2 * n, repeated, passes=3),
        sweep,
        checked(sweep),
        replace(on_text, passes=1),
        checked(on_text),
        sets,
        checked(sets),
        jointly,
        patched,
        Stage("self-repair", 2 * n, repeated, whole=2 * (1 + settings.followed)),
        Stage("bounds and figures", host_seconds=_HOST_SECONDS),
    ]


def _mean_length(prompts: Prompts) -> float:
    return float(np.mean(prompts.lengths))
