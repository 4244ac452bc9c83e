"""Does the final token attend more to the labels, the more examples there are, as a sum of features needs?

In: a model and settings. Out: every head's total attention from the final token on the labels of the examples, by
their number, and the claim "attention_grows". A softmax averages: what a head writes of n like labels is their mean
times its total attention on them. For n of them to add up to n times one feature that total must grow with n; for a
head that has nowhere else to attend it stays level. Growth is the exponent e of total ~ n^e, by least squares through
all numbers of examples: 1 for a sum, 0 for an average. A random head may grow, too, from next to nothing: attention
below a floor counts as that; an even head's grows since examples come to fill the prompt; and whoever attends to any
numbers attends as much to the x around the labels. What grows must exceed both.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from headscope import tasks
from headscope.evidence import Test, any_of, claim, lines, table
from headscope.measures.log_odds import slope
from headscope.measures.samples import HEAD, LAYER, Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import label_attention
from headscope.studies.bayes.problems import Ctx, prompts_each, truncated_context
from headscope.studies.context import Part
from headscope.tables import Column, Quantity
from headscope.tasks.split import Split

# A head that puts less than this on all labels, beyond as many x, brings little from them, however that grows.
LEAST_ATTENTION = 0.1
# Attention below this counts as this: the logarithm of next to nothing is wild.
FLOOR = 0.02
# Half of what a sum needs; and half of that beyond an even head.
GROWTH_MARGIN = 0.5
EVEN_MARGIN = 0.25
MOST_LINES = 6

ATTENTION = Quantity("attention", "attention of the final token on all labels together", within=(0.0, 1.0))
EVEN = Quantity("even_attention", "the same for a head that attends evenly", within=(0.0, 1.0))
OTHERS = Quantity("attention_to_x", "the same on as many x around the labels", within=(0.0, 1.0))
GROWTH = Quantity("growth", "exponent e of attention ~ n^e over the numbers of examples: 1 a sum, 0 an average")
SHOTS = Column("shots", pl.Int64, "examples before the query")
ATTENDS = Column("attends", pl.Boolean, "attends to labels beyond x, on the half of the prompts that selects")


def attention_growth(ctx: Ctx) -> Part:
    """Does the attention on labels grow with their number?"""
    attention, others, even = (samples.halves() for samples in _attention(ctx))
    last = max(attention.selection.coordinates("shots"))
    beyond = Split(*((own - x).at(shots=last) for own, x in zip(attention, others, strict=True)))
    growth, of_even = attention.map(growth_of), even.map(growth_of)
    picked = beyond.selection
    attends = [cell[1] for cell, mean in zip(picked.cells, picked.mean, strict=True) if mean >= LEAST_ATTENTION]
    listed = {cell: cell[1] in attends for cell in growth.estimation.cells}
    order = np.argsort(-growth.selection.only(head=attends).mean)
    shown = [attends[place] for place in order[:MOST_LINES]] or [str(ctx.model.heads[0])]
    # The picture needs no layers: a head's name has its own.
    layers = range(ctx.model.n_layers)
    flat = even.estimation.at(layer=layers, head=shown[0]).measured_as(ATTENTION)
    figure = lines(
        [attention.estimation.at(layer=layers).only(head=shown), flat.labelled(HEAD, "even attention")],
        "shots",
        colour="head",
        name="attention_on_examples",
        title="Attention of the final token on all labels together",
        caption=f"The {MOST_LINES} heads whose attention grows fastest, beside one that attends evenly; mean over "
        f"{len(attention.estimation.units)} prompts. A sum needs a straight line through 0, an average a level one.",
    )
    beside = (attention.estimation.at(shots=last), others.estimation.at(shots=last))
    return Part(
        tables=[
            table(attention.estimation, "attention_on_examples", beside=(others.estimation, even.estimation)),
            table(growth.estimation, "attention_growth", beside=beside, more={ATTENDS: listed}, jointly=True),
        ],
        claims=[attention_grows(growth, of_even.estimation, beyond.estimation, attends)],
        figures=[figure],
    )


def growth_of(attention: Samples) -> Samples:
    """The exponent by least squares over all numbers of examples, [prompt, head]."""
    by_shots = attention.by("shots")
    known = np.log(np.maximum(np.stack([each.values for each in by_shots.values()], axis=-1), FLOOR))
    return next(iter(by_shots.values())).changed(
        growth_over([*by_shots]), lambda _: slope(known, np.log([*by_shots]))
    )


def growth_over(shots: Sequence[int]) -> Quantity:
    """The exponent with its range: the steepest way from the floor to all attention there is, and back.

    >>> [round(end, 3) for end in growth_over([1, 8]).within]
    [-1.881, 1.881]
    """
    doses = np.log(shots)
    steepest = float(slope(np.where(doses > doses.mean(), 0.0, math.log(FLOOR)), doses))
    return replace(GROWTH, within=None if math.isnan(steepest) else (-steepest, steepest))


def attention_grows(growth: Split[Samples], even: Samples, beyond: Samples, attends: list[str]) -> Claim:
    """By the head whose attention grows most on other prompts, among those that attend to the labels there.

    `even` [prompt, head] is an even head's growth, `beyond` attention on all labels minus that on as many x.
    """
    grown, others = (samples.only(head=attends) for samples in growth)
    best, reason = grown.best("head"), f"no head puts {LEAST_ATTENTION} of its attention on the labels beyond the x"
    tests: list[Test] = [
        any_of(what, None if best is None else sample.choosing(head=best), above=margin, reason=reason)
        for what, sample, margin in (
            ("exponent of a head's attention over the number of examples", others, GROWTH_MARGIN),
            ("exponent beyond an even head's", others - even.only(head=attends), EVEN_MARGIN),
            ("attention on labels beyond that on as many x", beyond.only(head=attends), LEAST_ATTENTION),
        )
    ]
    return claim(
        "attention_grows",
        "Some head's total attention from the final token to the labels grows at least half as fast as the examples.",
        tests=tests,
        tables=("attention_growth", "attention_on_examples"),
    )


def _attention(ctx: Ctx) -> tuple[Samples, Samples, Samples]:
    """On labels, on x around them, and an even head's, [prompt, (layer, head, shots)]: 1, 2, 4, ..., all."""
    model = ctx.model
    shots = ctx.settings.draw(model, n=2 * prompts_each(ctx.settings), seed=11)
    most = shots.x.shape[1]
    counts = [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
    read = []
    for done, count in enumerate(counts):
        ctx.progress("attention on labels", done, len(counts))
        read.append(label_attention(model, tasks.linear(model, truncated_context(shots, count))))
    cells = tuple((head.layer, str(head), count) for head in model.heads for count in counts)
    labels, x, even = (
        Samples(quantity=quantity, axes=(LAYER, HEAD, SHOTS), cells=cells, values=each)
        for quantity, each in zip(
            (ATTENTION, OTHERS, EVEN),
            (np.stack(each, axis=2).reshape(len(shots), -1) for each in zip(*read, strict=True)),
            strict=True,
        )
    )
    return labels, x, even
