"""When do induction heads form, and does in-context learning improve in the same window?

In: what was read at every checkpoint. Out: curves over training with the change point of each
(measures.change_point), and claims for every suite. That a curve rises is shown over prompts; that it rises at once,
against linear, logarithmic and power-law drifts, is a p value from simulated curves. The maximum over heads is taken
beyond that of the matched null, since a maximum is biased upward. From one training an interval of a midpoint is
measurement error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from headscope.evidence import Judged, Simulated, Test, any_of, claim, claims_per, lines, table
from headscope.evidence.comparisons import SIGNIFICANT
from headscope.measures.change_point import RESAMPLES, ChangePoint, change_point
from headscope.measures.in_context import icl_score
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples, stacked
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.phase_change.readings import Read, read
from headscope.studies.phase_change.settings import STEP, SUITE, Ctx
from headscope.tables import Column, Quantity, Schema

RISE_MARGIN, ICL_MARGIN, CONSTANT_MARGIN, MOST_OF_IT = 0.1, 0.1, 0.1, 0.5
CURVE = Column("curve", pl.String, "what is followed over training")
PREFIX, PREVIOUS, SINKS, COPIES, ICL, REPEAT, LOSS = (
    "prefix matching",
    "previous token",
    "first token",
    "signed raise",
    "ICL score",
    "loss on repeats",
    "loss on text",
)
SCORE = Quantity("score", "largest mean score of any head, minus the largest of its null", "probability")
ICL_SCORE = Quantity("icl_score", "later loss minus earlier loss; negative: learning in context", "nats")
HEAD = Column("head", pl.String, "layer.index")
CHANGES = Schema(
    "changes",
    (
        SUITE,
        CURVE,
        Column("change_shown", pl.Boolean, "whether a change is shown: p at most .05, and a rise beyond noise"),
        Column("midpoint", pl.Float64, "step at which half of the rise is made", "steps"),
        Column("midpoint_low", pl.Float64, "lower 95% bound: measurement error of this one training", "steps"),
        Column("midpoint_high", pl.Float64, "upper 95% bound", "steps"),
        Column("begins", pl.Float64, "step at which 10% of the rise is made", "steps"),
        Column("ends", pl.Float64, "step at which 90% is made", "steps"),
        Column("height", pl.Float64, "last level minus first level of the logistic, in the unit of the curve"),
        Column("p_none", pl.Float64, "p value of no change: the best drift fits by chance as much worse"),
        Column("inside", pl.Int64, "checkpoints inside the window"),
        Column("reason", pl.String, "why there is no change point; empty where there is one"),
    ),
)


def curves(each: Read, early: int, late: int) -> dict[str, Array]:
    """Every curve of a suite, [step]."""
    raised = np.array([_largest(reading.raised) for reading in each.at])
    return {
        PREFIX: each.highest("induction"),
        PREVIOUS: each.highest("previous_token"),
        SINKS: each.highest("bos"),
        COPIES: raised,
        ICL: np.array([icl_score(reading.loss, early=early, late=late).score for reading in each.at]),
        REPEAT: np.array([reading.repeat.mean() for reading in each.at]),
        LOSS: np.array([reading.loss.mean() for reading in each.at]),
    }


def followed(ctx: Ctx) -> dict[str, dict[str, Array]]:
    """Curves by suite."""
    return {each.name: curves(each, ctx.settings.early, ctx.settings.late) for each in ctx.once(read)}


def points(ctx: Ctx) -> dict[str, dict[str, ChangePoint]]:
    """Change points by suite and curve."""
    found: dict[str, dict[str, ChangePoint]] = {}
    for each in ctx.once(read):
        ctx.progress("finding change points", len(found), len(ctx.histories))
        own = ctx.once(followed)[each.name]
        found[each.name] = {
            name: change_point(np.array(each.steps, np.float64), values, seed=ctx.settings.seed)
            for name, values in own.items()
        }
    return found


def icl_by_text(ctx: Ctx, each: Read) -> Samples:
    """The ICL score of every text at every step."""
    settings = ctx.settings
    values = [icl_score(reading.loss, early=settings.early, late=settings.late).by_example for reading in each.at]
    return Samples.grid(ICL_SCORE, {STEP: each.steps}, np.stack(values, axis=1), over="texts")


def changes(ctx: Ctx) -> Part:
    """Is there a phase change, when, and does in-context learning improve with it?"""
    every, found = ctx.once(read), ctx.once(points)
    score = stacked([_score(each) for each in every])
    icl = stacked([icl_by_text(ctx, each).labelled(SUITE, each.name) for each in every])
    by_name = {each.name: each for each in every}
    names = list(by_name)
    # What a change brings is asked where there is one.
    changing = [name for name in names if found[name][PREFIX].shown]
    said = [_told(name, found[name][PREFIX]) for name in names]
    return Part(
        tables=[CHANGES.table(_rows(found)), table(icl, "icl_score"), table(score, "prefix_matching")],
        figures=[
            lines(score, "step", colour="suite", name="prefix_matching", title=PREFIX.capitalize(), caption=_CAPTION),
            lines(icl, "step", colour="suite", name="icl_score", title="In-context learning", caption=_ICL_CAPTION),
        ],
        claims=[
            *claims_per("suite", names, lambda name: changed(by_name[name], found[name][PREFIX])),
            *claims_per("suite", changing, lambda name: together(ctx, by_name[name], found[name][PREFIX])),
            *claims_per("suite", changing, lambda name: constant(ctx, by_name[name], found[name][PREFIX])),
        ],
        says=said,
    )


_CAPTION = (
    "Attention of the head that attends most to what followed earlier copies, minus that of the head that does so "
)
_CAPTION += "most where nothing repeats, on repeated random tokens, checkpoint by checkpoint."
_ICL_CAPTION = "Loss late in the context minus loss early in it, on the same texts; the lower, the more is learnt."


def rises(each: Read) -> Test:
    """Whether some head's prefix matching has risen beyond the null, over prompts."""
    first, last = each.at[0], each.at[-1]
    risen = (last.attends["induction"] - last.null["induction"]) - (
        first.attends["induction"] - first.null["induction"]
    )
    heads = [str(head) for head in each.chosen.heads]
    rise = Quantity(
        "rise", "prefix matching beyond the null, last checkpoint minus first", "probability", (-2.0, 2.0)
    )
    return any_of("rise of prefix matching", Samples.grid(rise, {HEAD: heads}, risen), above=RISE_MARGIN)


