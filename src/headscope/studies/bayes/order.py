"""Do updates depend on the order of the examples?

In: the context of the study. Out: how much the probability of the right answer changes, up or down, when the same
pairs are shown in a random other order; the claim `order`. Bayes' rule does not mind the order: the exact posterior
on the same prompts is the positive control. Not done here: which order is better.
"""

from collections.abc import Sequence

from headscope.evidence import Test, claim, table
from headscope.measures.samples import Samples
from headscope.results.study import Claim
from headscope.studies.bayes.observations import (
    EXACT,
    IMPOSSIBLE,
    LEARNER,
    MODEL,
    Observations,
    exact_control,
    observations,
    of_right,
    updates_to_judge,
)
from headscope.studies.bayes.settings import BayesSettings
from headscope.studies.context import Context, Part
from headscope.tables import Quantity

ORDER_MARGIN = 0.05
CHANGE = Quantity(
    "change",
    "of the right answer's probability in another order, up or down, after all pairs",
    within=(0.0, 1.0),
)


def order(ctx: Context[BayesSettings]) -> Part:
    """Does the same evidence in another order lead to the same answer?"""
    change = changes(ctx.once(observations))
    return Part(tables=[table(change, "order")], claims=[no_order(change, ctx.once(updates_to_judge))])


def no_order(change: Samples, needs: Sequence[Test]) -> Claim:
    """`change` [prompt, learner] of the model and of the exact posterior."""
    control = Test("change of the exact posterior", change.at(learner=EXACT), below=ORDER_MARGIN)
    return claim(
        "order",
        f"Updates do not depend on the order of the examples: in another order the answer's probability changes by "
        f"under {ORDER_MARGIN}.",
        needs=needs,
        positive_control=exact_control(control),
        tests=[Test("change in another order", change.at(learner=MODEL), below=ORDER_MARGIN)],
        tables=("order",),
    )


def changes(observed: Observations) -> Samples:
    """Up or down, [prompt, learner]."""
    model, exact = observed.model.probability[:, -1], observed.exact_probability[:, -1]
    moved = of_right(observed.exact_permuted, observed.right)[:, -1]
    change = {MODEL: (observed.permuted.exp() - model).abs(), EXACT: (moved - exact).abs()}
    return Samples.of(CHANGE, (LEARNER,), change).because(IMPOSSIBLE, learner=EXACT)
