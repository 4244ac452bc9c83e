"""How do losses move through training, in the space of losses per token (Olsson et al. 2022)?

In: one fixed token of every text, its loss at every checkpoint of every suite that reads the same texts. Out: the two
principal components over all of these together, and each training as a path through them.
"""

import numpy as np
import polars as pl

from headscope import figures
from headscope.measures.intervals import Array
from headscope.measures.loss_space import loss_space
from headscope.results.study import Figure
from headscope.studies.context import Part
from headscope.studies.phase_change.readings import Read, read
from headscope.studies.phase_change.settings import STEP, SUITE, Ctx
from headscope.tables import Column, Schema

PATHS = Schema(
    "trajectories",
    (
        Column("texts", pl.String, "which texts: suites with the same ones share a space"),
        SUITE,
        STEP,
        Column("component_1", pl.Float64, "first principal component of losses per token", "nats"),
        Column("component_2", pl.Float64, "second principal component", "nats"),
    ),
)


def trajectories(ctx: Ctx) -> Part:
    """Which way do losses go, and where do they turn?"""
    groups: dict[str, list[Read]] = {}
    for each in ctx.once(read):
        groups.setdefault(each.suite.text, []).append(each)
    rows, says, drawn = [], [], []
    for number, own in enumerate(groups.values(), start=1):
        found = loss_space({each.name: _vectors(ctx, each) for each in own})
        part = [
            {"texts": f"{number}", "suite": name, "step": step, "component_1": first, "component_2": second}
            for each in own
            for name, step, (first, second) in zip(
                [each.name] * len(each.steps), each.steps, found.trajectories[each.name].tolist(), strict=True
            )
        ]
        rows += part
        first, second = found.shares[:2]
        names = ", ".join(each.name for each in own)
        says.append(
            f"Losses per token of {names}: two components hold {first:.0%} and {second:.0%} of their variance."
        )
        drawn.append(_figure(number, part))
    return Part(tables=[PATHS.table(rows)], figures=drawn, says=says)


def _vectors(ctx: Ctx, each: Read) -> Array:
    """The loss of one token of every text, the same at all steps, [step, text]."""
    losses = np.stack([reading.loss for reading in each.at])
    generator = np.random.default_rng(ctx.settings.seed)
    place = generator.integers(losses.shape[2] // 4, losses.shape[2], losses.shape[1])
    chosen: Array = losses[:, np.arange(losses.shape[1]), place]
    return chosen


def _figure(number: int, rows: list[dict[str, object]]) -> Figure:
    return figures.lines(
        PATHS.table(rows),
        "component_1",
        "component_2",
        "suite",
        along="step",
        title="Paths of training through losses per token",
        caption="Each point is a checkpoint: the losses of one fixed token of every text, in the two principal "
        "components of all trainings that read these texts. A turn is a change of what is learnt.",
        name=f"trajectories-{number}",
    )
