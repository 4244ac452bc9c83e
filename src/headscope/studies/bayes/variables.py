"""From which layer on does the final token decide by a, b, x or the number of shots? Each is swapped alone.

In: a model and settings. Out: by layer and variable, how far the answer moves when the final token's residual stream
is patched from a prompt that differs in that one variable. Source and target prompt share everything else: inputs,
wrong labels, and for a and b the query; for the number of shots the source has the first quarter of the pairs. The
share is 0 where the final token does not know the variable yet, and 1 where it no longer attends to it elsewhere. No
claim: `sources.REDUNDANT_HEADS` asks when (parity, slope, the number: claim 2), not whether.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from headscope import tasks
from headscope.evidence import lines, table
from headscope.measures import joint_log_probability
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.measures.samples import Samples
from headscope.studies.bayes.activations import RESIDUAL
from headscope.studies.bayes.problems import Ctx, prompts_each, truncated_context
from headscope.studies.context import Part
from headscope.studies.sites import final_token_run, residual_patches
from headscope.sweeps import evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column, Quantity
from headscope.tasks.functions import Ints
from headscope.tasks.shots import Shots

SHOTS = "shots"
VARIABLES = ("a", "b", "x", SHOTS)
# A variable is decided where, from that layer on, more than half of the answer's way goes with the final token.
DECIDED = 0.5
# Source and target must differ by so much in the log-odds of their answers, in nats.
LEAST_GAP_NATS = 0.5

VARIABLE = Column("variable", pl.String, "what differs: a, b, x, or the number of shots")
MOVED = Quantity("moved", "share of the way from the target's answer to the source's", "share")
GAP = Column("log_odds_gap", pl.Float64, "the whole way: source minus target, unpatched", "nats")


def variables(ctx: Ctx) -> Part:
    """How far does the answer go with the final token, variable by variable?"""
    shots = ctx.settings.draw(ctx.model, n=prompts_each(ctx.settings), seed=71)
    moved, gaps = [], {}
    for variable in VARIABLES:
        samples, gaps[variable] = _moved(ctx, swapped(shots, variable, ctx.settings.seed), variable)
        moved.append(samples.labelled(VARIABLE, variable))
    figure = lines(
        moved,
        "layer",
        colour="variable",
        name="variables",
        title="From which layer on the final token decides by each variable",
        caption="Share of the way from the target's answer to the source's when the final token's residual stream "
        f"before a layer (right end: after all) is patched; mean over up to {len(shots)} pairs of prompts.",
    )
    note = (
        "Single variables: of an answer of several tokens, the later ones still read the target prompt. "
        "Where positions are learned, patching from a source with fewer shots transfers its position, too."
    )
    tables = [table(moved, "variables", more={GAP: gaps})]
    return Part(tables=tables, figures=[figure], says=[first_layers(moved)], notes=[note])


def swapped(shots: Shots, variable: str, seed: int) -> tuple[Shots, Shots] | None:
    """Target problems, and source problems that differ from them in one variable, and so in the answer.

    Problems without another such value are left out; None if none is left.
    """
    if variable == SHOTS:
        return shots, truncated_context(shots, max(1, shots.x.shape[1] // 4))
    generator = np.random.default_rng((seed, VARIABLES.index(variable)))
    kept, changed = [], []
    for row in range(len(shots)):
        choices = _others(shots, row, variable)
        values = shots.functions.values(choices[:, :2], choices[:, 2])
        choices = choices[values != shots.functions.values(shots.parameters[row], shots.query[row])]
        if len(choices):
            kept.append(row)
            changed.append(choices[generator.integers(len(choices))])
    if not kept:
        return None
    target, chosen = shots.rows(np.array(kept)), np.stack(changed)
    true = shots.functions.values(chosen[:, None, :2], target.x)
    # A wrong label is wrong for either function, and stays what it is.
    y = np.where(target.wrong, target.y, true)
    return target, replace(target, parameters=chosen[:, :2], y=y, query=chosen[:, 2])


def _others(shots: Shots, row: int, variable: str) -> Ints:
    """Other values of one variable, as (a, b, query), [choice, 3]."""
    (a, b), query = shots.parameters[row].tolist(), int(shots.query[row])
    if variable == "x":
        low, high = shots.functions.inputs
        free = [x for x in range(low, high + 1) if x != query and x not in shots.x[row]]
        return np.array([(a, b, x) for x in free], np.int64).reshape(-1, 3)
    grid = shots.functions.grid.tolist()
    same = [(c, d) for c, d in grid if (d == b and c != a if variable == "a" else c == a and d != b)]
    return np.array([(*each, query) for each in same], np.int64).reshape(-1, 3)


def _moved(ctx: Ctx, swap: tuple[Shots, Shots] | None, variable: str) -> tuple[Samples, float]:
    """The share that each patch moves the answer, [prompt, layer], and the whole way in nats.

    The way is in the odds of the source's answer against the target's, or, where only the number of shots differs and
    the answer is one, against all others.
    """
    model = ctx.model
    measure, layers = joint_log_probability(), {RESIDUAL: range(model.n_layers + 1)}
    if swap is None:
        nothing = Samples.grid(MOVED, layers, np.full((1, model.n_layers + 1), np.nan))
        return nothing.because("no other value of it changes the answer"), float("nan")
    read = []
    for answer in [swap[1].answer] if variable == SHOTS else [swap[1].answer, swap[0].answer]:
        target, source = (tasks.linear(model, shots, answers=answer) for shots in swap)
        cells, stage = residual_patches(model, final_token_run(model, source)), ctx.stage(f"swapping {variable}")
        patched = cell_values(model, target.answered(), cells, measure, progress=stage)
        unpatched = (evaluate(model, each.answered(), [measure])[0] for each in (target, source))
        read.append((patched, *unpatched))
    # Log-odds of one answer against everything else, or against one other.
    odds = map(log_odds, read[0]) if len(read) == 1 else (ours - theirs for ours, theirs in zip(*read, strict=True))
    reached, start, end = (each.numpy() for each in odds)
    gap = Samples.one(MOVED, end - start).estimate()
    moved = Samples.grid(MOVED, layers, (reached - start).T)
    moved = replace(moved, counts=np.tile((end - start)[:, None], model.n_layers + 1))
    unlike = abs(gap.mean[0]) > LEAST_GAP_NATS
    if not (unlike and (gap.low[0] > 0 or gap.high[0] < 0)):
        reason = "source and target do not differ " + ("clearly" if unlike else f"by {LEAST_GAP_NATS} nats")
        moved = moved.changed(MOVED, lambda values: np.full_like(values, np.nan)).because(reason)
    return moved, float(gap.mean[0])


def first_layers(moved: Sequence[Samples]) -> str:
    """By which layer the final token decides by each variable, in one sentence."""
    parts = []
    for variable, samples in zip(VARIABLES, moved, strict=True):
        layer = decided(samples.estimate().low)
        where = "no layer" if layer is None else f"layer {layer} ({samples.mean[layer]:.2f})"
        parts.append(f"{variable}: {next(iter(samples.reasons.values()), where)}")
    return (
        "Earliest layer from which patching the final token's residual stream moves the answer more than half-way to "
        f"the source prompt's, for each swapped variable: {'; '.join(parts)}."
    )


def decided(lows: Array | Sequence[float]) -> int | None:
    """The first layer from which on every lower bound of the share exceeds a half; None if there is none.

    >>> decided([0.0, 0.6, 0.2, 0.7, 1.0])
    3
    """
    later = [index for index, low in enumerate(lows) if not low > DECIDED]
    first = later[-1] + 1 if later else 0
    return first if first < len(lows) else None
