"""Measures of a run, intervals over prompts, bounds for all heads at once, and judgements against a margin."""

from headscope.measures.equivalence import Change, Outcome, Side, change, changes, side
from headscope.measures.intervals import FEWEST, Estimate, interval
from headscope.measures.maxima import Simultaneous, simultaneous
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
    "Change",
    "Estimate",
    "Measure",
    "Outcome",
    "ReadOut",
    "Side",
    "Simultaneous",
    "change",
    "changes",
    "interval",
    "kl",
    "log_probability",
    "logit_difference",
    "loss",
    "next_logit",
    "probability",
    "rank",
    "side",
    "simultaneous",
]
