"""Does the model do it: is a token more likely after its counterpart than after something else?

In: the prompts of every behaviour. Out: the loss on the same tokens with and without their counterpart: no claim, but
what every claim about a behaviour needs.
"""

import numpy as np
import polars as pl

from headscope.evidence import table
from headscope.measures.samples import stacked
from headscope.studies.abilities.experiment import BEHAVIOUR, Ctx, asked, gains, losses
from headscope.studies.context import Part
from headscope.tables import Column

_PROBABILITY = Column("probability", pl.Float64, "of a judged token after its counterpart, geometric mean")


def gain(ctx: Ctx) -> Part:
    """How much does each behaviour's counterpart lower the loss?"""
    both, found = ctx.once(losses), ctx.once(asked).items()
    beside = [stacked([each[i].labelled(BEHAVIOUR, name) for name, each in both.items()]) for i in range(2)]
    more = {_PROBABILITY: {name: float(np.exp(-there.mean[0])) for name, (there, _) in both.items()}}
    listed = [each.labelled(BEHAVIOUR, name) for name, each in ctx.once(gains).items()]
    left_out = {name.replace("_", " ").capitalize(): each for name, each in found if isinstance(each, str)}
    notes = [f"{name} was {why}." for name, why in left_out.items()]
    return Part(tables=[table(listed, "behaviours", beside=beside, more=more)], notes=notes)
