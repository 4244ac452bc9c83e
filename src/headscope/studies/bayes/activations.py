"""What is read off a model of pairs: log-odds of answers, attention of the final token on labels.

In: a model and prompts of pairs. Out: numpy arrays, one value per prompt. Log-odds are those of the whole answer,
all its tokens together, so that models of number tokens and models of text are asked alike.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.detectors.roles import example_to_example
from headscope.evidence import Test, claim
from headscope.measures import joint_log_probability
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.sweeps import Cell, evaluate
from headscope.sweeps.cell_values import cell_values
from headscope.tables import Column, Quantity
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head

LOG_ODDS = Quantity("log_odds", "log-odds of the answer", "nats")
RISE = Quantity("rise", "what the examples add to the log-odds of the answer", "nats")
# Log-odds of the answer that the examples must add before anything is said of how they do it, in nats.
LEAST_RISE_NATS = 0.5
RESIDUAL = Column("layer", pl.Int64, "residual stream before this layer, from 0; the last: after all layers")


def examples_help(rise: Samples) -> Test:
    """What claims about how examples act need: that they add to the log-odds of the answer, [prompt]."""
    return Test("log-odds that the examples add", rise, above=LEAST_RISE_NATS)


def beyond_share(what: str, difference: Samples, whole: Samples, share: float) -> Test:
    """That a difference exceeds a share of a whole, both [unit]: unit by unit, since the whole is estimated too."""
    more = difference.changed(difference.quantity, lambda values: values - share * whole.linear)
    return Test(f"{what}, minus {share:g} of what examples add", more, above=0.0)


def unanswered(name: str, statement: str, reason: str) -> Part:
    """A question that cannot be asked of this model: an undetermined claim, and why."""
    return Part(claims=[claim(name, statement, tests=[Test("effect", None, above=0.0, reason=reason)])])


def answer_log_odds(model: Model, prompts: Prompts) -> Array:
    """Log-odds of each prompt's whole answer, in nats, [prompt]."""
    (log_probability,) = evaluate(model, prompts.answered(), [joint_log_probability()])
    return log_odds(log_probability).numpy()


def log_odds_under(ctx: Ctx, prompts: Prompts, cells: Sequence[Cell], stage: str) -> Array:
    """The same under the interventions of every cell, [cell, prompt]."""
    measure = joint_log_probability()
    values = cell_values(ctx.model, prompts.answered(), cells, measure, progress=ctx.stage(stage))
    return log_odds(values).numpy()


def label_attention(model: Model, prompts: Prompts) -> tuple[Array, Array, Array]:
    """Attention of the final token on all labels, each [prompt, head], with heads as in `model.heads`.

    And its attention on as many x around these, and what a head gives that spreads evenly over all it may see.
    """
    keys, final = example_to_example(prompts), prompts.where("readout")
    reading = MassReading([KeySets(keys.pairs & final[:, :, None], keys.queries & final, keys.others)])
    model.read(prompts, [reading])
    even = torch.stack([reading.uniform[head.layer][0] for head in model.heads], 1)
    labels, others = reading.over_layers(0)
    return labels.numpy(), others.numpy(), even.double().numpy()


def label_reading_heads(model: Model, prompts: Prompts, margin: float) -> tuple[Head, ...]:
    """The heads whose attention from the final token on labels exceeds that on as many x by `margin` on average."""
    labels, others, _ = label_attention(model, prompts)
    beyond = np.mean(labels - others, axis=0)
    return tuple(head for head, more in zip(model.heads, beyond.tolist(), strict=True) if more > margin)