def at_once(each: Read, point: ChangePoint) -> Judged:
    """Whether the rise is a change: no drift explains it. A curve that never moves is one that a drift explains."""
    still = not point.defined and np.ptp(each.highest("induction")) == 0
    p = 1.0 if still else point.p_none
    lacking = p <= SIGNIFICANT and not point.shown
    reason = point.reason if lacking or np.isnan(p) else ""
    return Simulated("prefix matching as a drift:", p, RESAMPLES, reason, lacking)


def changed(each: Read, point: ChangePoint) -> Claim:
    return claim(
        "changes",
        f"Training {each.name} has a phase change: prefix matching rises all at once, not as a drift.",
        tests=[rises(each), at_once(each, point)],
        tables=["changes", "prefix_matching"],
    )


def together(ctx: Ctx, each: Read, point: ChangePoint) -> Claim:
    """Whether most of what in-context learning improves falls into the window of the change."""
    icl = icl_by_text(ctx, each)
    gain = replace(ICL_SCORE, name="improvement", meaning="fall of the ICL score")
    whole = (icl.at(step=each.steps[0]) - icl.at(step=each.steps[-1])).measured_as(gain)
    within = None
    if point.shown:
        before, after = around(each.steps, point)
        fell = icl.at(step=before).linear - icl.at(step=after).linear
        more = replace(gain, name="beyond_half", meaning="fall within the window minus half of the whole fall")
        within = Samples.one(more, (fell - MOST_OF_IT * whole.linear)[:, 0], over=icl.over)
    why = point.reason or "there is no window: no change is shown"
    return claim(
        "together",
        f"In {each.name}, most of what in-context learning improves falls into the window of the change.",
        needs=[rises(each), at_once(each, point), Test("improvement of the ICL score", whole, above=ICL_MARGIN)],
        tests=[Test("improvement within the window minus half of all", within, above=0.0, reason=why)],
        tables=["changes", "icl_score"],
    )


def constant(ctx: Ctx, each: Read, point: ChangePoint) -> Claim:
    """Whether the ICL score stays once the change is over."""
    icl, moved = icl_by_text(ctx, each), None
    if point.shown:
        # As far again from the midpoint as the window's end is, where 99% of the rise is made.
        settled = point.window[1] ** 2 / point.midpoint
        after = min((step for step in each.steps if step >= settled), default=each.steps[-1])
        if after != each.steps[-1]:
            later = icl.at(step=each.steps[-1]) - icl.at(step=after)
            moved = later.measured_as(
                replace(ICL_SCORE, name="later_change", meaning="ICL score, last minus that after the change")
            )
    return claim(
        "constant",
        f"In {each.name}, the ICL score stays the same once the change is over.",
        needs=[rises(each), at_once(each, point)],
        tests=[
            Test(
                "ICL score since the change",
                moved,
                within=CONSTANT_MARGIN,
                reason="no checkpoint comes after the change",
            )
        ],
        tables=["icl_score"],
    )


def around(steps: Sequence[int], point: ChangePoint) -> tuple[int, int]:
    """The last checkpoint before the window and the first one after it, or the ends."""
    begins, ends = point.window
    before = max((step for step in steps if step <= begins), default=steps[0])
    return before, min((step for step in steps if step >= ends), default=steps[-1])


def _score(each: Read) -> Samples:
    """The head that scores highest at each step, minus the one whose null does, [prompt, (suite, step)]."""
    columns = []
    for reading in each.at:
        own, null = reading.attends["induction"], reading.null["induction"]
        columns.append(own[:, int(own.mean(0).argmax())] - null[:, int(null.mean(0).argmax())])
    return Samples.grid(SCORE, {STEP: each.steps}, np.stack(columns, axis=1)).labelled(SUITE, each.name)


def _largest(raised: Array) -> float:
    known = raised[:, ~np.isnan(raised).all(0)]
    return float(np.nanmax(np.nanmean(known, axis=0))) if known.size else float("nan")


def _rows(found: Mapping[str, Mapping[str, ChangePoint]]) -> list[dict[str, object]]:
    return [
        {
            "suite": suite,
            "curve": curve,
            "change_shown": point.shown,
            "midpoint": point.midpoint,
            "midpoint_low": point.low,
            "midpoint_high": point.high,
            "begins": point.window[0],
            "ends": point.window[1],
            "height": point.height,
            "p_none": point.p_none,
            "inside": point.inside,
            "reason": point.reason,
        }
        for suite, own in found.items()
        for curve, point in own.items()
    ]


def _told(name: str, point: ChangePoint) -> str:
    if not point.shown:
        return f"{name}: no phase change is shown ({point.reason})."
    begins, ends = point.window
    few = " Between so few, where the change begins and ends is uncertain." if point.inside < 5 else ""
    return (
        f"{name}: prefix matching rises between steps {begins:.0f} and {ends:.0f}, with {point.inside} checkpoints "
        f"inside.{few}"
    )
