"""From which layer on does the final token decide by a, b, x or the number of shots? Each is swapped alone.

In: a model and settings. Out: by layer and variable, how far the answer moves when the final token's residual stream
is patched from a prompt that differs in that one variable, and the claim "learnt_in_order". Source and target prompt
share everything else: inputs, wrong labels, and for a and b the query; for parity, b and so the answer differ by one.
For the number of shots the source has the first quarter of the pairs; for *number* (that a number is due) the target
has none, and the log-odds of all numbers together are read. The share is 0 where the final token does not know the
variable yet, and 1 where it no longer attends to it elsewhere. `sources.REDUNDANT_HEADS` (claim 2) expects number,
parity and slope at different points of the model, and then x; a layer is compared on resampled prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
from torch import Tensor

from headscope import tasks
from headscope.evidence import Test, claim, lines, table
from headscope.measures import joint_log_probability
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.measures.readouts import Measure, ReadOut
from headscope.measures.samples import Samples
from headscope.measures.statistics import statistic
from headscope.models.model import Model
from headscope.results.study import Claim
from headscope.studies.bayes.activations import RESIDUAL
from headscope.studies.bayes.problems import Ctx, prompts_each, truncated_context
from headscope.studies.context import Part
from headscope.studies.sites import residual_patches
from headscope.sweeps import evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.final_token import final_token_run
from headscope.tables import Column, Quantity
from headscope.tasks.functions import Ints
from headscope.tasks.linear import functions_of
from headscope.tasks.prompts import Prompts
from headscope.tasks.shots import Shots
from headscope.vocabulary import Positions

SHOTS = "shots"
NUMBER, PARITY = "number", "parity"
VARIABLES = ("a", "b", "x", SHOTS, NUMBER, PARITY)
# In this order they should be decided: the next at a later layer than the one before.
ORDER = (NUMBER, PARITY, "a", "x")
_NEXT = 0.5  # layers are whole numbers
# A variable is decided where, from that layer on, more than half of the answer's way goes with the final token.
DECIDED = 0.5
# Source and target must differ by so much in the log-odds of their answers, in nats.
LEAST_GAP_NATS = 0.5

VARIABLE = Column("variable", pl.String, "what differs: a, b, x, the number of shots, whether there are any, parity")
LAYER_OF = Quantity("decided_at", "first layer from which on more than half of the way is moved", "layers")
MOVED = Quantity("moved", "share of the way from the target's answer to the source's", "share")
BEYOND_HALF = Quantity("moved_beyond_half", "moved, minus half of the way to the source's answer", "nats")
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
    by_name = dict(
        zip(VARIABLES, (samples.at(variable=v) for v, samples in zip(VARIABLES, moved, strict=True)), strict=True)
    )
    return Part(
        tables=tables, claims=[learnt_in_order(by_name)], figures=[figure], says=[first_layers(moved)], notes=[note]
    )


def learnt_in_order(moved: Mapping[str, Samples]) -> Claim:
    """By the shares moved [prompt, layer] of each variable, on the prompts on which all of these were swapped."""
    known = {variable: moved[variable] for variable in ORDER if not moved[variable].reasons}
    shared = set.intersection(*(set(each.units) for each in known.values())) if known else set()
    layers = {
        variable: statistic(
            lambda means: math.nan if (layer := decided(means.value)) is None else layer,
            each.rows([place for place, unit in enumerate(each.units) if unit in shared]),
            over="layer",
            quantity=LAYER_OF,
        )
        for variable, each in known.items()
        if shared
    }
    tests = []
    for before, after in pairwise(ORDER):
        missing = next((v for v in (before, after) if v not in layers), None)
        why = "" if missing is None else f"{missing}: {next(iter(moved[missing].reasons.values()), 'no prompt left')}"
        later = None if missing else layers[after] - layers[before]
        tests.append(Test(f"layer of {after} minus that of {before}", later, above=_NEXT, reason=why))
    return claim(
        "learnt_in_order",
        "The final token decides that a number is due, its parity, the slope, and x, each at a later layer.",
        tests=tests,
        tables=("variables",),
    )


def swapped(shots: Shots, variable: str, seed: int) -> tuple[Shots, Shots, list[int]] | None:
    """Target problems, and source problems that differ from them in one variable, and so in the answer.

    And which of the problems these are: those without another such value are left out; None if none is left.
    """
    every = list(range(len(shots)))
    if variable == SHOTS:
        return shots, truncated_context(shots, max(1, shots.x.shape[1] // 4)), every
    if variable == NUMBER:
        return shots.without_context(), shots, every
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
    return target, replace(target, parameters=chosen[:, :2], y=y, query=chosen[:, 2]), kept


def _others(shots: Shots, row: int, variable: str) -> Ints:
    """Other values of one variable, as (a, b, query), [choice, 3]."""
    (a, b), query = shots.parameters[row].tolist(), int(shots.query[row])
    if variable == "x":
        low, high = shots.functions.inputs
        free = [x for x in range(low, high + 1) if x != query and x not in shots.x[row]]
        return np.array([(a, b, x) for x in free], np.int64).reshape(-1, 3)
    grid = shots.functions.grid.tolist()
    same = [(c, d) for c, d in grid if (d == b and c != a if variable == "a" else c == a and d != b)]
    same = [(c, d) for c, d in same if variable != PARITY or abs(d - b) == 1]
    return np.array([(*each, query) for each in same], np.int64).reshape(-1, 3)


def _moved(ctx: Ctx, swap: tuple[Shots, Shots, list[int]] | None, variable: str) -> tuple[Samples, float]:
    """The share that each patch moves the answer, [prompt, layer], and the whole way in nats.

    The way is in the odds of the source's answer against the target's, or, where the answer is one, against all
    others; of *number*, in the odds of all numbers.
    """
    model, layers = ctx.model, {RESIDUAL: range(ctx.model.n_layers + 1)}
    if swap is None:
        nothing = Samples.grid(MOVED, layers, np.full((1, model.n_layers + 1), np.nan))
        return nothing.because("no other value of it changes the answer"), float("nan")
    *both, kept = swap
    begins = variable == NUMBER
    measure = any_number(model) if begins else joint_log_probability()
    read = []
    for answer in [both[1].answer] if variable in (SHOTS, NUMBER) else [both[1].answer, both[0].answer]:
        target, source = (tasks.linear(model, shots, answers=answer) for shots in both)
        cells, stage = residual_patches(model, final_token_run(model, source)), ctx.stage(f"swapping {variable}")
        target, source = (each if begins else each.answered() for each in (target, source))
        patched = cell_values(model, target, cells, measure, progress=stage)
        read.append((patched, *(evaluate(model, each, [measure])[0] for each in (target, source))))
    # Log-odds of one answer against everything else, or against one other.
    odds = map(log_odds, read[0]) if len(read) == 1 else (ours - theirs for ours, theirs in zip(*read, strict=True))
    reached, start, end = (each.numpy() for each in odds)
    gap = Samples.one(MOVED, end - start).estimate()
    moved = Samples.grid(MOVED, layers, (reached - start).T, units=tuple(kept))
    moved = replace(moved, counts=np.tile((end - start)[:, None], model.n_layers + 1))
    if not (gap.low[0] > LEAST_GAP_NATS or gap.high[0] < -LEAST_GAP_NATS):
        unlike = "" if abs(gap.mean[0]) < LEAST_GAP_NATS else "clearly "
        reason = f"source and target do not {unlike}differ by {LEAST_GAP_NATS} nats"
        moved = moved.changed(MOVED, lambda values: np.full_like(values, np.nan)).because(reason)
    return moved, float(gap.mean[0])


def any_number(model: Model) -> Measure:
    """Log-probability that the next token is (or begins) a number, in nats."""
    language = functions_of(model)
    if language is not None:
        tokens = language.number_tokens(np.arange(language.n_numbers)).tolist()
    else:
        words = enumerate(model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer))))
        tokens = [token for token, word in words if word.lstrip("Ġ▁ ").isdecimal()]

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        return logits[:, 0].double().log_softmax(-1)[:, tokens].logsumexp(-1)

    return Measure("any_number", "nats", 1, ReadOut(Positions.of(-1)), compute, version=1)


def first_layers(moved: Sequence[Samples]) -> str:
    """By which layer the final token decides by each variable, in one sentence."""
    parts = []
    for variable, samples in zip(VARIABLES, moved, strict=True):
        layer = decided(beyond_half(samples).estimate().low, above=0.0)
        where = "no layer" if layer is None else f"layer {layer} ({samples.mean[layer]:.2f})"
        parts.append(f"{variable}: {next(iter(samples.reasons.values()), where)}")
    return (
        "Earliest layer from which patching the final token's residual stream moves the answer more than half-way to "
        f"the source prompt's, for each swapped variable: {'; '.join(parts)}."
    )


def beyond_half(moved: Samples) -> Samples:
    """What is moved beyond half of the way, in nats, [prompt, layer]: above 0 where the share exceeds a half.

    Prompts whose ways differ are alike in a share that is 1 for all of them, and then there are no bounds of it.
    A way that is downward on average is counted down.
    """
    beyond = moved.over_share(DECIDED, BEYOND_HALF)
    downward = moved.counts is not None and moved.counts.mean() < 0
    return beyond.changed(BEYOND_HALF, np.negative) if downward else beyond


def decided(lows: Array | Sequence[float], *, above: float = DECIDED) -> int | None:
    """The first layer from which on every value (of a share: a half) is exceeded; None if there is none.

    >>> decided([0.0, 0.6, 0.2, 0.7, 1.0])
    3
    """
    later = [index for index, low in enumerate(lows) if not low > above]
    first = later[-1] + 1 if later else 0
    return first if first < len(lows) else None
