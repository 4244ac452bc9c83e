"""Whether losing the edge to an example is losing the example: dose-response of knocked-out attention.

In: a model and the settings of a study of pairs. Out: a Part with the log-odds of the answer when k of the n
examples are taken away in four ways (`edges`), the same examples each time, and the claim "the edge is the
example". The examples taken are drawn for each prompt, those of k among those of k + 1. Taken away *from the
prompt* is the reference; *hidden from every later token* is the control that must agree with it but for
positions; *from the read-out*, in all heads or in those that look at the shown y, is the question: what an example
gave to other examples still reaches the read-out through them. Method: attention knockout (Geva et al. 2023).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from headscope import tasks
from headscope.detectors import NAMED_MARGIN
from headscope.figures import lines
from headscope.interventions import knock_out
from headscope.interventions.base import Intervention
from headscope.measures import Outcome, changes, interval, simultaneous
from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import Array
from headscope.measures.readouts import ANSWERING
from headscope.models.model import Model
from headscope.results.study import Claim, Figure, Verdict
from headscope.studies.bayes_parts.inside import (
    LEAST_RISE_NATS,
    Progress,
    answer_log_odds,
    log_odds_under,
    looking_at_labels,
)
from headscope.studies.bayes_parts.problems import prompts_each, spans_of_examples, with_role
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import number, undetermined, with_bounds
from headscope.sweeps import Cell
from headscope.tables import Column, Schema, Table
from headscope.tasks.functions import Ints
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Head

MOST_DOSES = 6
# Of what all examples together add to the log-odds, the two ways may differ by this share at every dose.
MARGIN = 0.1

REMOVED = "taken from the prompt"
HIDDEN = "hidden from every later token"
READOUT = "hidden from the read-out"
HEADS = "hidden from the read-out's heads that look at y"

EDGES = Schema(
    "edges",
    (
        Column("way", pl.String, "how the examples are taken away"),
        Column("taken", pl.Int64, "examples taken away, of all"),
        Column("log_odds", pl.Float64, "of the answer", "nats"),
        *bounds("the log-odds", "nats"),
        Column("more", pl.Float64, "log-odds minus those with the examples taken from the prompt", "nats"),
        Column("more_low", pl.Float64, "lower 95% bound of the difference over prompts", "nats"),
        Column("more_high", pl.Float64, "upper 95% bound of the difference over prompts", "nats"),
        PROMPTS,
    ),
)
_NAME = "edge_is_example"
_STATEMENT = (
    "Losing the edge is losing the example: hidden from the read-out, an example is worth no more than if it had "
    "never been in the prompt."
)


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """What is left when the read-out no longer sees some of the examples?"""
    shots = config.draw(model, n=prompts_each(config), seed=21)
    count = shots.x.shape[1]
    order = np.random.default_rng((config.seed, 21)).permuted(
        np.tile(np.arange(count), (len(shots), 1)), axis=1
    )
    doses = np.unique(np.linspace(0, count, min(count, MOST_DOSES) + 1).round().astype(int)).tolist()
    whole = tasks.linear(model, shots)
    selection = tasks.linear(model, config.draw(model, n=prompts_each(config), seed=22))
    heads = looking_at_labels(model, selection, NAMED_MARGIN)
    clean = answer_log_odds(model, whole)

    left = []
    for done, dose in enumerate(doses):
        progress("examples taken from the prompt", done, len(doses))
        fewer = shots.keeping(np.sort(order[:, dose:], axis=1))
        left.append(answer_log_odds(model, tasks.linear(model, fewer)))
    found = {REMOVED: np.stack(left, axis=1)}
    marked = _marked(whole, order, doses)
    for way, cut in _ways(heads).items():
        cells = [Cell(cut(dose)) for dose in doses if dose]
        values = log_odds_under(model, marked, cells, f"examples {way}", progress)
        found[way] = np.concatenate((clean[:, None], values.T), axis=1)

    table = _table(found, doses)
    notes = (
        "Hidden examples stay in the prompt: positions are those of all examples. What is left of a row of attention "
        "is scaled up, as a softmax that never saw the keys would give it. Heads that look at y were named on other "
        f"prompts: {' '.join(map(str, heads)) or 'none'}.",
    )
    return Part({"edges": table}, (judged(found, doses),), _figures(table), notes)


def judged(found: Mapping[str, Array], doses: Sequence[int]) -> Claim:
    """By `found` [prompt, dose]: equivalent at every dose, or different at one, all doses considered together."""
    removed, edge, hidden = found[REMOVED], found[READOUT], found[HIDDEN]
    worth = estimated(removed[:, 0] - removed[:, -1], "worth")
    if not worth["low"] > LEAST_RISE_NATS:
        because = (
            f"all {doses[-1]} examples together add {with_bounds(worth, 'worth')} nats to the log-odds of the "
            f"answer: there is too little to lose (margin {LEAST_RISE_NATS})."
        )
        return undetermined(_NAME, _STATEMENT, because, "edges")
    margin = MARGIN * worth["worth"]
    more = (edge - removed)[:, 1:]
    every = changes(more, margin=margin)
    together = simultaneous(more)
    worst = int(np.abs(more.mean(0)).argmax())
    beyond = (together.low > margin) | (together.high < -margin)
    if all(one.outcome is Outcome.EQUIVALENT for one in every):
        verdict = Verdict.SUPPORTED
    else:
        verdict = Verdict.REFUTED if beyond.any() else Verdict.UNDETERMINED
    half = int(np.abs(np.array(doses) - doses[-1] / 2).argmin())
    at = f"{doses[half]} of {doses[-1]}"
    because = (
        f"All {doses[-1]} examples add {with_bounds(worth, 'worth')} nats. With {at} taken from the prompt "
        f"{_lost(removed, half)} is lost, hidden from every later token {_lost(removed, half, hidden)}, hidden from "
        f"the read-out alone {_lost(removed, half, edge)}. The two differ most with {doses[worst + 1]} taken: "
        f"{number(every[worst].mean)} [{number(together.low[worst])}, {number(together.high[worst])}] nats, "
        f"bounds for all doses at once (margin {number(margin)})."
    )
    return Claim(_NAME, _STATEMENT, verdict, because, ("edges",))


def _lost(removed: Array, dose: int, way: Array | None = None) -> str:
    lost = removed[:, 0] - (removed if way is None else way)[:, dose]
    return number(float(lost.mean()))


def _marked(prompts: Prompts, order: Ints, doses: Sequence[int]) -> Prompts:
    """The prompts with roles "taken k" and "left k": the tokens of the first k examples in `order`, and the rest."""
    spans = spans_of_examples(prompts)
    for dose in doses:
        taken = [
            [p for example in row[:dose] for p in own[example]]
            for own, row in zip(spans, order.tolist(), strict=True)
        ]
        left = [
            [p for p in range(length) if p not in set(gone)]
            for length, gone in zip(prompts.lengths, taken, strict=True)
        ]
        prompts = with_role(with_role(prompts, f"taken {dose}", taken), f"left {dose}", left)
    return prompts


def _ways(heads: Sequence[Head]) -> dict[str, Callable[[int], tuple[Intervention, ...]]]:
    """Each way of hiding the examples "taken k", by k."""

    def from_readout(k: int) -> tuple[Intervention, ...]:
        return (knock_out(("z", "all"), ANSWERING, f"taken {k}"),)

    def from_all(k: int) -> tuple[Intervention, ...]:
        return (knock_out(("z", "all"), f"left {k}", f"taken {k}"), *from_readout(k))

    def from_heads(k: int) -> tuple[Intervention, ...]:
        return (knock_out(heads, ANSWERING, f"taken {k}"),)

    return {HIDDEN: from_all, READOUT: from_readout, **({HEADS: from_heads} if heads else {})}


def _table(found: Mapping[str, Array], doses: Sequence[int]) -> Table:
    rows = []
    for way, values in found.items():
        more = interval(values - found[REMOVED])
        for index, dose in enumerate(doses):
            beside = {
                "more": float(more.mean[index]),
                "more_low": float(more.low[index]),
                "more_high": float(more.high[index]),
            }
            rows.append({"way": way, "taken": dose, **estimated(values[:, index], "log_odds"), **beside})
    return EDGES.table(rows)


def _figures(table: Table) -> tuple[Figure, ...]:
    return (
        lines(
            table,
            "taken",
            "log_odds",
            "way",
            "low",
            "high",
            title="Examples lost, and edges to them lost",
            caption="Log-odds of the answer with so many examples taken away, the same ones in every line. Where "
            "“hidden from the read-out” stays above “taken from the prompt”, what the examples gave to other tokens "
            "still arrives.",
            name="edges",
        ),
    )
