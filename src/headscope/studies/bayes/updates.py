"""Does every example add the same to the log-odds of the task, as the article's Bayesian update has it?

In: the context of the study. Out: the update fitted to log-odds averaged over prompts, p_n = beta + (gamma - beta) A_n
with logit A_n = logit A_0 + n log(c / (1 - c)), for the model and for the exact posterior on the same resampled
prompts; how far each is from that line (the misfit); the claim `linear_log_odds`. The line is one of logit A and not of
logit p: the exact posterior predictive itself bends in logit p, which the table `log_odds_lines` shows. Source: the
article, its update mended (measures.updates). Not done here: other families of curves (families).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from headscope import figures
from headscope.evidence import Test, claim, table
from headscope.measures.intervals import Array
from headscope.measures.statistics import Statistic
from headscope.measures.updates import RESOLVED, Updates, fit_updates, line_of
from headscope.results.study import Claim, Figure
from headscope.studies.bayes.observations import (
    EXACT,
    IMPOSSIBLE,
    LEARNER,
    MODEL,
    SHOTS,
    Observations,
    observations,
    updates_to_judge,
)
from headscope.studies.bayes.settings import BayesSettings
from headscope.studies.context import Context, Part
from headscope.tables import Column, Quantity, Schema, Table

# By how much worse than the exact posterior a line may fit, and from where on that one is no line either.
MISFIT_MARGIN, CONTROL_MISFIT = 0.02, 0.05
# Probabilities nearer to 0 or 1 than this are counted as this near, so that log-odds stay finite.
NEAREST = 1e-6
DIFFERENCE = "model minus exact posterior"
BELIEF = "exact posterior, its own belief in the function"
LOGIT_P = "exact posterior, log-odds of p itself"

STEP = Quantity("step", "log(c / (1 - c)): what an example adds to the log-odds of the task", "nats")
GAMMA = Quantity("gamma", "probability of the right answer where the task is followed", within=(0.0, 1.0))
MISFIT = Quantity("misfit", "root mean squared error of the fitted curve over the curve's mean")
A_0 = Column("a_0", pl.Float64, "belief in the task before any example (often not identifiable)")
C = Column("c", pl.Float64, "how strongly an example speaks for the task")
BETA = Column("beta", pl.Float64, "probability of the right answer where the task is not followed")
LINES = Schema(
    "log_odds_lines",
    (
        LEARNER,
        Column("slope", pl.Float64, "slope of the log-odds over shots, least squares", "nats"),
        Column("r2", pl.Float64, "r squared of that line"),
        Column(
            "bend",
            pl.Float64,
            "slope over the later half of the points minus the earlier, over the slope of all",
        ),
        Column("points", pl.Int64, "shots behind the line"),
        Column("outside", pl.Int64, "shots left out since p is not between beta and gamma"),
        Column("unresolved", pl.Int64, "shots left out since the belief is within .02 of 0 or 1"),
    ),
)
LOG_ODDS = Schema(
    "log_odds",
    (
        LEARNER,
        SHOTS,
        Column("probability", pl.Float64, "the curve of the mean log-odds of the right answer"),
        Column("fitted", pl.Float64, "the article's update fitted to it, as a probability"),
        Column("log_odds", pl.Float64, "log-odds of the task, read off p or the posterior's own", "nats"),
    ),
)


def updates(ctx: Context[BayesSettings]) -> Part:
    """Is the model's curve one of Bayesian updates between two hypotheses?"""
    fits, observers = ctx.once(fitted_updates), exact_log_odds(ctx.once(observations))
    step = statistic_of(ctx, STEP, lambda fit: (fit.step_nats, fit.resampled_steps))
    gamma = statistic_of(ctx, GAMMA, lambda fit: (fit.gamma, fit.resampled_gammas))
    misfit = statistic_of(ctx, MISFIT, lambda fit: (fit.misfit, fit.resampled_misfits))
    parameters = {
        column: {(learner,): value(fit) for learner, fit in fits.items()}
        for column, value in ((A_0, lambda f: f.prior), (C, lambda f: f.c), (BETA, lambda f: f.beta))
    }
    return Part(
        tables=[
            table([misfit, worse_fit(misfit).labelled(LEARNER, DIFFERENCE)], "misfits"),
            table(step, "updates", more=parameters),
            table(gamma, "ceilings"),
            _lines(fits, observers),
            LOG_ODDS.table([*_of_fits(fits), *_of_observers(observers)]),
        ],
        claims=[linear_log_odds(misfit, ctx.once(updates_to_judge))],
        figures=_figures(fits, observers),
        says=_belief_and_answer(observers),
        notes=_NOTES,
    )


def linear_log_odds(misfit: Statistic, needs: Sequence[Test]) -> Claim:
    """`misfit` [learner] of the model and of the exact posterior, drawn from the same prompts."""
    control = misfit.at(learner=EXACT)
    return claim(
        "linear_log_odds",
        "Each example adds the same to the log-odds of the task: a straight line fits the model as well as the exact "
        "posterior.",
        needs=needs,
        positive_control=Test("misfit of the exact posterior", control, below=CONTROL_MISFIT),
        tests=[
            Test("misfit of the model minus the exact posterior's", worse_fit(misfit), below=MISFIT_MARGIN)
        ],
        tables=("misfits", "updates", "log_odds"),
    )


