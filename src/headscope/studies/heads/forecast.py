"""What the heads study asks of a model, question by question: stages (studies.forecasts).

In: settings and a model. Out: stages, counted as if heads of every kind are named.
"""

from dataclasses import replace

import numpy as np

from headscope.detectors.detect import NAMING_UNITS
from headscope.models.model import Model
from headscope.studies.context import Context
from headscope.studies.forecasts import Stage, checked
from headscope.studies.heads.experiment import JUDGED, HeadsSettings, every_prompt
from headscope.studies.heads.screening import how_many
from headscope.tasks.prompts import Prompts

_GROUPS = 4  # kinds of heads that a model usually has
_ALONE = 6  # kinds that a larger one has, beside that which stands beside random sets
_PAIR = 14  # tokens of a clean or corrupted prompt (see patching.recovery)
_HOST_SECONDS = 0.8  # bounds and figures on one core


def stages(settings: HeadsSettings, model: Model) -> list[Stage]:
    """In the order of the questions."""
    shown = every_prompt(Context(replace(settings, n=NAMING_UNITS), (model,)))
    n, layers, tried = settings.n, model.n_layers, how_many(settings, model)
    middle, all_tried = (layers + 1) / (2 * layers), tried == len(model.heads)
    repeated, natural = _mean_length(shown.repeated), _mean_length(shown.natural)
    read, read_of_text = (
        float(np.mean([len(at) for at in each.roles[JUDGED]])) for each in (shown.repeated, shown.natural)
    )
    sweep = Stage("ablating each head", n, repeated, cells=4 * tried, share=middle, read=read, passes=5, whole=4)
    on_text = replace(
        sweep, name="ablating each head on text", tokens=natural, cells=tried, read=read_of_text, whole=1
    )
    groups = _GROUPS * (1 + settings.random_sets) if all_tried else 1 + settings.random_sets + _ALONE
    sets = replace(sweep, cells=groups, name="random sets of heads", passes=1, whole=1)
    together = 2 ** (settings.in_sets - 1)
    jointly = replace(sets, cells=together, name="ablating sets of heads", whole=settings.jointly)
    # All positions of one half, or four roles; of the other half one.
    cells = (layers + 1) * (1 + (_PAIR if all_tried else 4))
    patched = Stage("patching", n, _PAIR, cells=cells, share=middle / 2, passes=4, whole=6)
    # A way back costs about twice the way there.
    screening = Stage("screening all heads", 2 * n, repeated, whole=3)
    return [
        Stage("reading attention on text", 2 * n, natural, passes=1),
        Stage("reading attention on repeats", 2 * n, repeated, passes=3),
        *([] if all_tried else [screening, replace(screening, name="screening on text", tokens=natural)]),
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
