"""Measures of a run, and intervals over prompts."""

from headscope.measures.intervals import FEWEST, Estimate, interval
from headscope.measures.readouts import (
    Measure,
    ReadOut,
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
    "interval",
    "kl",
    "log_probability",
    "logit_difference",
    "loss",
    "next_logit",
    "probability",
    "rank",
]
