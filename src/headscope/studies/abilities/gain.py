"""Does the model do it: is a token more likely after its counterpart than after something else?

In: the prompts of every behaviour. Out: the loss on the same tokens with and without their counterpart: no claim, but
what every claim about a behaviour needs. Words are judged by their first tokens, and not where these stand in the
passage before too (a name, a shared beginning), so that what is translated cannot be copied.
"""

import numpy as np
import polars as pl

from headscope.evidence import table
from headscope.measures.samples import stacked
from headscope.studies.abilities.experiment import BEHAVIOUR, Ctx, asked, gains, losses
from headscope.studies.context import Part
from headscope.tables import Column
from headscope.tasks.counterparts import PREDICTING

_PROBABILITY = Column("probability", pl.Float64, "of a judged token after its counterpart, geometric mean")
_JUDGED = Column("judged", pl.Float64, "tokens judged of each prompt, on average", "tokens")


def gain(ctx: Ctx) -> Part:
    """How much does each behaviour's counterpart lower the loss?"""
    both, found = ctx.once(losses), ctx.once(asked)
    beside = [stacked([each[i].labelled(BEHAVIOUR, name) for name, each in both.items()]) for i in range(2)]
    places = {name: each.estimation.matched.roles for name, each in found.items() if not isinstance(each, str)}
    more = {
        _PROBABILITY: {name: float(np.exp(-there.mean[0])) for name, (there, _) in both.items()},
        _JUDGED: {name: float(np.mean([len(at) for at in roles[PREDICTING]])) for name, roles in places.items()},
    }
    listed = [each.labelled(BEHAVIOUR, name) for name, each in ctx.once(gains).items()]
    left_out = {name.replace("_", " "): each for name, each in found.items() if isinstance(each, str)}
    notes = [f"{name.capitalize()} was {why}." for name, why in left_out.items()]
    return Part(tables=[table(listed, "behaviours", beside=beside, more=more)], notes=notes)
