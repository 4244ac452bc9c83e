"""In which order do things appear: heads that attend to the token before, induction, sinks, learning in context?

In: change points of one training, and of several seeds where they are shipped (training.seeds). Out: a table of
midpoints in their order, and, over seeds, bounds of how much later each comes than the one before it.
"""

import math

import polars as pl

from headscope.studies.context import Part
from headscope.studies.phase_change.changes import COPIES, ICL, PREFIX, PREVIOUS, REPEAT, SINKS, points
from headscope.studies.phase_change.settings import SUITE, Ctx
from headscope.tables import Column, Schema

EVENTS = (PREVIOUS, PREFIX, COPIES, REPEAT, ICL, SINKS)
ORDER = Schema(
    "order",
    (
        SUITE,
        Column("rank", pl.Int64, "1: the first of those with a change"),
        Column("event", pl.String, "the curve whose change it is"),
        Column("midpoint", pl.Float64, "step of its midpoint", "steps"),
        Column("low", pl.Float64, "lower 95% bound: measurement error of this one training", "steps"),
        Column("high", pl.Float64, "upper 95% bound", "steps"),
    ),
)


def order(ctx: Ctx) -> Part:
    """What comes first?"""
    rows = []
    for suite, own in ctx.once(points).items():
        shown = sorted((own[name].midpoint, name) for name in EVENTS if own[name].shown)
        for place, (midpoint, name) in enumerate(shown, start=1):
            low, high = own[name].low, own[name].high
            rows.append(
                {"suite": suite, "rank": place, "event": name, "midpoint": midpoint, "low": low, "high": high}
            )
    if not rows:
        return Part(notes=["No curve of any training shows a change: there is no order of events."])
    few = [f"{row['event']} of {row['suite']}" for row in rows if math.isnan(float(row["low"]))]  # type: ignore[arg-type]
    notes = ["Bounds of midpoints are those of one training each: another seed may change earlier or later."]
    return Part(tables=[ORDER.table(rows)], notes=notes + ([f"Without bounds: {', '.join(few)}."] if few else []))
