"""Do updates depend on the order of the examples? Bayes' rule does not.

In: the context of the study. Out: how much the answer's probability changes, prompt by prompt, when the same pairs
are shown in another order, for the model and for the exact posterior, the positive control; the claim `order`. After
all pairs alone this says little: whoever is sure by then does not change, and a model that reads only the last few
pairs finds in them what the others said. Hence two more: as many pairs as bring the model halfway up its curve, and
prompts of which the first half of the pairs informs and all others have a random y, against the same reversed.
"""

from collections.abc import Callable, Mapping, Sequence

import polars as pl
import torch
from torch import Tensor

from headscope.evidence import Test, claim, table
from headscope.measures import exact_predictive
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes import observations as seen
from headscope.studies.bayes.observations import EXACT, LEARNER, MIN_SHOTS, MODEL, RISE, RISE_MARGIN
from headscope.studies.bayes.predictions import answer_log_probability
from headscope.studies.bayes.problems import Ctx
from headscope.studies.context import Part
from headscope.tables import Column, Quantity
from headscope.tasks.shots import Shots

MARGIN = 0.05
ALL, HALFWAY, EARLY = "all pairs", "pairs halfway up the curve", "pairs of which the early half informs"
SHOWN = Column("shown", pl.String, "which pairs are shown in two orders")
CHANGE = Quantity("order_change", "distance of the right answer's probability in two orders", within=(0.0, 1.0))

Answering = Callable[[Shots], Tensor]
"""From problems to the probability of the function's value at the query, [example]."""


def order(ctx: Ctx) -> Part:
    """Is it the same in another order of the examples?"""
    observed = ctx.once(seen.observations)
    noise = observed.noise or seen.SOME_RANDOM
    learners: dict[str, Answering] = {
        MODEL: lambda shots: answer_log_probability(ctx.model, shots).exp(),
        EXACT: lambda shots: exact_answer(shots, noise),
    }
    pairs = reorderings(observed.shots, halfway_up(observed.model.probability), ctx.settings.seed)
    change, early = changes(pairs, learners)
    return Part(
        tables=[table(change, "orders")],
        claims=[no_order(change, informed_rise(early, observed), ctx.once(seen.updates_to_judge))],
    )


def no_order(change: Samples, informed: Samples, needs: Sequence[Test]) -> Claim:
    """`change` [prompt, (learner, shown)]; `informed` [prompt]: the model's rise by pairs of which half inform."""

    def tests(learner: str) -> list[Test]:
        of = change.at(learner=learner)
        return [
            Test(f"{shown} in another order ({learner.split(',')[0]})", of.at(shown=shown), below=MARGIN)
            for shown in of.coordinates("shown")
        ]

    return claim(
        "order",
        f"Updates do not depend on the order of the examples: in another order the answer's probability changes by "
        f"under {MARGIN}.",
        needs=[*needs, Test(f"rise by {EARLY}", informed, above=RISE_MARGIN)],
        positive_control=tests(EXACT),
        tests=tests(MODEL),
        tables=("orders",),
    )


def halfway_up(curve: Tensor) -> int:
    """The number of pairs, of those that have an order, at which p [prompt, shot] is nearest to half of its rise."""
    mean = curve.mean(0)
    return MIN_SHOTS + int((mean[MIN_SHOTS:] - (mean[0] + mean[-1]) / 2).abs().argmin())


def reorderings(shots: Shots, halfway: int, seed: int) -> dict[str, tuple[Shots, Shots]]:
    """Problems with the same pairs in two orders, by which pairs these are."""
    few, early = shots.first(halfway), shots.informing_first((shots.x.shape[1] + 1) // 2, seed)
    return {ALL: (shots, shots.permuted(seed)), HALFWAY: (few, few.permuted(seed)), EARLY: (early, early.reversed())}


def changes(pairs: Mapping[str, tuple[Shots, Shots]], learners: Mapping[str, Answering]) -> tuple[Samples, Tensor]:
    """Distance of two answers, [prompt, (learner, shown)], and the model's mean where half inform, [prompt]."""
    answered = {
        (learner, shown): torch.stack([answer(each) for each in both])
        for learner, answer in learners.items()
        for shown, both in pairs.items()
    }
    distances = {cell: (one - other).abs() for cell, (one, other) in answered.items()}
    return Samples.of(CHANGE, (LEARNER, SHOWN), distances), answered[MODEL, EARLY].mean(0)


def informed_rise(early: Tensor, observed: seen.Observations) -> Samples:
    """From no pairs to those of which half inform, [prompt]: who learns nothing from these has no order to mind."""
    return Samples.one(RISE, early - observed.model.probability[:, 0])


def exact_answer(shots: Shots, noise: float) -> Tensor:
    """What the exact posterior gives the function's value at the query, [example]."""
    right = torch.from_numpy(shots.answer)[:, None]
    return exact_predictive(shots, "grid", noise=noise)[:, -1].gather(-1, right).squeeze(-1)
