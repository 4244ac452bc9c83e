"""Is blocking attention to an example the same as removing the example? Dose and response of attention knockout.

In: a model and settings. Out: log-odds of the answer when k of the n examples are taken away in several ways, the
same examples each time (those of k are among those of k + 1), and the claim "edge_is_example". *Removed from the
prompt* is the reference. *Hidden from every later token* differs from it by positions alone. *Hidden from the final
token*, in all heads or in those that attend to labels, is the question: what an example gave to other examples still
arrives through these. Attention knockout: Geva et al. 2023.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from headscope import tasks
from headscope.detectors import NAMED_MARGIN
from headscope.evidence import claim, every, lines, table
from headscope.evidence.comparisons import head_names
from headscope.interventions import knock_out
from headscope.interventions.base import Intervention
from headscope.measures.intervals import Array
from headscope.measures.readouts import ANSWERING
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import (
    LOG_ODDS,
    RISE,
    answer_log_odds,
    examples_help,
    label_reading_heads,
    log_odds_under,
)
from headscope.studies.bayes.problems import Ctx, example_spans, prompts_each, with_role
from headscope.studies.context import Part
from headscope.sweeps import Cell
from headscope.tables import Column, Quantity
from headscope.tasks.functions import Ints
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head

MOST_DOSES = 6
# Of what all examples together add to the log-odds, two ways may differ by this share at every dose.
MARGIN = 0.1

REMOVED = "removed from the prompt"
HIDDEN = "hidden from every later token"
FINAL_TOKEN = "hidden from the final token"
LABEL_READERS = "hidden from label-reading heads"

WAY = Column("way", pl.String, "how the examples are taken away")
TAKEN = Column("taken", pl.Int64, "examples taken away, of all")
EXCESS = Quantity("excess_log_odds", "log-odds minus those with the examples removed from the prompt", "nats")


def attention_knockout(ctx: Ctx) -> Part:
    """What is left when the final token no longer sees some of the examples?"""
    n = prompts_each(ctx.settings)
    selection = tasks.linear(ctx.model, ctx.settings.draw(ctx.model, n=n, seed=22))
    heads = label_reading_heads(ctx.model, selection, NAMED_MARGIN)
    log_odds = _log_odds(ctx, heads)
    others = [way for way in log_odds.coordinates("way") if way != REMOVED]
    figure = lines(
        log_odds,
        "taken",
        colour="way",
        name="attention_knockout",
        title="Examples removed, and attention to them blocked",
        caption=f"Log-odds of the answer with so many examples taken away, mean over {n} prompts. Where "
        "“hidden from the final token” stays above “removed”, other tokens still pass on the examples.",
    )
    note = (
        "Hidden examples stay in the prompt; attention is rescaled as if the softmax had left them out. "
        f"Heads that attend to labels, named on other prompts: {head_names(heads) or 'none'}."
    )
    return Part(
        tables=[
            table(log_odds, "attention_knockout"),
            table([excess(log_odds, way).labelled(WAY, way) for way in others], "knockout_against_removal"),
        ],
        claims=[edge_is_example(log_odds)],
        figures=[figure],
        notes=[note],
    )


def excess(log_odds: Samples, way: str) -> Samples:
    """What is left in one way beyond what is left without the examples, [prompt, taken]."""
    by_way = log_odds.by("way")
    return (by_way[way] - by_way[REMOVED]).measured_as(EXCESS)


def edge_is_example(log_odds: Samples) -> Claim:
    """By log-odds [prompt, (way, taken)]: equivalent at every dose, or different at one, by joint bounds."""
    removed = log_odds.at(way=REMOVED)
    doses = [taken for taken in removed.coordinates("taken") if taken]
    rise = (removed.at(taken=0) - removed.at(taken=max(doses))).measured_as(RISE)
    blocked = excess(log_odds, FINAL_TOKEN).only(taken=doses)
    # Prompt by prompt: what the examples add, of which the margin is a share, is estimated too.
    less = rise.changed(EXCESS, lambda values: -MARGIN * values)
    return claim(
        "edge_is_example",
        "Blocking attention from the final token to an example has the same effect as removing the example.",
        needs=[examples_help(rise)],
        tests=[
            every(f"hidden from the final token minus removed, plus {MARGIN:g} of all", blocked - less, above=0.0),
            every(f"removed minus hidden from the final token, plus {MARGIN:g} of all", -blocked - less, above=0.0),
        ],
        tables=("attention_knockout", "knockout_against_removal"),
    )


def _log_odds(ctx: Ctx, heads: Sequence[Head]) -> Samples:
    model, settings = ctx.model, ctx.settings
    shots = settings.draw(model, n=prompts_each(settings), seed=21)
    count = shots.x.shape[1]
    numbered = np.tile(np.arange(count), (len(shots), 1))
    order = np.random.default_rng((settings.seed, 21)).permuted(numbered, axis=1)
    doses = np.unique(np.linspace(0, count, min(count, MOST_DOSES) + 1).round().astype(int)).tolist()
    values: dict[tuple[str, int], Array] = {}
    for done, dose in enumerate(doses):
        ctx.progress("examples removed from the prompt", done, len(doses))
        fewer = shots.keeping(np.sort(order[:, dose:], axis=1))
        values[REMOVED, dose] = answer_log_odds(model, tasks.linear(model, fewer))
    whole = tasks.linear(model, shots)
    clean, marked = answer_log_odds(model, whole), _marked(whole, order, doses)
    for way in (HIDDEN, FINAL_TOKEN, LABEL_READERS) if heads else (HIDDEN, FINAL_TOKEN):
        cells = [Cell(_hiding(way, dose, heads)) for dose in doses if dose]
        under = log_odds_under(ctx, marked, cells, f"examples {way}")
        values |= {(way, dose): each for dose, each in zip(doses, (clean, *under), strict=True)}
    return Samples.of(LOG_ODDS, (WAY, TAKEN), values)


def _marked(prompts: Prompts, order: Ints, doses: Sequence[int]) -> Prompts:
    """The prompts with roles "taken k" and "left k": the tokens of the first k examples in `order`, and the rest."""
    spans = example_spans(prompts)
    for dose in doses:
        taken = [
            [p for example in row[:dose] for p in own[example]]
            for own, row in zip(spans, order.tolist(), strict=True)
        ]
        left = [sorted({*range(n)} - {*gone}) for n, gone in zip(prompts.lengths, taken, strict=True)]
        prompts = with_role(with_role(prompts, f"taken {dose}", taken), f"left {dose}", left)
    return prompts


def _hiding(way: str, k: int, heads: Sequence[Head]) -> tuple[Intervention, ...]:
    """What hides the examples "taken k" in this way."""
    if way == LABEL_READERS:
        return (knock_out(heads, ANSWERING, f"taken {k}"),)
    final = knock_out(("z", "all"), ANSWERING, f"taken {k}")
    return (final,) if way == FINAL_TOKEN else (knock_out(("z", "all"), f"left {k}", f"taken {k}"), final)
