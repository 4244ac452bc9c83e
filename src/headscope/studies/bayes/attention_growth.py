"""Does the final token attend more to the examples, the more there are, as a sum of features needs?

In: a model and settings. Out: every head's total attention from the final token on the examples, by their number,
and the claim "attention_grows". A softmax averages: what a head writes of n like examples is their mean times its
total attention on them. For n examples to add up to n times one feature that total must grow with n; for a head that
has nowhere else to attend it stays near 1. Growth is the exponent e of total ~ n^e from one example to all: 1 for a
sum, 0 for an average.
"""

import numpy as np
import polars as pl

from headscope import tasks
from headscope.evidence import any_of, claim, lines, table
from headscope.measures.samples import HEAD, LAYER, Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import attention_on
from headscope.studies.bayes.problems import Ctx, example_spans, prompts_each, truncated_context
from headscope.studies.context import Part
from headscope.tables import Column, Quantity
from headscope.tasks.split import Split

# A head that puts less than this on all examples together brings little from them, however that grows.
LEAST_ATTENTION = 0.1
# Half of what a sum needs.
GROWTH_MARGIN = 0.5
MOST_LINES = 6

ATTENTION = Quantity(
    "attention", "attention of the final token on all tokens of all examples together", within=(0.0, 1.0)
)
EVEN = Quantity("even_attention", "the same for a head that attends evenly", within=(0.0, 1.0))
GROWTH = Quantity("growth", "exponent e of attention ~ n^e from one example to all: 1 a sum, 0 an average")
SHOTS = Column("shots", pl.Int64, "examples before the query")
ATTENDS = Column("attends", pl.Boolean, "attends to the examples, on the half of the prompts that selects")


def attention_growth(ctx: Ctx) -> Part:
    """Does the attention on examples grow with their number?"""
    attention, even = (samples.halves() for samples in _attention(ctx))
    growth = attention.map(growth_of)
    last = max(attention.selection.coordinates("shots"))
    selected = attention.selection.at(shots=last)
    attends = [cell[1] for cell, mean in zip(selected.cells, selected.mean, strict=True) if mean >= LEAST_ATTENTION]
    listed = {cell: cell[1] in attends for cell in growth.estimation.cells}
    whole = attention.estimation.at(shots=last)
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
        title="Attention of the final token on all examples together",
        caption=f"The {MOST_LINES} heads whose attention grows fastest, beside one that attends evenly; mean over "
        f"{len(whole.units)} prompts. A sum of features needs a straight line through 0, an average a level one.",
    )
    return Part(
        tables=[
            table(attention.estimation, "attention_on_examples", beside=(even.estimation,)),
            table(growth.estimation, "attention_growth", beside=(whole,), more={ATTENDS: listed}, jointly=True),
        ],
        claims=[attention_grows(growth, attends)],
        figures=[figure],
    )


def growth_of(attention: Samples) -> Samples:
    """The exponent from one example to all, [prompt, head]."""
    by_shots = attention.by("shots")
    fewest, most = min(by_shots), max(by_shots)
    first, last = (np.maximum(by_shots[n].values, 1e-9) for n in (fewest, most))
    return by_shots[most].changed(GROWTH, lambda _: np.log(last / first) / np.log(most))


def attention_grows(growth: Split[Samples], attends: list[str]) -> Claim:
    """By the head whose attention grows most on other prompts, among those that attend to the examples there."""
    grown, others = (samples.only(head=attends) for samples in growth)
    exponent = "exponent of a head's total attention over the number of examples"
    reason = f"no head puts {LEAST_ATTENTION} of its attention on the examples"
    return claim(
        "attention_grows",
        "Some head's total attention from the final token to the examples grows at least half as fast as they do.",
        tests=[any_of(exponent, others.choosing(head=grown.best("head")), above=GROWTH_MARGIN, reason=reason)],
        tables=("attention_growth", "attention_on_examples"),
    )


def _attention(ctx: Ctx) -> tuple[Samples, Samples]:
    """Attention on the examples, and that of an even head, [prompt, (layer, head, shots)]: 1, 2, 4, ..., all."""
    model = ctx.model
    shots = ctx.settings.draw(model, n=2 * prompts_each(ctx.settings), seed=11)
    most = shots.x.shape[1]
    counts = [*(2**power for power in range(most.bit_length()) if 2**power < most), most]
    read = []
    for done, count in enumerate(counts):
        ctx.progress("attention on examples", done, len(counts))
        prompts = tasks.linear(model, truncated_context(shots, count))
        keys = [[position for span in spans for position in span] for spans in example_spans(prompts)]
        read.append(attention_on(model, prompts, keys))
    cells = tuple((head.layer, str(head), count) for head in model.heads for count in counts)
    axes = (LAYER, HEAD, SHOTS)
    values = (np.stack(each, axis=2).reshape(len(shots), -1) for each in zip(*read, strict=True))
    attention, even = (
        Samples(quantity=quantity, axes=axes, cells=cells, values=each)
        for quantity, each in zip((ATTENTION, EVEN), values, strict=True)
    )
    return attention, even
