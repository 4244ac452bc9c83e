"""The tables of the study `bayes`, first half: curves over examples, what was fitted to them, and heads that "
"carry pairs."""

import polars as pl

from headscope.measures.estimates import PROMPTS, bounds
from headscope.tables import Column, Schema

_SHOTS = Column("shots", pl.Int64, "pairs shown before", "pairs")
_LEARNER = Column("learner", pl.String, "whose answer: the model, an exact posterior, or a regression")
REASON = Column("reason", pl.String, "why there is no number; empty where there is one")

CURVE = Schema(
    "curve",
    (
        _LEARNER,
        _SHOTS,
        Column("p", pl.Float64, "mean probability of the function's value", "probability"),
        *bounds("the mean", "probability"),
        PROMPTS,
        REASON,
    ),
)
ANSWERS = Schema(
    "answers",
    (
        _LEARNER,
        _SHOTS,
        Column("right", pl.Float64, "share of prompts whose most likely number is the function's", "share"),
        *bounds("the share", "share"),
        Column("error", pl.Float64, "mean distance of that number from the function's value"),
        Column("agreement", pl.Float64, "share of prompts in which the model's number is the same", "share"),
        PROMPTS,
        REASON,
    ),
)
DISTANCES = Schema(
    "distances",
    (
        Column("reference", pl.String, "the exact posterior predictive, under which prior over functions"),
        Column(
            "over",
            pl.String,
            "numbers: KL over all numbers; right or not: over two outcomes, never more than that",
        ),
        _SHOTS,
        Column("kl", pl.Float64, "mean KL divergence of the model from the reference", "nats"),
        *bounds("the divergence", "nats"),
        PROMPTS,
        REASON,
    ),
)
CHECKS = Schema(
    "checks",
    (
        Column("quantity", pl.String, "what is compared, prompt by prompt"),
        Column("value", pl.Float64, "mean over prompts", "probability"),
        *bounds("the mean", "probability"),
        PROMPTS,
        REASON,
    ),
)
UPDATES = Schema(
    "updates",
    (
        Column("learner", pl.String, "whose log-odds, and how they were got"),
        Column("step", pl.Float64, "log(c / (1 - c)): what an example adds to the log-odds", "nats"),
        Column("step_low", pl.Float64, "lower 95% bound of the step, prompts resampled", "nats"),
        Column("step_high", pl.Float64, "upper 95% bound of the step", "nats"),
        Column("a_0", pl.Float64, "belief in the task before any example (often not identifiable)"),
        Column("c", pl.Float64, "how strongly an example speaks for the task"),
        Column("beta", pl.Float64, "probability of the right answer where the task is not followed"),
        Column("gamma", pl.Float64, "probability of the right answer where it is"),
        Column("gamma_low", pl.Float64, "lower 95% bound of gamma"),
        Column("gamma_high", pl.Float64, "upper 95% bound of gamma"),
        Column("misfit", pl.Float64, "root mean squared error of the fitted curve over its mean"),
        Column("low", pl.Float64, "lower 95% bound of the misfit, prompts resampled"),
        Column("high", pl.Float64, "upper 95% bound of the misfit"),
        Column("slope", pl.Float64, "slope of the log-odds over shots, least squares", "nats"),
        Column("r2", pl.Float64, "r squared of that line"),
        Column(
            "bend",
            pl.Float64,
            "slope over the later half of the points minus that over the earlier half, over the slope",
        ),
        Column("points", pl.Int64, "shots behind the line"),
        Column("outside", pl.Int64, "shots left out since p is not between beta and gamma"),
        Column("unresolved", pl.Int64, "shots left out since the belief is within .02 of 0 or 1"),
        PROMPTS,
        REASON,
    ),
)
LOG_ODDS = Schema(
    "log_odds",
    (
        Column("learner", pl.String, "whose log-odds, and how they were got"),
        _SHOTS,
        Column("p", pl.Float64, "the curve of the mean log-odds of the right answer", "probability"),
        Column("fitted", pl.Float64, "the article's model fitted to it", "probability"),
        Column("log_odds", pl.Float64, "log-odds of the task, read off p or the posterior's own", "nats"),
    ),
)
EXTRAPOLATION = Schema(
    "extrapolation",
    (
        Column("learner", pl.String, "whose curve, exp of the mean log-probability"),
        Column("share", pl.Float64, "share of the shots that the family was fitted to", "share"),
        Column("family", pl.String, "family of curves"),
        Column("fitted", pl.Int64, "shots fitted"),
        Column("held_out", pl.Int64, "later shots, which the fit is judged on"),
        Column("inside", pl.Float64, "NRMSE on the fitted shots"),
        Column("error", pl.Float64, "NRMSE on the later shots"),
        Column("low", pl.Float64, "lower 95% bound of the error, prompts resampled"),
        Column("high", pl.Float64, "upper 95% bound of the error"),
        Column("parameters", pl.String, "the fitted parameters; not all are identifiable"),
        Column("step", pl.Float64, "bayesian: K log(gamma / beta), which is identifiable", "nats"),
        REASON,
    ),
)
AGAINST = Schema(
    "against",
    (
        Column("learner", pl.String, "whose curve"),
        Column("share", pl.Float64, "share of the shots fitted", "share"),
        Column("other", pl.String, "the family that the Bayesian one is compared with"),
        Column("worse", pl.Float64, "its error minus the Bayesian one; positive: the Bayesian is nearer"),
        Column("low", pl.Float64, "lower 95% bound, paired, prompts resampled"),
        Column("high", pl.Float64, "upper 95% bound"),
        Column("tied", pl.Boolean, "within .01, or the bounds include 0, or there is no number"),
    ),
)
PREDICTED = Schema(
    "predicted",
    (
        Column("curve", pl.String, "the model, or a family fitted to the first half of its shots"),
        _SHOTS,
        Column("p", pl.Float64, "exp of the mean log-probability of the right answer", "probability"),
    ),
)
HEAD_GROUPS = Schema(
    "head_groups",
    (
        Column("group", pl.String, "what the heads were named, on the selection half of the prompts"),
        Column("heads", pl.String, "the heads, cut together"),
        Column("size", pl.Int64, "how many heads"),
        Column("damage", pl.Float64, "fall of the answer's log-probability after all pairs", "nats"),
        *bounds("the fall", "nats"),
        Column("random_mean", pl.Float64, "mean fall with as many random heads cut", "nats"),
        Column("random_max", pl.Float64, "largest fall among the random sets", "nats"),
        Column("random_worst", pl.String, "the heads of that set"),
        Column("random_sets", pl.Int64, "how many random sets were cut"),
        Column("p", pl.Float64, "share of sets, this one included, with at least this fall", "probability"),
        PROMPTS,
        REASON,
    ),
)
CUT_CURVES = Schema(
    "cut_curves",
    (
        Column("cut", pl.String, "which heads are replaced by their mean over label-shuffled prompts"),
        _SHOTS,
        Column("p", pl.Float64, "mean probability of the function's value", "probability"),
        *bounds("the mean", "probability"),
        PROMPTS,
    ),
)
