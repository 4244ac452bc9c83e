"""How near is the model to the exact posterior, prompt by prompt?

In: the context of the study. Out: KL(exact || model) in nats per number of examples, under one or two priors; the
distance of the right answer's probability from the exact one; the claim `near_exact`. Late, where everyone who learns
is sure, and on average over prompts, many curves come near. Which pairs a prompt shows decides the exact posterior
while it is in between: a model that follows it is near there too. The divergence is over all numbers where a model
gives every number a probability, else over two outcomes, the right number or any other, which is at most as much.
"""

import math

import polars as pl
import torch

from headscope.evidence import Test, claim, lines, table
from headscope.measures.posterior import divergence_nats, right_or_not_divergence_nats
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes import observations as seen
from headscope.studies.bayes.observations import EXACT, IMPOSSIBLE, LEARNER, MODEL, SHOTS, Observations
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.tables import Column, Quantity

AFTER = 8
EXACT_MARGIN = 0.1
# Nearer to nothing or to all that can be learned than this share, the exact posterior is as good as sure.
UNSURE = 0.1
MEAN_CURVE = "model's mean curve"
LATE, BETWEEN = f"from {AFTER} pairs on", "while the exact posterior is in between"
NUMBERS, RIGHT = "all numbers", "right or not"

REFERENCE = Column("reference", pl.String, "the exact posterior predictive, under which prior over functions")
OUTCOMES = Column("outcomes", pl.String, "KL over all numbers, or over two outcomes, which is never more")
WHEN = Column("when", pl.String, "after which numbers of pairs")
KL = Quantity("kl", "KL divergence of the model from the reference", "nats", within=(0.0, math.inf))
APART = Quantity("distance", "of the right answer's probability from the exact one, each prompt", "", (0.0, 1.0))


def near_exact(ctx: Ctx) -> Part:
    """Does the model predict what the exact posterior predicts?"""
    observed = ctx.once(seen.observations)
    kl, (late, between) = divergences(observed), differences(observed)
    outcomes = RIGHT if observed.model.numbers is None else NUMBERS
    shown = kl.at(outcomes=outcomes)
    last = shown.at(shots=observed.shots.x.shape[1])
    known = [(nats, who) for nats, (who,) in zip(last.point, last.cells, strict=True) if not math.isnan(nats)]
    nearest = "; ".join(f"{nats:.2f} nats from the {who}" for nats, who in known)
    figure = lines(
        shown,
        "shots",
        colour="reference",
        name="distances",
        title="Distance from the exact posterior",
        caption=f"KL divergence of the model's prediction from the exact one, over {outcomes}, after so many pairs: "
        "mean over prompts with 95% intervals.",
    )
    return Part(
        tables=[
            table(kl, "distances"),
            table([late.labelled(WHEN, LATE), between.labelled(WHEN, BETWEEN)], "differences"),
        ],
        claims=[stays_near(late, between, observed.rise.at(learner=EXACT))],
        figures=[figure],
        says=[f"After all pairs the model is, by KL divergence over {outcomes}, {nearest}."] if known else [],
    )


def stays_near(late: Samples, between: Samples, exact_rise: Samples) -> Claim:
    """`late` and `between` [prompt, learner]; an exact posterior that does not rise is nothing to follow.

    The null is the model's own mean curve, which knows how many pairs were shown and not which.
    """
    never = "the exact posterior is in between in no prompt"
    there = {learner: between.at(learner=learner) for learner in (MODEL, MEAN_CURVE)}
    return claim(
        "near_exact",
        f"Prompt by prompt the answer's probability is within {EXACT_MARGIN} of the exact posterior's, while that is "
        f"in between and from {AFTER} examples on.",
        needs=[Test("rise of the exact posterior", exact_rise, above=seen.RISE_MARGIN)],
        null=Test(f"distance of the {MEAN_CURVE}, {BETWEEN}", there[MEAN_CURVE], below=EXACT_MARGIN, reason=never),
        tests=[
            Test(f"distance {LATE}", late.at(learner=MODEL), below=EXACT_MARGIN),
            Test(f"distance {BETWEEN}", there[MODEL], below=EXACT_MARGIN, reason=never),
        ],
        tables=("differences", "distances"),
    )


def differences(observed: Observations) -> tuple[Samples, Samples]:
    """From the exact posterior, from 8 pairs on and where that is in between, [prompt, learner].

    In between: of the way from what a random y leaves for the answer to what it leaves for a sure one, more than a
    tenth is done and more than a tenth is not. Prompts in which it never is there do not count there.
    """
    model, exact = observed.learners[MODEL], observed.learners[EXACT]
    apart = {MODEL: (model - exact).abs(), MEAN_CURVE: (model.mean(0) - exact).abs()}
    belief = (exact - observed.noise / observed.shots.functions.n_numbers) / (1 - observed.noise)
    unsure = (belief > UNSURE) & (belief < 1 - UNSURE)
    late = {who: each[:, AFTER:].mean(1) for who, each in apart.items()}
    between = {who: each.where(unsure, math.nan).nanmean(1) for who, each in apart.items()}
    few = f"fewer than {AFTER} pairs are shown" if model.shape[1] <= AFTER else IMPOSSIBLE
    return (
        Samples.of(APART, (LEARNER,), late).because(few),
        Samples.of(APART, (LEARNER,), between, leave_out=True).because(IMPOSSIBLE),
    )


def divergences(observed: Observations) -> Samples:
    """KL of the model from each exact posterior, [prompt, (reference, outcomes, shots)]."""
    cells: dict[tuple[str, str, int], torch.Tensor] = {}
    own = observed.model
    for name, exact in observed.exact.items():
        right = observed.of_right(exact)
        over_numbers = right * torch.nan if own.numbers is None else divergence_nats(exact, own.numbers)
        kinds = {NUMBERS: over_numbers, RIGHT: right_or_not_divergence_nats(right, own.right)}
        for outcomes, kl in kinds.items():
            cells |= {(name, outcomes, shot): kl[:, shot] for shot in range(kl.shape[1])}
    samples = Samples.of(KL, (REFERENCE, OUTCOMES, SHOTS), cells).because(IMPOSSIBLE)
    in_text = "not every number is scored in text"
    return samples if own.numbers is not None else samples.because(in_text, outcomes=NUMBERS)
