"""Do examples add features: each further one the same increment, and j increments worth j examples?

In: a model and settings. Out: by layer, how parallel the increments of further examples are and what adding j of
them to a run without examples does; the claim "features_add" (claim 2 of `sources.REDUNDANT_HEADS`). An increment is
one function's, so functions are the unit of intervals; half of them choose the layer that the others are judged on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from headscope.evidence import Test, bars, claim, lines, table
from headscope.measures.intervals import Array
from headscope.measures.log_odds import linearity, slope
from headscope.measures.samples import LAYER, Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import LOG_ODDS, RESIDUAL, RISE, beyond_share, examples_help, unanswered
from headscope.studies.bayes.increments import MOST_INCREMENTS, Increments, increments_about
from headscope.studies.bayes.problems import Ctx, Problems, prompts_each
from headscope.studies.bayes.vector_effects import CONTROLS, OWN, effects_of_adding, with_examples, zero_shot
from headscope.studies.context import Part
from headscope.tables import Column, Quantity
from headscope.tasks.functions import Ints
from headscope.tasks.split import Split

MOST_FUNCTIONS = 16
# Of what a further example really adds to the log-odds, an increment must add this share beyond every control.
EFFECT_MARGIN = 0.1
# An increment must add so much in any case, in nats.
LEAST_SLOPE_NATS = 0.01
# Different increments must agree at least this share as well as one agrees with itself on other prompts.
PARALLEL = 0.5
STRAIGHT = 0.9
NAME = "features_add"
STATEMENT = (
    "Each example adds the same increment to the final token's residual stream; "
    "j increments alone raise the answer's log-odds in proportion to j."
)

DIFFERENT, SAME, REAL = "different increments", "same increment, other prompts", "real examples"
COSINE = Quantity("cosine", "mean cosine of two increments", within=(-1.0, 1.0))
SHARE = Quantity("share", "first principal component's share of the squared increments", within=(0.0, 1.0))
NULL = Quantity("null", "the same with prompts' signs flipped at random, mean", within=(-1.0, 1.0))
NULL_HIGH = Quantity("null_high", "95% of those with flipped signs lie below this", within=(-1.0, 1.0))
SLOPE = Quantity("slope", "rise of the answer's log-odds for each further dose", "nats")
R2 = Quantity("r2", "share of the curve's variance that a straight line explains", within=(0.0, 1.0))
COMPARED = Column("compared", pl.String, "increments of different examples, or one on two halves of its prompts")
DIRECTION = Column("direction", pl.String, "which vector is added; other answer: that to another input is read")
DOSE = Column("dose", pl.Int64, "how many increments are added, or real examples shown")


@dataclass(frozen=True, eq=False)
class Observed:
    """Of some functions: increments; log-odds by direction [function, layer, dose] and by `real` examples."""

    increments: Sequence[Increments]
    curves: Mapping[str, Array]
    real: Array
    doses: Array

    @property
    def cosine(self) -> Samples:
        """[function, (compared, layer)]."""
        values = [(one.different, one.same) for one in self.increments]
        axes = {COMPARED: (DIFFERENT, SAME), RESIDUAL: range(len(values[0][0]))}
        return Samples.grid(COSINE, axes, values, over="functions")

    def null(self, name: str) -> tuple[Samples, Samples]:
        """Mean and 95th percentile over draws of the mean over functions, by layer: one row, no units."""
        drawn = np.mean([getattr(one, name) for one in self.increments], axis=0)
        axes = {RESIDUAL: range(len(drawn))}
        high = Samples.grid(NULL_HIGH, axes, np.quantile(drawn, 0.95, axis=1)[None])
        return Samples.grid(NULL, axes, drawn.mean(1)[None]), high

    def of_curves(self, quantity: Quantity, function: Callable[[Array, Array], Array]) -> Samples:
        """The slope, or the r² of a line, [function, (direction, layer)]."""
        values = np.stack([function(curve, self.doses) for curve in self.curves.values()], axis=1)
        axes = {DIRECTION: self.curves, LAYER: range(values.shape[2])}
        return Samples.grid(quantity, axes, values, over="functions")


def additive_features(ctx: Ctx) -> Part:
    """Are the increments parallel, and do they act like examples when they are added?"""
    problems = Problems.of(ctx.settings, ctx.model)
    halves = problems.halves(min(MOST_FUNCTIONS, 10 + prompts_each(ctx.settings) // 10))
    if min(map(len, halves)) < 2:
        return unanswered(NAME, STATEMENT, "fewer than four functions: no other one's increment to compare with")
    prompts = 2 * max(4, prompts_each(ctx.settings) // 8)
    observed = Split(*(_observed(ctx, problems, own, half, prompts) for half, own in enumerate(halves)))
    layer = best_layer(observed.selection.of_curves(SLOPE, slope))
    return _reported(observed.estimation, layer, prompts)


def _observed(ctx: Ctx, problems: Problems, some: Ints, half: int, prompts: int) -> Observed:
    ctx.progress("increments of single functions", half, 2)
    increments = increments_about(ctx.model, problems, some, prompts=prompts, seed=half)
    doses = list(range(min(MOST_INCREMENTS, problems.shots) + 1))
    curves = []
    for index, function in enumerate(some):
        own, other = (increments[i % len(some)].mean for i in (index, index + 1))
        seed = 100 + len(some) * half + index
        curves.append(effects_of_adding(ctx, zero_shot(problems, function, seed), own, other, doses, seed))
    real = with_examples(ctx.model, problems, some, doses, 200 + half)
    by_direction = {name: np.stack([each[name] for each in curves]) for name in curves[0]}
    return Observed(increments, by_direction, real, np.array(doses, np.float64))


def best_layer(slopes: Samples) -> int:
    """Where the own increment raises the log-odds most beyond the best control."""
    means = {name: each.mean for name, each in slopes.by("direction").items()}
    controls = np.max([np.nan_to_num(means[name], nan=-np.inf) for name in CONTROLS], axis=0)
    return int((means[OWN] - controls).argmax())


def features_add(observed: Observed, layer: int) -> Claim:
    """All at one layer, which other functions chose: parallel, beyond every control, and in a straight line."""
    rise = Samples.one(RISE, observed.real[:, -1] - observed.real[:, 0], over="functions")
    compared = observed.cosine.at(layer=layer).by("compared")
    excess = compared[DIFFERENT] - compared[SAME].changed(COSINE, lambda values: PARALLEL * values)
    noise = float(observed.null("null_different")[1].at(layer=layer).mean[0])
    slopes = observed.of_curves(SLOPE, slope).at(layer=layer).by("direction")
    r2 = observed.of_curves(R2, linearity).at(layer=layer, direction=OWN)
    each = Samples.one(SLOPE, slope(observed.real, observed.doses), over="functions")
    beyond = {name: slopes[OWN] - slopes[name] for name in CONTROLS if not np.isnan(slopes[name].mean[0])}
    return claim(
        NAME,
        STATEMENT,
        needs=[examples_help(rise)],
        tests=[
            Test("cosine of different increments minus half that of equal ones", excess, above=0.0),
            Test("cosine of different increments, against noise", compared[DIFFERENT], above=noise),
            *(beyond_share(f"rise at layer {layer} beyond {it}", beyond[it], each, EFFECT_MARGIN) for it in beyond),
            Test(f"rise at layer {layer} by an increment", slopes[OWN], above=LEAST_SLOPE_NATS),
            Test("r² of a line through the rise", r2, above=STRAIGHT),
        ],
        tables=("increments", "vector_effects", "vector_effect_curve"),
    )


def _reported(observed: Observed, layer: int, prompts: int) -> Part:
    cosine = observed.cosine
    null, high = (each.labelled(COMPARED, DIFFERENT) for each in observed.null("null_different"))
    shares = np.stack([one.share for one in observed.increments])
    share = Samples.grid(SHARE, {RESIDUAL: range(shares.shape[1])}, shares, over="functions")
    r2 = replace(observed.of_curves(R2, linearity), leave_out=True)
    series = {REAL: observed.real, **{name: curve[:, layer] for name, curve in observed.curves.items()}}
    axes = {DIRECTION: series, DOSE: observed.doses.astype(int).tolist()}
    curve = Samples.grid(LOG_ODDS, axes, np.stack(list(series.values()), axis=1), over="functions")
    agreement = bars(
        cosine.only(layer=lambda site: site > 0),
        "layer",
        colour="compared",
        reference=high,
        name="increments",
        title="Do further examples add the same increment?",
        caption="Mean cosine of the increments of different examples, beside that of one increment on two halves "
        f"of its prompts, which noise lowers too; over {len(shares)} functions. Stroke: noise alone.",
    )
    effect = lines(
        curve,
        "dose",
        colour="direction",
        name="vector_effect_curve",
        title="Increments added to a run without examples, beside real examples",
        caption="Log-odds of the function's answer with so many increments added to the final token before layer "
        f"{layer}; all vectors are equally long; mean over {len(shares)} functions.",
    )
    return Part(
        tables=[
            table(cosine, "increments", beside=(null, high)),
            table(share, "increments_first_component", beside=observed.null("null_share")),
            table(observed.of_curves(SLOPE, slope), "vector_effects", beside=(r2,)),
            table(curve, "vector_effect_curve"),
        ],
        claims=[features_add(observed, layer)],
        figures=[agreement, effect],
        notes=[
            f"An increment is averaged over {prompts} prompts about one function that no other increment uses. "
            "Half of the functions choose the layer; the others are reported."
        ],
    )
