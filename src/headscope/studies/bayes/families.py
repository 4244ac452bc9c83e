"""Which family of curves predicts how the model goes on learning with more examples?

In: the context of the study. Out: four families (power, bounded power, logistic, Bayesian) fitted to the first 5, 10, 20
and 50% of the shots and judged on the rest, for the model and for the exact posterior on the same resampled prompts;
the claim `bayesian_extrapolates`. A good fit inside says little, since most families bend well enough. Source: Arora et
al. 2024, whose families and error (NRMSE of p = exp(-NLL), the NLL averaged over prompts) these are. Power is a limit of
bounded and of logistic. Not done here: fitting (measures.curve_fits).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from headscope import figures
from headscope.evidence import Test, claim, table
from headscope.measures.curve_fits import SHARES, Extrapolation, extrapolate, resampled_means
from headscope.measures.curves import BAYESIAN, BOUNDED, FAMILIES, POWER, step_per_example
from headscope.measures.statistics import Statistic
from headscope.results.study import Claim, Figure
from headscope.studies.bayes.observations import (
    EXACT,
    LEARNER,
    MODEL,
    SHOTS,
    exact_control,
    observations,
    updates_to_judge,
)
from headscope.studies.bayes.settings import BayesSettings
from headscope.studies.bayes.updates import NEAREST
from headscope.studies.context import Context, Part
from headscope.tables import Column, Quantity, Schema

# Two errors of extrapolation that differ by less are the same for any purpose here.
BETTER_MARGIN = 0.01
POWER_LAWS = (POWER.name, BOUNDED.name)

SHARE = Column("fitted_share", pl.Float64, "share of the shots that the family was fitted to")
FAMILY = Column("family", pl.String, "family of curves")
ERROR = Quantity("error", "NRMSE on the later shots: root mean squared error of p over its mean")
EXCESS = Quantity("excess_error", "its error minus the Bayesian one's; positive: the Bayesian one is nearer")
PREDICTED = Schema(
    "predicted",
    (
        Column("curve", pl.String, "the model, or a family fitted to the first half of its shots"),
        SHOTS,
        Column("probability", pl.Float64, "exp of the mean log-probability of the right answer"),
    ),
)

Fits = Mapping[tuple[str, float, str], Extrapolation]


def families(ctx: Context[BayesSettings]) -> Part:
    """Does the Bayesian law extrapolate better than power laws?"""
    fits = extrapolations(ctx)
    error = errors(ctx, fits)
    excess = excess_errors(error)
    more = {column: {cell: read(fit) for cell, fit in fits.items()} for column, read in _MORE.items()}
    return Part(
        tables=[
            table(error, "extrapolation", more=more),
            table(list(excess.values()), "family_differences"),
            PREDICTED.table(_predicted(ctx, fits)),
        ],
        claims=[bayesian_extrapolates(error, ctx.once(updates_to_judge))],
        figures=_figures(ctx, fits),
        notes=["Errors of extrapolation that differ by under .01 count as the same."],
    )


def bayesian_extrapolates(error: Statistic, needs: Sequence[Test]) -> Claim:
    """`error` [learner, fitted share, family]; the exact posterior's own curve must show it among so many shots."""
    tests = _tests(error, MODEL)
    nothing = "no prefix of so few shots has enough points for a fit and others to predict"
    none = Test("error on the later shots", None, above=BETTER_MARGIN, reason=nothing)
    return claim(
        "bayesian_extrapolates",
        f"A Bayesian curve extrapolates to more examples better than power laws do, by over {BETTER_MARGIN} of the mean.",
        needs=needs,
        positive_control=[control for test in _tests(error, EXACT) for control in exact_control(test)],
        tests=tests or [none],
        tables=("family_differences", "extrapolation", "predicted"),
    )


def _tests(error: Statistic, learner: str) -> list[Test]:
    """Each power law against the Bayesian one, at every prefix that all three can be fitted to."""
    excess = excess_errors(error.only(learner=learner))
    whose = "" if learner == MODEL else f" of the {learner.split(',')[0]}"
    return [
        Test(
            f"extra error{whose} with {name} fitted to {share:.0%}",
            one.at(fitted_share=share),
            above=BETTER_MARGIN,
        )
        for name in POWER_LAWS
        for one in (excess[name].at(family=name, learner=learner),)
        for share in one.coordinates("fitted_share")
        if not np.isnan(one.at(fitted_share=share).point).any()
    ]


