"""How near is the model to the exact posterior?

In: the context of the study. Out: KL(exact || model) in nats per number of examples, under one or two priors; the
distance of the right answer's probability from the exact one, prompt by prompt; the claim `near_exact`. The divergence is
over all numbers where a model gives every number a probability; else over two outcomes, the right number or any
other, which is at most as much (merging outcomes never adds divergence). What the model gives to tokens that are no
numbers counts against it. Not done here: the model's curve by itself (curve), the shape of its updates (updates).
"""

import math

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.evidence import Test, claim, lines, table
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.observations import (
    EXACT,
    IMPOSSIBLE,
    RISE_MARGIN,
    SHOTS,
    Observations,
    observations,
    of_right,
    own_pairs,
)
from headscope.studies.bayes.settings import BayesSettings
from headscope.studies.context import Context, Part
from headscope.tables import Column, Quantity

AFTER = 8
EXACT_MARGIN = 0.1
NUMBERS, RIGHT = "all numbers", "right or not"
REFERENCE = Column("reference", pl.String, "the exact posterior predictive, under which prior over functions")
OUTCOMES = Column("outcomes", pl.String, "KL over all numbers, or over two outcomes, which is never more")
COMPARISON = Column("comparison", pl.String, "of the probability of the right answer, from 8 pairs on")
KL = Quantity("kl", "KL divergence of the model from the reference", "nats", within=(0.0, math.inf))
APART = Quantity("difference", "mean over prompts and the shots from 8 pairs on", within=(-1.0, 1.0))
DISTANCE, SIGNED = "distance of the model from the exact posterior", "model minus exact posterior"


def near_exact(ctx: Context[BayesSettings]) -> Part:
    """Does the model predict what the exact posterior predicts?"""
    observed = ctx.once(observations)
    kl, apart = divergences(observed), differences(observed)
    judged = stays_near(apart, observed.rise.at(learner=EXACT), own_pairs(ctx.settings))
    parts = {"tables": [table(kl, "distances"), table(apart, "differences")], "claims": [judged]}
    defined = [name for name in (NUMBERS, RIGHT) if (kl.at(outcomes=name).point >= 0).any()]
    if not defined:
        return Part(**parts)
    shown = kl.at(outcomes=defined[0])
    last = shown.at(shots=max(shown.coordinates("shots")))
    nearest = ", ".join(f"{kl:.2f} from the {who}" for (who,), kl in zip(last.cells, last.point, strict=True))
    figure = lines(
        shown,
        "shots",
        colour="reference",
        name="distances",
        title="Distance from the exact posterior",
        caption=f"KL divergence of the model's prediction from the exact one, over {defined[0]}, after so many pairs: "
        "mean over prompts with 95% intervals.",
    )
    says = [f"After all pairs the model's divergence in nats, over {defined[0]}, is {nearest}."]
    return Part(**parts, figures=[figure], says=says)


def stays_near(apart: Samples, exact_rise: Samples, needs: tuple[Test, ...]) -> Claim:
    """`apart` [prompt, comparison]; an exact posterior that does not rise is nothing to follow."""
    return claim(
        "near_exact",
        f"From {AFTER} examples on, the probability of the right answer stays within {EXACT_MARGIN} of the exact "
        "posterior's, on average over prompts.",
        needs=[*needs, Test("rise of the exact posterior", exact_rise, above=RISE_MARGIN)],
        tests=[Test(f"distance from {AFTER} pairs on", apart.at(comparison=DISTANCE), below=EXACT_MARGIN)],
        tables=("differences", "distances"),
    )


def differences(observed: Observations) -> Samples:
    """How far the right answer's probability lies from the exact one, and on which side, [prompt, comparison]."""
    late = (observed.model.probability - observed.exact_probability)[:, AFTER:]
    samples = Samples.of(APART, (COMPARISON,), {DISTANCE: late.abs().mean(1), SIGNED: late.mean(1)})
    return samples.because(IMPOSSIBLE if late.shape[1] else f"fewer than {AFTER} pairs are shown")


def divergences(observed: Observations) -> Samples:
    """KL of the model from each exact posterior, [prompt, (reference, outcomes, shots)]."""
    cells = {}
    for name, exact in observed.exact.items():
        own, probability = observed.model, of_right(exact, observed.right)
        numbers = probability * torch.nan if own.numbers is None else kl_over_numbers(exact, own.numbers)
        for outcomes, kl in ((NUMBERS, numbers), (RIGHT, kl_right_or_not(probability, own.right))):
            cells |= {(name, outcomes, shot): kl[:, shot] for shot in range(kl.shape[1])}
    samples = Samples.of(KL, (REFERENCE, OUTCOMES, SHOTS), cells).because(IMPOSSIBLE)
    in_text = observed.model.numbers is None
    return samples.because("not every number is scored in text", outcomes=NUMBERS) if in_text else samples


def kl_over_numbers(
    exact: Float[Tensor, "example shot number"], log_p: Float[Tensor, "example shot number"]
) -> Float[Tensor, "example shot"]:
    """KL divergence of `log_p` from `exact`, in nats; 0 if they agree.

    >>> half = torch.tensor([[[0.5, 0.5]]])
    >>> round(kl_over_numbers(half, torch.tensor([[[0.5, 0.25]]]).log()).item(), 4)
    0.3466
    """
    return (torch.xlogy(exact, exact) - _times(exact, log_p)).sum(-1)


def kl_right_or_not(
    exact: Float[Tensor, "example shot"], log_p: Float[Tensor, "example shot"]
) -> Float[Tensor, "example shot"]:
    """The same over two outcomes: `exact` and exp(`log_p`) are the probabilities of the right number."""
    rest = torch.log1p(-log_p.exp().clamp(max=1 - 1e-12))
    own = torch.xlogy(exact, exact) + torch.xlogy(1 - exact, 1 - exact)
    return own - _times(exact, log_p) - _times(1 - exact, rest)


def _times(share: Tensor, log_p: Tensor) -> Tensor:
    """share * log_p, 0 where the share is 0."""
    return torch.where(share == 0, 0.0, share * log_p)
