"""Measures of a run, intervals over prompts, bounds for all heads at once, and judgements against a margin."""

from headscope.measures.equivalence import Change, Outcome, change, changes
from headscope.measures.intervals import MIN_UNITS, Estimate, interval
from headscope.measures.posterior import exact_predictive, hypothesis_posterior, posterior_predictive
from headscope.measures.readouts import (
    Measure,
    ReadOut,
    joint_log_probability,
    joint_probability,
    kl,
    log_probability,
    logit_difference,
    loss,
    next_logit,
    probability,
    rank,
)
from headscope.measures.simultaneous import Simultaneous, simultaneous

__all__ = [
    "MIN_UNITS",
    "Change",
    "Estimate",
    "Measure",
    "Outcome",
    "ReadOut",
    "Simultaneous",
    "change",
    "changes",
    "exact_predictive",
    "hypothesis_posterior",
    "interval",
    "joint_log_probability",
    "joint_probability",
    "kl",
    "log_probability",
    "logit_difference",
    "loss",
    "next_logit",
    "posterior_predictive",
    "probability",
    "rank",
    "simultaneous",
]