def worse_fit(misfit: Statistic) -> Statistic:
    """How much worse the line fits the model than the exact posterior, resample by resample."""
    difference = misfit.at(learner=MODEL) - misfit.at(learner=EXACT)
    reasons = [reason for reason in misfit.reasons.values() if reason]
    return difference.because(reasons[0]) if reasons else difference


def fitted_updates(ctx: Context[BayesSettings]) -> dict[str, Updates]:
    """The update fitted to the model and to the exact posterior over all functions."""
    observed, settings = ctx.once(observations), ctx.settings
    curves = {MODEL: observed.model.probability.numpy(), EXACT: observed.exact_probability.numpy()}
    fits = {}
    for done, (learner, probability) in enumerate(curves.items()):
        ctx.progress("fitting updates", done, len(curves))
        if np.isfinite(probability).all():
            fits[learner] = fit_updates(_logit(probability), resamples=settings.resamples, seed=settings.seed)
        else:
            fits[learner] = Updates.undefined(probability.mean(0), IMPOSSIBLE, resamples=settings.resamples)
    return fits


def statistic_of(
    ctx: Context[BayesSettings], quantity: Quantity, read: Callable[[Updates], tuple[float, Array]]
) -> Statistic:
    """One number of the fits with its draws, [learner]; those of the same prompts are paired."""
    fits, prompts = ctx.once(fitted_updates), len(ctx.once(observations).shots)
    return Statistic.of(
        quantity,
        (LEARNER,),
        {learner: read(fit) for learner, fit in fits.items()},
        count=prompts,
        drawn_from=(prompts, ctx.settings.seed),
        reasons={(learner,): fit.reason for learner, fit in fits.items() if fit.reason},
    )


def _logit(probability: Array) -> Array:
    p = np.clip(probability, NEAREST, 1 - NEAREST)
    log_odds: Array = np.log(p) - np.log1p(-p)
    return log_odds


def exact_log_odds(observed: Observations) -> dict[str, Array]:
    """Mean over prompts [shot] of the exact posterior's log-odds of the true function, and of its answer."""
    belief, answer = observed.belief.numpy(), _logit(observed.exact_probability.numpy())
    return {BELIEF: belief.mean(0), LOGIT_P: answer.mean(0)}


def _belief_and_answer(observers: Mapping[str, Array]) -> list[str]:
    belief, answer = line_of(observers[BELIEF]), line_of(observers[LOGIT_P])
    if min(belief.points, answer.points) < 4:
        return []
    return [
        f"The exact posterior's belief in the function gains {belief.slope:.2f} nats per example, on a line (r² "
        f"{belief.r2:.2f}); the log-odds of its answer bend (r² {answer.r2:.2f}). The update is about the former."
    ]


def _lines(fits: Mapping[str, Updates], observers: Mapping[str, Array]) -> Table:
    """How straight log-odds are: those read off p with the fitted beta and gamma, and the exact posterior's own."""
    rows = [(learner, fit.line, fit.outside, fit.unresolved) for learner, fit in fits.items()]
    rows += [(learner, line_of(log_odds), 0, 0) for learner, log_odds in observers.items()]
    return LINES.table(
        {"learner": learner, **asdict(line), "outside": outside, "unresolved": unresolved}
        for learner, line, outside, unresolved in rows
    )


def _of_fits(fits: Mapping[str, Updates]) -> list[dict[str, Any]]:
    return [
        {
            "learner": learner,
            "shots": shot,
            "probability": float(p),
            "fitted": float(f),
            "log_odds": float(odds),
        }
        for learner, fit in fits.items()
        for shot, (p, f, odds) in enumerate(zip(fit.p, fit.fitted, fit.log_odds, strict=True))
    ]


def _of_observers(observers: Mapping[str, Array]) -> list[dict[str, Any]]:
    nothing = {"probability": math.nan, "fitted": math.nan}
    return [  # who is sure of it has no log-odds
        {
            "learner": learner,
            "shots": shot,
            **nothing,
            "log_odds": float(odds) if np.isfinite(odds) else math.nan,
        }
        for learner, log_odds in observers.items()
        for shot, odds in enumerate(log_odds)
    ]


def _figures(fits: Mapping[str, Updates], observers: Mapping[str, Array]) -> list[Figure]:
    """Log-odds of the task, without the exact posterior's own belief, which climbs far above what p can show."""
    rows = [*_of_fits(fits), *_of_observers({LOGIT_P: observers[LOGIT_P]})]
    if all(math.isnan(row["log_odds"]) for row in rows):
        return []
    return [
        figures.lines(
            LOG_ODDS.table(rows),
            "shots",
            "log_odds",
            "learner",
            title="Log-odds of the task",
            caption="Log-odds of A, read off the curve of the mean log-odds over prompts with the fitted beta and gamma, "
            "where p lies between them and A is not within .02 of 0 or 1: the article's update makes it a straight "
            "line. Beside it the log-odds of the exact p itself, which level off.",
            name="log_odds",
        )
    ]


_NOTES = (
    "The article prints (c - 1) where the update needs (1 - c); here it is mended. What an example adds to the log-odds, "
    "log(c / (1 - c)) = K log(gamma / beta), can be read off a curve; A_0, beta and K separately often cannot.",
    f"Updates are fitted to log-odds averaged over prompts, p kept {NEAREST:g} away from 0 and 1. Shots at which p is "
    f"not between beta and gamma, or the belief not between {RESOLVED[0]} and {RESOLVED[1]}, count in the misfit and "
    "are left out of the line.",
)
