"""Does every example add the same to the log-odds of the task, as Bayesian updates do?

In: the context of the study. Out: the update fitted to log-odds averaged over prompts, p_n = beta + (gamma - beta)
A_n with logit A_n = logit A_0 + n log(c / (1 - c)), for the model and for the exact posterior on the same resampled
prompts; how far each is from that line (the misfit); how much of a prompt's rise comes in a single step; the claim
`linear_log_odds`. The average alone says nothing about updates: models that know nothing until they suddenly know
all have the same one. The line is one of logit A and not of logit p: the exact posterior predictive itself bends in
logit p, and stands in the tables for that. Source: `sources.REDUNDANT_HEADS`, its update mended (measures.updates).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from headscope import figures
from headscope.evidence import Test, claim, table
from headscope.measures.intervals import Array
from headscope.measures.samples import Samples
from headscope.measures.statistics import Statistic
from headscope.measures.updates import RESOLVED, Updates, fit_updates, largest_step, line_of
from headscope.results.study import Claim
from headscope.studies.bayes import observations as seen
from headscope.studies.bayes.observations import EXACT, LEARNER, MODEL
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.tables import Column, Quantity, Schema

# How far, over its rise, a curve may be from that of updates; power laws over 15 shots are .035 to .05 away.
MISFIT_MARGIN = 0.03
# One step that is more of a prompt's rise is a jump. The exact posterior of noisy lines needs two pairs: .7.
JUMP = 0.8
# Probabilities nearer to 0 or 1 than this are counted as this near, so that log-odds stay finite.
NEAREST = 1e-6
BELIEF, LOGIT_P = "exact posterior, belief in the function", "exact posterior, logit of p"

STEP = Quantity("log_odds_step", "log(c / (1 - c)): what an example adds to the log-odds of the task", "nats")
GAMMA = Quantity("gamma", "probability of the right answer where the task is followed", within=(0.0, 1.0))
MISFIT = Quantity(
    "misfit", "root mean squared error of the fitted curve over the curve's rise", within=(0.0, math.inf)
)
LARGEST = Quantity("largest_step", "share of a prompt's rise that its largest single step is", within=(0.0, 1.0))
PARAMETERS: Mapping[Column, Callable[[Updates], Any]] = {
    Column("a_0", pl.Float64, "belief in the task before any example (often not identifiable)"): lambda u: u.prior,
    Column("c", pl.Float64, "how strongly an example supports the task"): lambda u: u.c,
    Column("beta", pl.Float64, "probability of the right answer where the task is not followed"): lambda u: u.beta,
    Column("line_slope", pl.Float64, "of the log-odds over shots, least squares", "nats"): lambda u: u.line.slope,
    Column("line_r2", pl.Float64, "r squared of that line"): lambda u: u.line.r2,
    Column("line_bend", pl.Float64, "slope of the later half minus the earlier, over that of all"): lambda u: (
        u.line.bend
    ),
    Column("points", pl.Int64, "shots behind the line"): lambda u: u.line.points,
    Column("outside", pl.Int64, "shots left out, p not between beta and gamma"): lambda u: u.outside,
    Column("unresolved", pl.Int64, "shots left out, belief within .02 of 0 or 1"): lambda u: u.unresolved,
}
LOG_ODDS = Schema(
    "log_odds",
    (
        LEARNER,
        seen.SHOTS,
        Column("probability", pl.Float64, "the curve of the mean log-odds of the right answer"),
        Column("fitted", pl.Float64, "the Bayesian update fitted to it, as a probability"),
        Column("task_log_odds", pl.Float64, "log-odds of the task, read off p or the posterior's own", "nats"),
    ),
)

Fits = Mapping[str, Updates]


def updates(ctx: Ctx) -> Part:
    """Is the model's curve one of Bayesian updates between two hypotheses?"""
    fits = ctx.once(fitted_updates)
    gamma = seen.resampled(ctx, GAMMA, (LEARNER,), fits, lambda fit: (fit.gamma, fit.resampled_gammas))
    misfit, largest = misfits(ctx), largest_steps(ctx.once(seen.observations))
    more = {column: {(learner,): read(fit) for learner, fit in fits.items()} for column, read in PARAMETERS.items()}
    belief, answer = fits[BELIEF].line, fits[LOGIT_P].line
    bends = (
        f"The exact posterior's belief in the function gains {belief.slope:.2f} nats per example, on a line (r² "
        f"{belief.r2:.2f}); the log-odds of its answer bend (r² {answer.r2:.2f}). The update is about the former."
    )
    # The exact posterior's own belief climbs far above what p can show: it is in the table alone.
    figure = figures.lines(
        LOG_ODDS.table(_log_odds({learner: fit for learner, fit in fits.items() if learner != BELIEF})),
        "shots",
        "task_log_odds",
        "learner",
        name="log_odds",
        title="Log-odds of the task",
        caption="Log-odds of A, read off the curve of the mean log-odds over prompts with the fitted beta and gamma, "
        "where p lies between them and A is not within .02 of 0 or 1: Bayesian updates make it a straight line. "
        "Beside it the log-odds of the exact p itself, which level off.",
    )
    return Part(
        tables=[
            table(misfit, "misfits"),
            table(largest, "largest_steps"),
            table(steps(ctx), "updates", more=more),
            table(gamma, "ceilings"),
            LOG_ODDS.table(_log_odds(fits)),
        ],
        claims=[linear_log_odds(misfit, largest, ctx.once(seen.updates_to_judge))],
        figures=[figure],
        says=[bends] if min(belief.points, answer.points) >= 4 else [],
        notes=_NOTES,
    )


