"""What the study of abilities asks of a model: stages (studies.forecasts), as if induction heads are named."""

from dataclasses import replace

import numpy as np

from headscope.detectors.detect import NAMING_UNITS
from headscope.models.model import Model
from headscope.studies.abilities.experiment import NAMED_ON, AbilitiesSettings, prompts
from headscope.studies.context import Context
from headscope.studies.forecasts import Stage, checked
from headscope.tasks.counterparts import PREDICTING

_NATURAL, _REPEATED, _HOST_SECONDS = 32, 45, 2.0  # tokens; bounds and figures on one core


def stages(settings: AbilitiesSettings, model: Model) -> list[Stage]:
    """In the order of the questions."""
    n = settings.n
    named = Stage("naming induction heads", max(n, NAMED_ON), _REPEATED, passes=3)
    listed = [replace(named, name="naming heads on text", tokens=_NATURAL, passes=1), named]
    # In which layers induction heads are is not known before: taken is that they begin in the middle.
    share = (1 - model.n_layers // 2 / model.n_layers + 1 / model.n_layers) / 2
    for behaviour, split in prompts(Context(replace(settings, n=NAMING_UNITS), (model,))).items():
        both, name = split.selection.both, behaviour.replace("_", " ")
        tokens, read = (float(np.mean(each)) for each in (both.lengths, [*map(len, both.roles[PREDICTING])]))
        sweep = Stage(name, 2 * n, tokens, cells=1 + settings.random_sets, share=share, read=read, passes=2, whole=1)
        listed.append(Stage(f"reading {name}", 4 * n, tokens, passes=2))
        for done in ("ablating heads", "knocking out edges"):
            listed += [each := replace(sweep, name=f"{name}: {done}"), checked(each)]
    return [*listed, Stage("bounds and figures", host_seconds=_HOST_SECONDS)]