def excess_errors(error: Statistic) -> dict[str, Statistic]:
    """Of every other family against the Bayesian one, by its name, [family, learner, fitted share]."""
    bayesian = error.at(family=BAYESIAN.name)
    others = [family.name for family in FAMILIES if family is not BAYESIAN]
    differences = {name: error.at(family=name) - bayesian for name in others}
    return {name: each.measured_as(EXCESS).labelled(FAMILY, name) for name, each in differences.items()}


def extrapolations(ctx: Context[BayesSettings]) -> dict[tuple[str, float, str], Extrapolation]:
    """Every family fitted to every prefix, for the model and for the exact posterior where it is defined."""
    observed, settings = ctx.once(observations), ctx.settings
    curves = {MODEL: observed.model.probability.numpy(), EXACT: observed.exact_probability.numpy()}
    fits = {}
    for done, (learner, p) in enumerate(curves.items()):
        ctx.progress("extrapolating curves", done, len(curves))
        if not np.isfinite(p).all():
            continue
        log_p = np.log(np.clip(p, NEAREST, 1 - NEAREST)[:, 1:])
        means = np.exp(resampled_means(log_p, resamples=settings.resamples, seed=settings.seed))
        shots = np.arange(1, p.shape[1], dtype=np.float64)
        for share in SHARES:
            for each in extrapolate(shots, means, share=share, seed=settings.seed):
                fits[learner, share, each.family] = each
    return fits


def errors(ctx: Context[BayesSettings], fits: Fits) -> Statistic:
    """On the later shots, [learner, fitted share, family]; draws of the same prompts are paired."""
    prompts = len(ctx.once(observations).shots)
    return Statistic.of(
        ERROR,
        (LEARNER, SHARE, FAMILY),
        {cell: (fit.error, fit.resampled) for cell, fit in fits.items()},
        count=prompts,
        drawn_from=(prompts, ctx.settings.seed),
        reasons={cell: fit.reason for cell, fit in fits.items() if fit.reason},
    )


def _parameters(fit: Extrapolation) -> str:
    return "" if fit.fit is None else ", ".join(f"{k} {v:.3g}" for k, v in fit.fit.parameters.items())


def _step(fit: Extrapolation) -> float:
    if fit.fit is None or fit.family != BAYESIAN.name:
        return math.nan
    return step_per_example(fit.fit.parameters)


_MORE: Mapping[Column, Callable[[Extrapolation], Any]] = {
    Column("fitted", pl.Int64, "shots fitted"): lambda fit: fit.fitted,
    Column("held_out", pl.Int64, "later shots, which the fit is judged on"): lambda fit: fit.held_out,
    Column("inside", pl.Float64, "NRMSE on the fitted shots"): lambda fit: fit.inside,
    Column("parameters", pl.String, "the fitted parameters; not all are identifiable"): _parameters,
    Column("step", pl.Float64, "bayesian: K log(gamma / beta), which is identifiable", "nats"): _step,
}


def _predicted(ctx: Context[BayesSettings], fits: Fits) -> list[dict[str, object]]:
    """The model's curve, and what each family predicts after a fit to the first half."""
    log_p = np.log(np.clip(ctx.once(observations).model.probability.numpy(), NEAREST, 1 - NEAREST))
    curves = {"model": np.exp(log_p[:, 1:].mean(0))}
    half = {cell: fit.fit for cell, fit in fits.items() if cell[:2] == (MODEL, max(SHARES))}
    curves |= {family: fit.p for (_, _, family), fit in half.items() if fit is not None}
    return [
        {"curve": name, "shots": shot, "probability": float(p)}
        for name, curve in curves.items()
        for shot, p in enumerate(curve, start=1)
    ]


def _figures(ctx: Context[BayesSettings], fits: Fits) -> list[Figure]:
    fitted = [fit.fitted for (who, _, _), fit in fits.items() if who == MODEL and fit.fit is not None]
    if not fitted:
        return []
    return [
        figures.lines(
            PREDICTED.table(_predicted(ctx, fits)),
            "shots",
            "probability",
            "curve",
            title="Four families of curves, fitted to the first half",
            caption="The model's curve (exp of the log-probability averaged over prompts) and each family, fitted to "
            f"the first {max(fitted)} shots: a prediction after them.",
            name="extrapolation",
        )
    ]
