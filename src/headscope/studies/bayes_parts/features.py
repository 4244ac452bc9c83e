"""Whether examples add features: each further one the same step in the stream, and j steps worth j examples.

In: a model and the settings of a study of pairs. Out: a Part with, by layer, how parallel the steps of further
examples are (`steps`), what adding j of them to a run without examples does (`steering`, `steering_curve`), and
the claim "features add". A step is one function's (a, b), so functions are the unit of every interval, and half
of them choose the layer that the other half is judged on. Source: the article "Redundant Attention Heads ..."
(2024), claim 2; steps and controls as in `bayes_parts.steps` and `bayes_parts.steering`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from headscope.figures import bars_with_intervals, lines
from headscope.measures import MIN_UNITS, Side, interval, side
from headscope.measures.intervals import Array
from headscope.measures.log_odds import linearity, slope
from headscope.models.model import Model
from headscope.results.study import Claim, Figure, Verdict
from headscope.studies.bayes_parts.inside import LEAST_RISE_NATS, Progress
from headscope.studies.bayes_parts.problems import Problems, prompts_each
from headscope.studies.bayes_parts.steering import CONTROLS, OWN, REAL, steered, with_examples
from headscope.studies.bayes_parts.steps import MOST_STEPS, Steps, steps_about
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import number, undetermined, with_bounds
from headscope.tables import Column, Schema, Table

MOST_FUNCTIONS = 16
# Of what a further example really adds to the log-odds, a step must add this share beyond every control.
STEERING_MARGIN = 0.1
# Different steps must agree at least this share as well as one step agrees with itself on other prompts.
PARALLEL = 0.5
STRAIGHT = 0.9

_FUNCTIONS = Column("functions", pl.Int64, "functions behind the mean, the unit of the bounds")
_SITE = Column("layer", pl.Int64, "the stream before this layer; the last row is the final stream")


def _bounds(what: str, unit: str = "") -> tuple[Column, Column]:
    return (
        Column("low", pl.Float64, f"lower 95% bound of {what} over functions", unit),
        Column("high", pl.Float64, f"upper 95% bound of {what} over functions", unit),
    )


STEPS = Schema(
    "steps",
    (
        _SITE,
        Column("quantity", pl.String, "cosine of different steps; of one step with itself; first component"),
        Column("value", pl.Float64, "mean cosine, or share of the steps' squared length"),
        *_bounds("the value"),
        Column("null", pl.Float64, "the same with prompts' signs flipped at random, mean"),
        Column("null_high", pl.Float64, "95% of the flipped ones lie below this"),
        _FUNCTIONS,
    ),
)
STEERING = Schema(
    "steering",
    (
        Column("layer", pl.Int64, "j times the vector is added to the stream before this layer"),
        Column("direction", pl.String, "which vector, and whose answer is read if not the function's"),
        Column("slope", pl.Float64, "rise of the answer's log-odds for each further j", "nats"),
        *_bounds("the slope", "nats"),
        Column("r2", pl.Float64, "share of the curve's variance that a straight line explains, mean"),
        Column("chosen", pl.Boolean, "the layer that the other half of the functions chose"),
        _FUNCTIONS,
    ),
)
CURVE = Schema(
    "steering_curve",
    (
        Column("direction", pl.String, "which vector is added, or real examples"),
        Column("j", pl.Int64, "how many steps are added, or examples shown"),
        Column("log_odds", pl.Float64, "of the function's answer, at the chosen layer", "nats"),
        *_bounds("the log-odds", "nats"),
        _FUNCTIONS,
    ),
)
_ACROSS, _SAME, _SHARE = "different steps", "the same step on other prompts", "first component"
_STATEMENT = (
    "Features add: each further example takes the same step in the stream at the read-out, and j steps added to a "
    "run without examples raise the log-odds of the function's answer in proportion to j."
)


@dataclass(frozen=True)
class Found:
    """Of some functions: their steps, curves by direction [function, layer, dose], real ones [function, dose].

    `layer` is where they are judged.
    """

    steps: Sequence[Steps]
    curves: Mapping[str, Array]
    real: Array
    doses: Array
    layer: int


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """Are the steps parallel, and do they steer?"""
    problems = Problems.of(config, model)
    halves = problems.halves(min(MOST_FUNCTIONS, 10 + prompts_each(config) // 10))
    if min(map(len, halves)) < 2:
        because = "there are fewer than four functions: no other function's step to compare with."
        empty = {schema.name: schema.table([]) for schema in (STEPS, STEERING, CURVE)}
        return Part(empty, (undetermined("features_add", _STATEMENT, because, *empty),))
    prompts = 2 * max(4, prompts_each(config) // 8)
    doses = np.arange(min(MOST_STEPS, problems.shots) + 1)
    found = []
    for half, functions in enumerate(halves):
        progress("steps of single functions", half, 2)
        steps = steps_about(model, problems, functions, prompts=prompts, seed=half)
        curves = []
        for index, function in enumerate(functions):
            other = steps[(index + 1) % len(steps)]
            seed = 100 + len(functions) * half + index
            own = steps[index].mean
            curves.append(steered(model, problems, function, own, other.mean, doses.tolist(), seed, progress))
        by_direction = {name: np.stack([each[name] for each in curves]) for name in curves[0]}
        real = with_examples(model, problems, functions, doses.tolist(), 200 + half)
        found.append(Found(steps, by_direction, real, doses.astype(np.float64), 0))
    chosen, estimated = found
    return _told(_at(estimated, _best_layer(chosen)), prompts)


def _best_layer(found: Found) -> int:
    """Where the own step steers most beyond the best control."""
    slopes = {name: slope(curve, found.doses).mean(0) for name, curve in found.curves.items()}
    beyond = slopes[OWN] - np.max([np.nan_to_num(slopes[name], nan=-np.inf) for name in CONTROLS], axis=0)
    return int(beyond.argmax())


def _at(found: Found, layer: int) -> Found:
    return Found(found.steps, found.curves, found.real, found.doses, layer)


def _told(found: Found, prompts: int) -> Part:
    tables = {
        "steps": _steps_table(found),
        "steering": _steering_table(found),
        "steering_curve": _curve(found),
    }
    notes = (
        f"A step d_n is the stream at the read-out with n examples minus with n - 1, less the same with shuffled "
        f"labels, averaged over {prompts} prompts about one function that no other step uses. Of the functions, half "
        "choose the layer and the others are reported.",
    )
    return Part(tables, (judged(found),), _figures(tables, found.layer), notes)


def judged(found: Found) -> Claim:
    """Supported if steps are parallel, steer beyond every control, and do so in a straight line; all at one layer."""
    names = ("steps", "steering", "steering_curve")
    rise = _over_functions(found.real[:, -1] - found.real[:, 0], "rise")
    if len(found.real) < MIN_UNITS or not rise["low"] > LEAST_RISE_NATS:
        because = (
            f"{int(found.doses[-1])} real examples raise the log-odds of the answer by {with_bounds(rise, 'rise')} "
            f"nats: there is too little to add up (margin {LEAST_RISE_NATS}, over five functions or more)."
        )
        return undetermined("features_add", _STATEMENT, because, *names)
    layer = found.layer
    across, same = (
        np.array([getattr(one, name)[layer] for one in found.steps]) for name in ("across", "same")
    )
    null = float(np.quantile(np.mean([one.null_across[:, layer] for one in found.steps], axis=0), 0.95))
    beyond = _over_functions(across - PARALLEL * same, "beyond")
    parallel = side(beyond["low"], beyond["high"], 0.0)
    if parallel is Side.ABOVE and not interval(across).low > null:
        parallel = Side.UNDETERMINED
    slopes = {name: slope(curve[:, layer], found.doses) for name, curve in found.curves.items()}
    per_example = float(slope(found.real, found.doses).mean())
    controls = {name: slopes[OWN] - slopes[name] for name in CONTROLS if not np.isnan(slopes[name]).any()}
    margin = STEERING_MARGIN * per_example
    against = {name: _over_functions(values, "more") for name, values in controls.items()}
    worst = min(against, key=lambda name: against[name]["low"])
    steers = side(against[worst]["low"], min(row["high"] for row in against.values()), margin)
    straight = _over_functions(linearity(found.curves[OWN][:, layer], found.doses), "r2")
    sides = (parallel, steers, side(straight["low"], straight["high"], STRAIGHT))
    because = (
        f"At layer {layer}, different steps have cosine {number(across.mean())} on average, one step with itself on "
        f"other prompts {number(same.mean())} (noise alone: {number(null)} at most). Each step added raises the "
        f"log-odds by {with_bounds(_over_functions(slopes[OWN], 's'), 's')} nats, a real example by "
        f"{number(per_example)}; beyond “{worst}”, the nearest control, by {with_bounds(against[worst], 'more')} "
        f"(margin {number(margin)}); a line explains {with_bounds(straight, 'r2')} of the curve (margin {STRAIGHT})."
    )
    return Claim("features_add", _STATEMENT, all_of(sides), because, names)


def all_of(sides: Sequence[Side]) -> Verdict:
    """Of a claim that says several things: supported if all hold, refuted if one does not."""
    if all(one is Side.ABOVE for one in sides):
        return Verdict.SUPPORTED
    return Verdict.REFUTED if Side.BELOW in sides else Verdict.UNDETERMINED


def _steps_table(found: Found) -> Table:
    rows = []
    names = {_ACROSS: ("across", "null_across"), _SAME: ("same", None), _SHARE: ("share", "null_share")}
    for layer in range(len(found.steps[0].across)):
        for quantity, (name, null) in names.items():
            values = np.array([getattr(one, name)[layer] for one in found.steps])
            drawn = np.array([np.nan])
            if null is not None:
                drawn = np.mean([getattr(one, null)[:, layer] for one in found.steps], axis=0)
            beside = {"null": float(drawn.mean()), "null_high": float(np.quantile(drawn, 0.95))}
            row = {"layer": layer, "quantity": quantity, **beside}
            rows.append({**row, **_over_functions(values, "value")})
    return STEPS.table(rows)


def _steering_table(found: Found) -> Table:
    rows = []
    for layer in range(found.curves[OWN].shape[1]):
        for direction, curves in found.curves.items():
            straight = linearity(curves[:, layer], found.doses)
            r2 = float(np.nanmean(straight)) if not np.isnan(straight).all() else float("nan")
            row = {"layer": layer, "direction": direction, "r2": r2, "chosen": layer == found.layer}
            rows.append({**row, **_over_functions(slope(curves[:, layer], found.doses), "slope")})
    return STEERING.table(rows)


def _curve(found: Found) -> Table:
    series = {REAL: found.real, **{name: curve[:, found.layer] for name, curve in found.curves.items()}}
    rows = [
        {"direction": name, "j": int(j), **_over_functions(values[:, index], "log_odds")}
        for name, values in series.items()
        for index, j in enumerate(found.doses)
    ]
    return CURVE.table(rows)


def _over_functions(values: Array, name: str) -> dict[str, float | int]:
    found = interval(values)
    return {name: float(found.mean), "low": float(found.low), "high": float(found.high), "functions": found.n}


def _figures(tables: Mapping[str, Table], layer: int) -> tuple[Figure, ...]:
    cosines = STEPS.table(row for row in tables["steps"].rows() if row["quantity"] != _SHARE and row["layer"])
    return (
        bars_with_intervals(
            cosines,
            "layer",
            "value",
            "low",
            "high",
            group="quantity",
            reference="null_high",
            title="Whether further examples take the same step",
            caption="For the stream before each layer, mean cosine of the steps of different examples, beside "
            "that of one step measured on two halves of its prompts, which is what noise leaves of a perfect "
            "agreement. The mark is what noise alone reaches.",
            name="steps",
        ),
        lines(
            tables["steering_curve"],
            "j",
            "log_odds",
            "direction",
            "low",
            "high",
            title="Steps added to a run without examples, beside real examples",
            caption=f"Log-odds of the function's answer with j steps added to the stream before layer {layer} at the "
            "read-out. All vectors have the same length.",
            name="steering",
        ),
    )
