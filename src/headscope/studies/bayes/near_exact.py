"""How near is the model to the exact posterior, and is it as independent of the order of the examples?

In: the context of the study. Out: KL(exact || model) in nats per number of examples, under one or two priors; the
difference of the right answer's probability from the exact one, prompt by prompt, and its change when the same pairs
are shown in a random other order; the claims `near_exact` and `order`. The divergence is over all numbers where a
model gives every number a probability, else over two outcomes, the right number or any other, which is at most as
much. Bayes' rule does not depend on order: there the exact posterior is the positive control.
"""

import math
from collections.abc import Sequence

import polars as pl
import torch

from headscope.evidence import Test, claim, lines, table
from headscope.measures.posterior import divergence_nats, right_or_not_divergence_nats
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes import observations as seen
from headscope.studies.bayes.observations import EXACT, IMPOSSIBLE, MODEL, SHOTS, Observations
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.tables import Column, Quantity

AFTER = 8
EXACT_MARGIN, ORDER_MARGIN = 0.1, 0.05
DISTANCE, SIGNED = "distance of the model from the exact posterior", "model minus exact posterior"
REORDERED, EXACT_REORDERED = ("change of the model with the order", "change of the exact posterior with the order")
NUMBERS, RIGHT = "all numbers", "right or not"

REFERENCE = Column("reference", pl.String, "the exact posterior predictive, under which prior over functions")
OUTCOMES = Column("outcomes", pl.String, "KL over all numbers, or over two outcomes, which is never more")
COMPARISON = Column("comparison", pl.String, "what is compared: from 8 pairs on, or after all pairs in another order")
KL = Quantity("kl", "KL divergence of the model from the reference", "nats", within=(0.0, math.inf))
APART = Quantity("difference", "of the right answer's probability, prompt by prompt", within=(-1.0, 1.0))


def near_exact(ctx: Ctx) -> Part:
    """Does the model predict what the exact posterior predicts, in whatever order it sees the examples?"""
    observed = ctx.once(seen.observations)
    kl, apart = divergences(observed), differences(observed)
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
        tables=[table(kl, "distances"), table(apart, "differences")],
        claims=[
            stays_near(apart, observed.rise.at(learner=EXACT), seen.own_pairs(ctx.settings)),
            no_order(apart, ctx.once(seen.updates_to_judge)),
        ],
        figures=[figure],
        says=[f"After all pairs the model is, by KL divergence over {outcomes}, {nearest}."] if known else [],
    )


def stays_near(apart: Samples, exact_rise: Samples, needs: Sequence[Test]) -> Claim:
    """`apart` [prompt, comparison]; an exact posterior that does not rise is nothing to follow."""
    return claim(
        "near_exact",
        f"From {AFTER} examples on, the probability of the right answer stays within {EXACT_MARGIN} of the exact "
        "posterior's, on average over prompts.",
        needs=[*needs, Test("rise of the exact posterior", exact_rise, above=seen.RISE_MARGIN)],
        tests=[Test(f"distance from {AFTER} pairs on", apart.at(comparison=DISTANCE), below=EXACT_MARGIN)],
        tables=("differences", "distances"),
    )


def no_order(apart: Samples, needs: Sequence[Test]) -> Claim:
    """`apart` [prompt, comparison]: changes up or down, of the model and of the exact posterior."""
    control = Test("change of the exact posterior", apart.at(comparison=EXACT_REORDERED), below=ORDER_MARGIN)
    return claim(
        "order",
        f"Updates do not depend on the order of the examples: in another order the answer's probability changes by "
        f"under {ORDER_MARGIN}.",
        needs=needs,
        positive_control=seen.where_defined(control),
        tests=[Test("change in another order", apart.at(comparison=REORDERED), below=ORDER_MARGIN)],
        tables=("differences",),
    )


def differences(observed: Observations) -> Samples:
    """From the exact posterior from 8 pairs on, and from the same pairs in another order, [prompt, comparison]."""
    model, exact = observed.learners[MODEL], observed.learners[EXACT]
    late = (model - exact)[:, AFTER:]
    reordered = observed.of_right(observed.exact_permuted)
    cells = {
        DISTANCE: late.abs().mean(1),
        SIGNED: late.mean(1),
        REORDERED: (observed.permuted.exp() - model[:, -1]).abs(),
        EXACT_REORDERED: (reordered - exact)[:, -1].abs(),
    }
    samples = Samples.of(APART, (COMPARISON,), cells).because(IMPOSSIBLE)
    few = f"fewer than {AFTER} pairs are shown"
    return samples if late.shape[1] else samples.because(few, comparison=[DISTANCE, SIGNED])


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
