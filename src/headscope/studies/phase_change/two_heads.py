"""Does the induction head need what the previous-token head writes for its keys, and since when?

In: prefix matching with that path cut, and with another head's path cut, at every checkpoint (`circuit`). Out: the
share of it that is lost, and a claim about the last checkpoint. K-composition from weights stands beside it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from headscope.evidence import Test, claim, claims_per, lines, table
from headscope.evidence.figures import joined
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.phase_change.changes import PREFIX, at_once, points, rises
from headscope.studies.phase_change.circuit import CASES, k_composition
from headscope.studies.phase_change.readings import Read, read
from headscope.studies.phase_change.settings import STEP, SUITE, Ctx
from headscope.tables import Column, Quantity

LOST_MARGIN = 0.1
CUT = Column("cut", pl.String, "whose path to the induction heads' keys is cut")
MATCHING = Quantity("prefix_matching", "mean prefix matching of the induction heads", "probability", (0.0, 1.0))
WHOSE = Column("whose", pl.String, "suite, and whose path is cut")
COMPOSITION = Column("k_composition", pl.Float64, "from weights at the last checkpoint: 0 to 1")
SENDER = Column("sender", pl.String, "the head whose path is cut")


def two_heads(ctx: Ctx) -> Part:
    """Do induction heads read what a previous-token head wrote?"""
    every = [each for each in ctx.once(read) if each.chosen.circuit is not None]
    alone = [each.name for each in ctx.once(read) if each.chosen.circuit is None]
    without = f"No induction head has a previous-token head in an earlier layer: {', '.join(alone)}."
    notes = [without] if alone else []
    by_name = {each.name: each for each in every if ctx.once(points)[each.name][PREFIX].shown}
    claims = claims_per("suite", list(by_name), lambda name: reads(ctx, by_name[name]))
    if not every:
        return Part(notes=notes, claims=claims)
    shown = stacked([matching(each).labelled(SUITE, each.name) for each in every])
    composed = {each.name: _composition(each) for each in every}
    senders = {
        (each.name, case): str(head)
        for each in every
        if (own := each.chosen.circuit) is not None
        for case, head in zip(CASES, ("", own.previous, own.other or ""), strict=True)
    }
    more: dict[Column, dict[Any, Any]] = {
        COMPOSITION: {cell: composed[cell[0]] for cell in shown.cells},
        SENDER: {cell: senders[cell[0], cell[1]] for cell in shown.cells},
    }
    caption = (
        "Mean prefix matching of the induction heads of the last checkpoint, with the direct path from a head to "
    )
    caption += "their keys cut, and everything else as it was."
    return Part(
        tables=[table(shown, "two_heads", more=more)],
        figures=[
            lines(
                joined(shown, WHOSE, "suite", "cut"),
                "step",
                colour="whose",
                name="two_heads",
                title="The two-head circuit",
                caption=caption,
            )
        ],
        claims=claims,
        notes=notes,
    )


def matching(each: Read) -> Samples:
    """Prefix matching by case and step, [prompt, (cut, step)]."""
    values = np.stack([reading.cut for reading in each.at])  # [step, case, prompt]
    known = [place for place in range(len(CASES)) if not np.isnan(values[:, place]).all()]
    axes = {CUT: [CASES[place] for place in known], STEP: each.steps}
    return Samples.grid(MATCHING, axes, values[:, known].transpose(2, 1, 0))


def reads(ctx: Ctx, each: Read) -> Claim:
    """Whether prefix matching is lost with the previous-token head's path, and not with another head's."""
    point, lost, more = ctx.once(points)[each.name][PREFIX], None, None
    if each.chosen.circuit is not None:
        own = matching(each).at(step=each.steps[-1]).by("cut")
        fall = replace(MATCHING, name="lost", meaning="prefix matching lost", within=(-1.0, 1.0))
        lost = (own[CASES[0]] - own[CASES[1]]).measured_as(fall)
        more = (own[CASES[2]] - own[CASES[1]]).measured_as(fall) if CASES[2] in own else None
    why = "no previous-token head comes before an induction head, or no other head stands beside it"
    return claim(
        "two_heads",
        f"In {each.name}, induction heads find their keys by what a previous-token head wrote there.",
        needs=[rises(each), at_once(each, point)],
        tests=[
            Test("prefix matching lost without the path from it", lost, above=LOST_MARGIN, reason=why),
            Test("the same, minus what another head's path costs", more, above=LOST_MARGIN, reason=why),
        ],
        tables=["two_heads"] if each.chosen.circuit else [],
    )


def _composition(each: Read) -> float:
    assert each.chosen.circuit is not None
    return k_composition(each.suite.history.open(each.suite.last), each.chosen.circuit)
