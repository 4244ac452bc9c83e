"""Measures of a run, and intervals over prompts."""

from headscope.measures.intervals import FEWEST, Estimate, interval
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

__all__ = [
    "FEWEST",
    "Estimate",
    "Measure",
    "ReadOut",
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
]
