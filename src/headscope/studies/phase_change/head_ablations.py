"""What does each head do for in-context learning, before and after the change?

In: losses per token with every head ablated at every checkpoint, in three ways: as a whole; with all patterns as they
were (what the head moves, not where others look because of it); with all values as they were (where others look).
Out: by head how much of in-context learning is undone, and its attribution: how far ablating it moves losses against
the direction in which the change moved them (Olsson et al. 2022, argument 3). Negative: the head moves losses the way
the change did. Kinds of heads are those of the last checkpoint, named on other prompts.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from headscope.evidence import Test, claim, claims_per, lines, table
from headscope.evidence.figures import joined
from headscope.measures.in_context import icl_score
from headscope.measures.intervals import Array
from headscope.measures.loss_space import attribution, change_direction, peakiness
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.phase_change.changes import HEAD, PREFIX, around, at_once, points, rises
from headscope.studies.phase_change.readings import FULL, KINDS, Read, kinds_of_ablation, read
from headscope.studies.phase_change.settings import STEP, SUITE, Ctx
from headscope.tables import Column, Quantity
from headscope.vocabulary import Head

ICL_MARGIN = 0.05
ABLATION = Column("ablation", pl.String, "zero, or the same with patterns, or values, as in the clean run")
KIND = Column("kind", pl.String, "what the head is at the last checkpoint")
UNDONE = Quantity("undone", "rise of the ICL score when ablated: in-context learning that is lost", "nats")
ATTRIBUTION = Column("attribution", pl.Float64, "share of the change of losses that ablating adds; below 0: undoes")
WHOSE = Column("whose", pl.String, "suite, and the kind of the heads")


def head_ablations(ctx: Ctx) -> Part:
    """Which heads carry in-context learning, and since when?"""
    every = ctx.once(read)
    undone = {each.name: lost(ctx, each) for each in every}
    kinds = stacked([by_kind(each, undone[each.name]).labelled(SUITE, each.name) for each in every])
    last = [undone[each.name].at(step=each.steps[-1]).labelled(SUITE, each.name) for each in every]
    more: dict[Column, dict[Any, Any]] = {
        KIND: {
            (e.name, *cell): e.chosen.kinds[_head(e, cell[-1])]
            for e in every
            for cell in undone[e.name].at(step=e.steps[-1]).cells
        },
        ATTRIBUTION: {(e.name, *cell): value for e in every for cell, value in attributions(ctx, e).items()},
    }
    changing = [each.name for each in every if ctx.once(points)[each.name][PREFIX].shown]
    by_name = {each.name: each for each in every}
    title = "In-context learning that a head's ablation undoes"
    caption = "Rise of the ICL score when one head is zeroed, mean over the heads of a kind and over texts."
    figures = []
    if changing:
        some = kinds.only(suite=changing, ablation=FULL).at(ablation=FULL)
        drawn = joined(some, WHOSE, "suite", "kind")
        figures = [lines(drawn, "step", colour="whose", name="ablations_by_kind", title=title, caption=caption)]
    return Part(
        tables=[table(last, "head_ablations", more=more), table(kinds, "ablations_by_kind")],
        figures=figures,
        claims=claims_per("suite", changing, lambda name: rests(ctx, by_name[name], undone[name])),
        says=[_peaks(ctx, each) for each in every],
    )


def lost(ctx: Ctx, each: Read) -> Samples:
    """How much the ICL score rises with each head ablated, [text, (ablation, step, head)]."""
    settings = ctx.settings
    score = partial(icl_score, early=settings.early, late=settings.late)
    values = []
    for reading in each.at:
        clean = score(reading.loss[: reading.ablated.shape[2]]).by_example
        values.append(np.array([[score(one).by_example for one in kind] for kind in reading.ablated]) - clean)
    axes = {
        ABLATION: kinds_of_ablation(settings.preserving),
        STEP: each.steps,
        HEAD: [str(head) for head in each.chosen.ablated],
    }
    return Samples.grid(UNDONE, axes, np.stack(values).transpose(3, 1, 0, 2), over="texts")


def by_kind(each: Read, undone: Samples) -> Samples:
    """The mean over the heads of each kind, [text, (ablation, step, kind)]."""
    values = {}
    for kind in KINDS:
        heads = [str(head) for head in each.chosen.ablated if each.chosen.kinds[head] == kind]
        if heads:
            for ablation in undone.coordinates("ablation"):
                for step in undone.coordinates("step"):
                    own = undone.only(ablation=ablation, step=step, head=heads)
                    values[ablation, step, kind] = own.values.mean(1)
    return Samples.of(UNDONE, (ABLATION, STEP, KIND), values, over="texts")


def rests(ctx: Ctx, each: Read, undone: Samples) -> Claim:
    """Whether ablating an induction head undoes more of in-context learning than ablating another head does."""
    point = ctx.once(points)[each.name][PREFIX]
    kinds = by_kind(each, undone.only(ablation=FULL, step=each.steps[-1])).at(ablation=FULL, step=each.steps[-1])
    both = [kind for kind in (KINDS[0], KINDS[2]) if kind in kinds.coordinates("kind")]
    more = None
    if len(both) == 2:
        more = (kinds.at(kind=KINDS[0]) - kinds.at(kind=KINDS[2])).measured_as(replace(UNDONE, name="undone_more"))
    return claim(
        "rests",
        f"In {each.name}, ablating an induction head undoes more of in-context learning than ablating another head.",
        needs=[rises(each), at_once(each, point)],
        tests=[
            Test(
                "undone by induction heads minus by others",
                more,
                above=ICL_MARGIN,
                reason="no head, or every head, is an induction head",
            )
        ],
        tables=["head_ablations", "ablations_by_kind"],
    )


def attributions(ctx: Ctx, each: Read) -> dict[tuple[str, str], float]:
    """Which share of the change each ablation adds, by ablation and head; negative: it undoes that much of it.

    NaN where there is no change.
    """
    along, last = _along(ctx, each), each.at[-1]
    moved = last.ablated - last.loss[: last.ablated.shape[2]]
    flat = moved.reshape(*moved.shape[:2], -1)
    values = np.full(flat.shape[:2], np.nan) if along is None else attribution(along[0], flat) / along[1]
    kinds = kinds_of_ablation(ctx.settings.preserving)
    return {
        (kind, str(head)): float(value)
        for kind, own in zip(kinds, values, strict=True)
        for head, value in zip(each.chosen.ablated, own, strict=True)
    }


def _along(ctx: Ctx, each: Read) -> tuple[Array, float] | None:
    """The unit vector of the change of losses per token, and its length; None without a change."""
    point = ctx.once(points)[each.name][PREFIX]
    if not point.shown:
        return None
    texts = each.at[0].ablated.shape[2]
    before, after = (each.at[each.steps.index(step)].loss[:texts] for step in around(each.steps, point))
    return change_direction(before.ravel(), after.ravel())


def _peaks(ctx: Ctx, each: Read) -> str:
    values = {head: value for (kind, head), value in attributions(ctx, each).items() if kind == FULL}
    if np.isnan(list(values.values())).all():
        return f"{each.name}: without a change there is no direction to attribute losses to."
    share, head = peakiness(np.array(list(values.values()))).largest, min(values, key=lambda name: values[name])
    kind = each.chosen.kinds[_head(each, head)]
    return (
        f"{each.name}: {head} ({kind}) moves losses most the way the change did: without it {-values[head]:.0%} of "
        f"the change is undone. The largest has {share:.0%} of what all heads do."
    )


def _head(each: Read, name: str) -> Head:
    return next(head for head in each.chosen.ablated if str(head) == name)
