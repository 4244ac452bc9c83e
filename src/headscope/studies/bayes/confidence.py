"""Does an example change the model more, the more certain of one function it makes an exact observer?

In: a model and settings. Out: rank correlations between the size of the update by the n-th example and confidence,
and the claim "update_grows" (step 3 of claim 3 of `sources.REDUNDANT_HEADS`, as a correlation). Sizes: the change of
the answer's log-odds, and the norm of the change of what attention adds at the final token. Confidence: the exact
posterior's probability of its favourite function, after and before the example, and the model's own |log-odds| before
it. Both change with n whatever goes on, so they are correlated *within* each n, over prompts. An exact observer need
not show it (where all is settled early, the last example leaves it certain and moves it little): its own updates are
the positive control. Not done here: causes (update_mediation).
"""

import numpy as np
import polars as pl
import torch

from headscope import tasks
from headscope.evidence import Test, bars, claim, table
from headscope.measures import exact_predictive, hypothesis_posterior
from headscope.measures.clusters import shared_variation
from headscope.measures.intervals import Array
from headscope.measures.log_odds import log_odds
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.activations import RISE, answer_log_odds, examples_help
from headscope.studies.bayes.problems import Ctx, prompts_each, truncated_context
from headscope.studies.context import Part
from headscope.studies.pairs import expected_noise
from headscope.studies.sites import at_final_token, stacked
from headscope.tables import Column, Quantity
from headscope.tasks.shots import Shots

MOST_EXAMPLES = 12
MARGIN = 0.1

OUTPUT, ATTENTION, EXACT = "log-odds", "attention output", "exact observer's log-odds"
AFTER, BEFORE, MODELS = "certainty after", "certainty before", "|log-odds| before"
CORRELATION = Quantity("correlation", "rank correlation over prompts, averaged over n", within=(-1.0, 1.0))
SHUFFLED = Quantity("shuffled", "the same with the confidence of another prompt", within=(-1.0, 1.0))
UPDATE = Column("update", pl.String, "what the last example changes: the size of that change")
CONFIDENCE = Column("confidence", pl.String, "the exact posterior's certainty, or the model's own |log-odds|")


def confidence(ctx: Ctx) -> Part:
    """Do examples that leave an exact observer more certain change the model more?"""
    model = ctx.model
    shots = ctx.settings.draw(model, n=prompts_each(ctx.settings), seed=51)
    noise = expected_noise(model, shots)
    served = [("attn_out", layer) for layer in model.anatomy.attending if model.has("attn_out", layer)]
    last = min(shots.x.shape[1], MOST_EXAMPLES)
    known, written, certain, exact = [], [], [], []
    for n in range(last + 1):
        ctx.progress("updates by each example", n, last + 1)
        some = truncated_context(shots, n)
        prompts = tasks.linear(model, some)
        known.append(answer_log_odds(model, prompts))
        if served:
            written.append(stacked(at_final_token(model, prompts, served)).sum(0))
        certain.append(_certainty(some, noise))
        exact.append(_exact_log_odds(some, noise))
    odds, certainty = np.stack(known, axis=1), np.stack(certain, axis=1)
    sizes = {OUTPUT: np.abs(np.diff(odds, axis=1)), EXACT: np.abs(np.diff(np.stack(exact, axis=1), axis=1))}
    if served:
        sizes[ATTENTION] = np.linalg.norm(np.diff(np.stack(written, axis=1), axis=1), axis=-1)
    confidences = {AFTER: certainty[:, 1:], BEFORE: certainty[:, :-1], MODELS: np.abs(odds[:, :-1])}
    correlation = _correlations(sizes, confidences)
    other = {name: np.roll(values, 1, axis=0) for name, values in confidences.items()}
    shuffled = _correlations(sizes, other).measured_as(SHUFFLED)
    figure = bars(
        correlation,
        "update",
        colour="confidence",
        reference=shuffled,
        name="confidence",
        title="Do examples change the model more where they leave an exact observer more certain?",
        caption="Rank correlation of an update's size with confidence, within equal numbers of examples, over "
        f"{len(shots)} prompts. Stroke: with the confidence of another prompt.",
    )
    after = correlation.at(confidence=AFTER)
    output, ideal = (float(after.at(update=update).mean[0]) for update in (OUTPUT, EXACT))
    return Part(
        tables=[table(correlation, "confidence", beside=(shuffled,))],
        claims=[update_grows(correlation, shuffled, Samples.one(RISE, odds[:, -1] - odds[:, 0]))],
        figures=[figure],
        says=[
            f"An exact Bayesian observer's own updates have rank correlation {ideal:.2f} with the certainty that an "
            f"example leaves, this model's {output:.2f}."
        ],
        notes=[
            "Confidence is that of an exact posterior with a uniform prior over all functions of the family, which "
            f"expects {noise:.0%} random labels."
        ],
    )


def update_grows(correlation: Samples, exchanged: Samples, rise: Samples) -> Claim:
    """By correlations [prompt, (update, confidence)] with the certainty that the example leaves."""
    measured, shuffled = (each.at(confidence=AFTER).by("update") for each in (correlation, exchanged))
    unserved = "what attention adds to the residual stream is not served on this model"
    tests, null = [], []
    for update in (OUTPUT, ATTENTION):
        name, own = f"correlation of certainty with the change of {update}", measured.get(update)
        tests.append(Test(name, own, above=MARGIN, reason=unserved))
        if own is not None:
            null.append(Test(f"{name}, prompts exchanged", shuffled[update], above=MARGIN))
    return claim(
        "update_grows",
        "Among prompts with equally many examples, the last one changes answer and attention output more where it "
        "leaves the exact posterior more certain.",
        needs=[examples_help(rise)],
        positive_control=Test(
            "correlation of certainty with the exact observer's own", measured[EXACT], above=MARGIN
        ),
        null=null,
        tests=tests,
        tables=("confidence",),
    )


def _correlations(sizes: dict[str, Array], confidences: dict[str, Array]) -> Samples:
    """Each prompt's part in every correlation."""
    values = {(u, c): shared_variation(sizes[u], confidences[c]) for u in sizes for c in confidences}
    return Samples.of(CORRELATION, (UPDATE, CONFIDENCE), values)


def _certainty(shots: Shots, noise: float) -> Array:
    """The exact posterior's probability of its favourite function, given all pairs, [prompt]."""
    posterior = hypothesis_posterior(
        torch.from_numpy(shots.hypotheses),
        torch.from_numpy(shots.y),
        torch.from_numpy(shots.functions.prior("grid")),
        noise=noise,
        n_answers=shots.functions.n_numbers,
    )
    favourite: Array = posterior[:, -1].max(-1).values.numpy()
    return favourite


def _exact_log_odds(shots: Shots, noise: float) -> Array:
    """The exact observer's log-odds of the answer, [prompt]."""
    answer = torch.from_numpy(shots.answer)[:, None]
    predicted = exact_predictive(shots, "grid", noise=noise)[:, -1].gather(1, answer)[:, 0]
    return log_odds(predicted.log()).numpy()
