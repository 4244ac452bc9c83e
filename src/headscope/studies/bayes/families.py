"""Which family of curves predicts how the model goes on learning with more examples?

In: the context of the study. Out: four families (power, bounded power, logistic, Bayesian) fitted to the first 5,
10, 20 and 50% of the shots and judged on the rest, for the model and for the exact posterior on the same resampled
prompts; the claim `bayesian_extrapolates`. Source: Arora et al. 2024, whose families and error (NRMSE of p) these
are. Here p is averaged over prompts, not its logarithm: a mean NLL is decided by the few prompts with p near 0, and
with it 300 prompts of the exact posterior do not tell a Bayesian curve from a power law in one of four draws.

What 15 examples can tell is a Bayesian curve from a power law. Bounded power laws and logistic curves level off as
well, and on the exact posterior's own curves they predict no worse than the Bayesian one: they stand in the tables,
and no claim is made against them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from headscope import figures
from headscope.evidence import Test, claim, table
from headscope.measures.curve_fits import SHARES, Extrapolation, extrapolate, resampled_means
from headscope.measures.curves import BAYESIAN, FAMILIES, POWER, step_per_example
from headscope.measures.statistics import Statistic
from headscope.results.study import Claim
from headscope.studies.bayes import observations as seen
from headscope.studies.bayes.observations import EXACT, LEARNER, MODEL
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.tables import Column, Quantity, Schema

SHARE = Column("fitted_share", pl.Float64, "share of the shots that the family was fitted to")
FAMILY = Column("family", pl.String, "family of curves")
ERROR = Quantity("error", "NRMSE on the later shots: root mean squared error of p over its mean", "", (0.0, math.inf))
EXCESS = Quantity("excess_error", "its error minus the Bayesian one's; positive: the Bayesian one is nearer")


def _parameters(fit: Extrapolation) -> str:
    return "" if fit.fit is None else ", ".join(f"{k} {v:.3g}" for k, v in fit.fit.parameters.items())


def _step(fit: Extrapolation) -> float:
    bayesian = fit.fit if fit.family == BAYESIAN.name else None
    return math.nan if bayesian is None else step_per_example(bayesian.parameters)


FITTED: Mapping[Column, Callable[[Extrapolation], Any]] = {
    Column("shots_fitted", pl.Int64, "shots fitted"): lambda fit: fit.fitted,
    Column("shots_held_out", pl.Int64, "later shots, which the fit is judged on"): lambda fit: fit.held_out,
    Column("inside", pl.Float64, "NRMSE on the fitted shots"): lambda fit: fit.inside,
    Column("parameters", pl.String, "the fitted parameters; not all are identifiable"): _parameters,
    Column("log_odds_step", pl.Float64, "bayesian: K log(gamma / beta), which is identifiable", "nats"): _step,
}
PREDICTED = Schema(
    "predicted",
    (
        Column("curve", pl.String, "the model, or a family fitted to the first half of its shots"),
        seen.SHOTS,
        Column("probability", pl.Float64, "of the right answer, mean over prompts"),
    ),
)

Fits = Mapping[tuple[str, float, str], Extrapolation]


def families(ctx: Ctx) -> Part:
    """Does the Bayesian law extrapolate better than a power law?"""
    fits = ctx.once(extrapolations)
    error = errors(ctx)
    more = {column: {cell: read(fit) for cell, fit in fits.items()} for column, read in FITTED.items()}
    predicted = PREDICTED.table(_predicted(ctx, fits))
    fitted = [fit.fitted for (who, _, _), fit in fits.items() if who == MODEL and fit.fit is not None]
    caption = (
        "The model's curve, mean over prompts, and each family, fitted to the first "
        f"{max(fitted, default=0)} shots: a prediction after them."
    )
    drawn = partial(figures.lines, title="Four families of curves, fitted to the first half", caption=caption)
    return Part(
        tables=[
            table(error, "extrapolation", more=more),
            table(list(excess_errors(error).values()), "family_differences"),
            predicted,
        ],
        claims=[bayesian_extrapolates(error, ctx.once(seen.updates_to_judge))],
        figures=[drawn(predicted, "shots", "probability", "curve", name="extrapolation")] if fitted else [],
    )


def bayesian_extrapolates(error: Statistic, needs: Sequence[Test]) -> Claim:
    """`error` [learner, fitted share, family]; the exact posterior's own curve must show it among so many shots."""
    return claim(
        "bayesian_extrapolates",
        "A Bayesian curve fitted to the first half of the examples predicts the rest better than a power law does.",
        needs=needs,
        positive_control=_better(error, EXACT),
        tests=[_better(error, MODEL)],
        tables=("family_differences", "extrapolation", "predicted"),
    )


def _better(error: Statistic, learner: str) -> Test:
    """The power law against the Bayesian one, both fitted to the longest prefix."""
    half = error.only(learner=learner, fitted_share=max(SHARES))
    what, excess = f"excess error of the power law ({learner.split(',')[0]})", excess_errors(half)[POWER.name]
    one = excess.at(family=POWER.name, learner=learner, fitted_share=max(SHARES))
    return Test(what, one, above=0.0, reason=seen.IMPOSSIBLE)


def errors(ctx: Ctx) -> Statistic:
    """On the later shots, [learner, fitted share, family]; draws of the same prompts are paired."""
    fits, axes = ctx.once(extrapolations), (LEARNER, SHARE, FAMILY)
    return seen.resampled(ctx, ERROR, axes, fits, lambda fit: (fit.error, fit.resampled))


def excess_errors(error: Statistic) -> dict[str, Statistic]:
    """Of every other family against the Bayesian one, by its name, [family, learner, fitted share]."""
    bayesian = error.at(family=BAYESIAN.name)
    others = [family.name for family in FAMILIES if family is not BAYESIAN]
    differences = {name: error.at(family=name) - bayesian for name in others}
    return {name: each.measured_as(EXCESS).labelled(FAMILY, name) for name, each in differences.items()}


def extrapolations(ctx: Ctx) -> dict[tuple[str, float, str], Extrapolation]:
    """Every family fitted to every prefix, for the model and for the exact posterior where it is defined."""
    settings, fits = ctx.settings, {}
    for done, (learner, curve) in enumerate(ctx.once(seen.observations).learners.items()):
        ctx.progress("extrapolating curves", done, 2)
        if not curve.isfinite().all():
            continue
        means = resampled_means(curve.numpy()[:, 1:], resamples=settings.resamples, seed=settings.seed)
        shots = np.arange(1, curve.shape[1], dtype=np.float64)
        for share in SHARES:
            for each in extrapolate(shots, means, share=share, seed=settings.seed):
                fits[learner, share, each.family] = each
    return fits


def _predicted(ctx: Ctx, fits: Fits) -> list[dict[str, Any]]:
    """The model's curve, and what each family predicts after a fit to the first half."""
    curves = {"model": ctx.once(seen.observations).model.probability.numpy()[:, 1:].mean(0)}
    half = {cell: fit.fit for cell, fit in fits.items() if cell[:2] == (MODEL, max(SHARES))}
    curves |= {family: fit.p for (_, _, family), fit in half.items() if fit is not None}
    return [
        {"curve": name, "shots": shot, "probability": float(p)}
        for name, curve in curves.items()
        for shot, p in enumerate(curve, start=1)
    ]