def linear_log_odds(misfit: Statistic, largest: Samples, needs: Sequence[Test]) -> Claim:
    """`misfit` [learner] of the mean curve and `largest` [prompt, learner], of the model and the exact posterior."""

    def tests(learner: str) -> list[Test]:
        whose = learner.split(",")[0]
        return [
            Test(f"misfit of the {whose}'s mean curve", misfit.at(learner=learner), below=MISFIT_MARGIN),
            Test(f"largest step of a prompt ({whose})", largest.at(learner=learner), below=JUMP),
        ]

    return claim(
        "linear_log_odds",
        f"On average each example adds the same to the log-odds of the task, and no single step is over {JUMP} of a "
        "prompt's rise.",
        needs=needs,
        positive_control=tests(EXACT),
        tests=tests(MODEL),
        tables=("misfits", "largest_steps", "updates", "log_odds"),
    )


def misfits(ctx: Ctx) -> Statistic:
    """How far the mean curve is from one of updates, [learner]."""
    fits = ctx.once(fitted_updates)
    misfit = seen.resampled(ctx, MISFIT, (LEARNER,), fits, lambda fit: (fit.misfit, fit.resampled_misfits))
    return misfit.only(learner=[MODEL, EXACT])


def largest_steps(observed: seen.Observations) -> Samples:
    """How much of a prompt's rise comes in one step, [prompt, learner]."""
    shares = {learner: largest_step(curve.numpy()) for learner, curve in observed.learners.items()}
    still = "the probability does not change in some prompts"
    return Samples.of(LARGEST, (LEARNER,), shares).because(still).because(seen.IMPOSSIBLE, learner=EXACT)


def fitted_updates(ctx: Ctx) -> dict[str, Updates]:
    """The update fitted to the model and the exact posterior; of that one's own log-odds only the line."""
    observed, settings = ctx.once(seen.observations), ctx.settings
    fits = {}
    for done, (learner, curve) in enumerate(observed.learners.items()):
        ctx.progress("fitting updates", done, 2)
        log_odds, known = _logit(curve.numpy()), {"resamples": settings.resamples}
        if np.isfinite(log_odds).all():
            fits[learner] = fit_updates(log_odds, **known, seed=settings.seed)
        else:
            fits[learner] = Updates.undefined(log_odds.mean(0), seen.IMPOSSIBLE, **known)
    own = {BELIEF: observed.belief.numpy(), LOGIT_P: _logit(observed.learners[EXACT].numpy())}
    for learner, log_odds in own.items():
        line = np.where(np.isfinite(log_odds.mean(0)), log_odds.mean(0), math.nan)  # who is sure of it has none
        unfitted = Updates.undefined(np.full(len(line), math.nan), "a line alone: nothing is fitted", **known)
        fits[learner] = replace(unfitted, log_odds=line, line=line_of(line))
    return fits


def steps(ctx: Ctx) -> Statistic:
    """What an example adds to the log-odds of the task, [learner]."""
    return seen.resampled(
        ctx, STEP, (LEARNER,), ctx.once(fitted_updates), lambda fit: (fit.step_nats, fit.resampled_steps)
    )


def _logit(probability: Array) -> Array:
    p = np.clip(probability, NEAREST, 1 - NEAREST)
    log_odds: Array = np.log(p) - np.log1p(-p)
    return log_odds


def _log_odds(fits: Fits) -> list[dict[str, Any]]:
    return [
        {"learner": learner, "shots": shot, "probability": float(p), "fitted": float(f), "task_log_odds": float(odds)}
        for learner, fit in fits.items()
        for shot, (p, f, odds) in enumerate(zip(fit.p, fit.fitted, fit.log_odds, strict=True))
    ]


_NOTES = (
    "The article on redundant heads prints (c - 1) where the update needs (1 - c), which is corrected here. What an "
    "example adds to the log-odds, log(c / (1 - c)) = K log(gamma / beta), can be identified from a curve; A_0, beta "
    "and K separately often cannot.",
    f"Updates are fitted to log-odds averaged over prompts, p kept {NEAREST:g} away from 0 and 1. Shots at which p "
    f"is not between beta and gamma, or the belief not between {RESOLVED[0]} and {RESOLVED[1]}, count in the misfit "
    "and are left out of the line.",
)
