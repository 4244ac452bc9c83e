"""Where in the context does loss fall, and how does that change in training?

In: losses by position at every checkpoint. Out: loss by position at the first checkpoint, on either side of the
change and at the last, and the derivative of loss with respect to the logarithm of the position, checkpoint by
checkpoint (Olsson et al. 2022, argument 1): where it is negative, more context still helps. Also the derivative of
loss with respect to the logarithm of training steps, and whether the order of the models by it inverts at the change.
"""

import numpy as np
import polars as pl

from headscope import figures
from headscope.evidence import table
from headscope.measures.in_context import inverts, slope_by_index, slope_by_tokens
from headscope.measures.samples import Samples
from headscope.results.study import Figure
from headscope.studies.context import Part
from headscope.studies.phase_change.changes import PREFIX, around, points
from headscope.studies.phase_change.readings import Read, read
from headscope.studies.phase_change.settings import STEP, SUITE, Ctx
from headscope.tables import Column, Quantity, Schema

LOSS = Quantity("loss", "mean loss of the token after this one", "nats")
POSITION = Column("position", pl.Int64, "predicting position in the context")
WHEN = Column("when", pl.String, "which checkpoint: the first, either side of the change, or the last")
DERIVATIVE = Schema(
    "derivative",
    (
        SUITE,
        STEP,
        Column("around", pl.Float64, "between two bins of predicting positions, by their logarithm", "tokens"),
        Column("derivative", pl.Float64, "change of loss for each e-fold of the position", "nats"),
    ),
)
SPEED = Schema(
    "speed",
    (
        SUITE,
        STEP,
        Column("derivative", pl.Float64, "change of the mean loss for each e-fold of training steps", "nats"),
    ),
)


def context_loss(ctx: Ctx) -> Part:
    """How does loss depend on the position, before and after?"""
    every = ctx.once(read)
    by_position = [_by_position(ctx, each) for each in every]
    slopes = [row for each in every for row in _slopes(each)]
    late = [row for each in every for row in _slopes(each) if row["around"] == _farthest(each)]
    rows = [
        {"suite": each.name, "step": step, "derivative": slope} for each in every for step, slope in _speeds(each)
    ]
    shown = table(by_position, "loss_by_position")
    return Part(
        tables=[shown, DERIVATIVE.table(slopes), SPEED.table(rows)],
        figures=[_farthest_figure(late)],
        says=[_inversion(ctx, every)],
    )


def _farthest_figure(late: list[dict[str, object]]) -> Figure:
    return figures.lines(
        DERIVATIVE.table(late),
        "step",
        "derivative",
        "suite",
        log_x=True,
        title="Does more context help, far into it?",
        caption="Derivative of the loss with respect to the logarithm of the position, in the last bin of positions: "
        "below zero the loss still falls with more context.",
        name="derivative-step",
    )


def _by_position(ctx: Ctx, each: Read) -> Samples:
    """Loss by position at a few checkpoints, [text, (suite, when, position)]."""
    point, steps = ctx.once(points)[each.name][PREFIX], {"first": each.steps[0], "last": each.steps[-1]}
    if point.shown:
        before, after = around(each.steps, point)
        steps |= {"before": before, "after": after}
    losses = np.stack([each.at[each.steps.index(step)].loss for step in steps.values()], axis=1)
    axes = {WHEN: list(steps), POSITION: range(losses.shape[-1])}
    return Samples.grid(LOSS, axes, losses, over="texts").labelled(SUITE, each.name)


def _slopes(each: Read) -> list[dict[str, object]]:
    places, slopes = slope_by_index(np.stack([reading.loss.mean(0) for reading in each.at]))
    return [
        {"suite": each.name, "step": step, "around": position, "derivative": value}
        for step, own in zip(each.steps, slopes.tolist(), strict=True)
        for position, value in zip(places.tolist(), own, strict=True)
    ]


def _speeds(each: Read) -> list[tuple[int, float]]:
    """Change of the mean loss for each e-fold of steps, and the step that it is about."""
    losses = np.array([reading.loss.mean() for reading in each.at])
    trained = sum(step > 0 for step in each.steps)
    if trained < 2:
        return []
    places, slopes = slope_by_tokens(np.array(each.steps, np.float64), losses, over=min(3, trained))
    return list(zip([round(place) for place in places.tolist()], slopes.tolist(), strict=True))


def _farthest(each: Read) -> float:
    return max(float(str(row["around"])) for row in _slopes(each))


def _inversion(ctx: Ctx, every: tuple[Read, ...]) -> str:
    """Whether models that learn faster before the change learn slower after it."""
    found = ctx.once(points)
    shown = [each for each in every if found[each.name][PREFIX].shown]
    if len(shown) < 2:
        return "Fewer than two trainings have a change: whether their order inverts at it is not asked."
    sides: tuple[list[float], list[float]] = ([], [])
    for each in shown:
        speeds = _speeds(each)
        for side, step in zip(sides, around(each.steps, found[each.name][PREFIX]), strict=True):
            side.append(min(speeds, key=lambda own: abs(np.log(max(own[0], 1) / max(step, 1))))[1])
    done = inverts(np.array(sides[0]), np.array(sides[1]))
    names = ", ".join(each.name for each in shown)
    return (
        f"Of {names}, ordered by how fast loss falls with the logarithm of steps, {done.swapped} of {done.pairs} "
        "pairs change places at the change."
    )
