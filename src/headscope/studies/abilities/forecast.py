"""What the study of abilities asks of a model, question by question: stages (studies.forecasts).

In: settings and a model. Out: stages, counted as if induction heads are named.
"""

from dataclasses import replace

import numpy as np

from headscope.detectors.detect import NAMING_UNITS
from headscope.models.model import Model
from headscope.studies.abilities.experiment import AbilitiesSettings, prompts
from headscope.studies.context import Context
from headscope.studies.forecasts import Stage, checked
from headscope.tasks.counterparts import PREDICTING

_HOST_SECONDS = 2.0  # bounds and figures on one core
_NATURAL, _REPEATS = 32, 3


def stages(settings: AbilitiesSettings, model: Model) -> list[Stage]:
    """In the order of the questions."""
    n = settings.n
    named = Stage("naming induction heads", n, 1 + _REPEATS * settings.length, passes=4)
    listed = [replace(named, name="naming induction heads on text", tokens=_NATURAL, passes=1), named]
    # Of which layers induction heads are is not known before: from half of them on.
    layers = model.n_layers
    share = (layers - layers // 2 + 1) / (2 * layers) if layers > 2 else 0.5
    for behaviour, split in prompts(Context(replace(settings, n=NAMING_UNITS), (model,))).items():
        both = split.selection.both
        tokens, read = float(np.mean(both.lengths)), float(np.mean([len(at) for at in both.roles[PREDICTING]]))
        name = behaviour.replace("_", " ")
        sweep = Stage(
            f"{name}: ablating heads", 2 * n, tokens, cells=1 + settings.random_sets, share=share, read=read
        )
        listed += [
            Stage(f"reading {name}", 4 * n, tokens, passes=2, whole=1),
            replace(sweep, passes=2, whole=1),
            checked(sweep),
            replace(sweep, name=f"{name}: knocking out edges", passes=2, whole=1),
            checked(sweep),
        ]
    return [*listed, Stage("bounds and figures", host_seconds=_HOST_SECONDS)]
