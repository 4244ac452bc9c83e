"""Whether an example moves the model more, the surer it makes an observer: the third step of the article's claim 3.

In: a model and the settings of a study of pairs. Out: a Part with correlations between the size of the update by
the n-th example and confidence (`confidence`), and the claim "the update grows with confidence". Sizes: the change of
the answer's log-odds, and the norm of the change of what attention adds at the read-out. Confidence: the exact
posterior's probability of its favourite function, after and before the example, and the model's own |log-odds|
before it. Both change with n whatever goes on, so they are correlated *within* each n, over prompts; a prompt is
one unit however many n it gives. The exact observer's own updates stand beside the model's.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch

from headscope import tasks
from headscope.figures import bars_with_intervals
from headscope.measures import exact_predictive, hypothesis_posterior, side
from headscope.measures.clusters import shared_variation
from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.models.model import Model
from headscope.results.study import Claim, Figure
from headscope.studies.bayes_parts.features import all_of
from headscope.studies.bayes_parts.inside import LEAST_RISE_NATS, Progress, answer_log_odds, at_readout
from headscope.studies.bayes_parts.problems import first_pairs, prompts_each
from headscope.studies.pairs import PairsConfig
from headscope.studies.parts import Part
from headscope.studies.words import number, undetermined, with_bounds
from headscope.tables import Column, Schema, Table
from headscope.tasks.linear import functions_of
from headscope.tasks.shots import Shots

MOST_EXAMPLES = 12
MARGIN = 0.1

OUTPUT, ATTENTION, EXACT = "change of log-odds", "change of attention's output", "exact observer's change"
AFTER, BEFORE, MODELS = "certainty after the example", "certainty before it", "model's |log-odds| before it"
CONFIDENCES = (AFTER, BEFORE, MODELS)
CONFIDENCE = Schema(
    "confidence",
    (
        Column("update", pl.String, "size of the update by the n-th example"),
        Column("confidence", pl.String, "what it is compared with"),
        Column("correlation", pl.Float64, "rank correlation over prompts within each n, averaged over n"),
        *bounds("the correlation"),
        Column("shuffled", pl.Float64, "the same with the confidence of another prompt"),
        PROMPTS,
    ),
)
_NAME = "update_grows"
_STATEMENT = (
    "The update grows with confidence: among prompts with equally many examples, the last example changes the answer "
    "and what attention brings more where it leaves the exact posterior surer of one function."
)


def part(config: PairsConfig, model: Model, progress: Progress) -> Part:
    """Do sure examples move the model more?"""
    shots = config.draw(model, n=prompts_each(config), seed=51)
    language = functions_of(model)
    noise = shots.noise if language is None else language.noise
    last = min(shots.x.shape[1], MOST_EXAMPLES)
    sites = [("attn_out", layer) for layer in model.anatomy.attending if model.has("attn_out", layer)]
    if not sites:
        because = "what attention adds to the stream is not served on this model."
        return Part(
            {"confidence": CONFIDENCE.table([])}, (undetermined(_NAME, _STATEMENT, because, "confidence"),)
        )
    known, written, certain, exact = [], [], [], []
    for n in range(last + 1):
        progress("updates by each example", n, last + 1)
        some = first_pairs(shots, n)
        prompts = tasks.linear(model, some)
        known.append(answer_log_odds(model, prompts))
        written.append(at_readout(model, prompts, sites).sum(0))
        certain.append(_certainty(some, noise))
        exact.append(_exact_log_odds(some, noise))
    odds, certainty = np.stack(known, axis=1), np.stack(certain, axis=1)
    moved = np.linalg.norm(np.diff(np.stack(written, axis=1), axis=1), axis=-1)
    sizes = {
        OUTPUT: np.abs(np.diff(odds, axis=1)),
        ATTENTION: moved,
        EXACT: np.abs(np.diff(np.stack(exact, axis=1), axis=1)),
    }
    confidence = {AFTER: certainty[:, 1:], BEFORE: certainty[:, :-1], MODELS: np.abs(odds[:, :-1])}
    found = {(u, c): shared_variation(sizes[u], confidence[c]) for u in sizes for c in confidence}
    other = np.roll(np.arange(len(shots)), 1)
    null = {(u, c): shared_variation(sizes[u], confidence[c][other]) for u in sizes for c in confidence}
    table = _table(found, null)
    notes = (
        f"The exact posterior of the table confidence has a uniform prior over all functions of the family and "
        f"expects {noise:.0%} wrong labels.",
    )
    return Part({"confidence": table}, (judged(found, odds[:, -1] - odds[:, 0]),), _figures(table), notes)


def judged(found: Mapping[tuple[str, str], Array], rise: Array) -> Claim:
    """Supported if both sizes go with the certainty that the example leaves; refuted if one clearly does not."""
    worth = estimated(rise, "rise")
    if not worth["low"] > LEAST_RISE_NATS:
        because = (
            f"the examples add {with_bounds(worth, 'rise')} nats to the log-odds of the answer: there are no updates "
            f"to speak of (margin {LEAST_RISE_NATS})."
        )
        return undetermined(_NAME, _STATEMENT, because, "confidence")
    rows = {update: estimated(found[update, AFTER], "r") for update in (OUTPUT, ATTENTION)}
    if any(row["r"] != row["r"] for row in rows.values()):
        because = (
            "the exact posterior is as sure for every prompt: there is nothing that updates could go with."
        )
        return undetermined(_NAME, _STATEMENT, because, "confidence")
    verdict = all_of([side(row["low"], row["high"], MARGIN) for row in rows.values()])
    exact, before = (float(found[key].mean()) for key in ((EXACT, AFTER), (OUTPUT, BEFORE)))
    because = (
        f"Within equal numbers of examples, the certainty after an example has rank correlation "
        f"{with_bounds(rows[OUTPUT], 'r')} with the change of the answer's log-odds and "
        f"{with_bounds(rows[ATTENTION], 'r')} with the change of what attention adds at the read-out (margin "
        f"{MARGIN}); for an exact observer the first is {number(exact)}. With the certainty before the example "
        f"the model's is {number(before)}."
    )
    return Claim(_NAME, _STATEMENT, verdict, because, ("confidence",))


def _certainty(shots: Shots, noise: float) -> Array:
    """The exact posterior's probability of its favourite function, given all pairs, [prompt]."""
    functions = shots.functions
    found = hypothesis_posterior(
        torch.from_numpy(shots.hypotheses),
        torch.from_numpy(shots.y),
        torch.from_numpy(functions.prior("grid")),
        noise=noise,
        n_answers=functions.n_numbers,
    )
    favourite: Array = found[:, -1].max(-1).values.numpy()
    return favourite


def _exact_log_odds(shots: Shots, noise: float) -> Array:
    """The exact observer's log-odds of the answer, [prompt]."""
    answer = torch.from_numpy(shots.answer)[:, None]
    predicted = exact_predictive(shots, "grid", noise=noise)[:, -1].gather(1, answer)[:, 0]
    return log_odds(predicted.log()).numpy()


def _table(found: Mapping[tuple[str, str], Array], null: Mapping[tuple[str, str], Array]) -> Table:
    return CONFIDENCE.table(
        {
            "update": update,
            "confidence": confidence,
            **estimated(values, "correlation"),
            "shuffled": float(null[update, confidence].mean()),
        }
        for (update, confidence), values in found.items()
    )


def _figures(table: Table) -> tuple[Figure, ...]:
    return (
        bars_with_intervals(
            table,
            "update",
            "correlation",
            "low",
            "high",
            group="confidence",
            title="Whether surer examples move the model more",
            caption="Rank correlation between the size of the update by an example and confidence, over prompts with "
            "equally many examples.",
            name="confidence",
        ),
    )
