"""Are function-vector heads and induction heads different heads: the overlap of Yin & Steinhardt 2025.

In: causal indirect effects and induction scores of every head on the estimating half, and the top heads that the
selecting half picked. Out: the share of top heads that both rankings have in common, against rankings at random, and
the rank correlation of both scores over all heads, with percentiles over resampled functions and prompts. Rankings of
noise differ as well: kinds are told apart only where each ranking finds its own top heads again on the other half,
and the other kind's ranking clearly fewer of them.
"""

from collections.abc import Sequence

import polars as pl

from headscope.evidence import Test, claim, table
from headscope.measures.rankings import Agreement, agreement
from headscope.results.study import Claim
from headscope.studies.context import Part
from headscope.studies.vectors.does_the_task import examples_teach
from headscope.studies.vectors.head_effects import SCORE, indirect_effects, induction, kinds_exist, top_heads
from headscope.studies.vectors.problems import Ctx, within_task
from headscope.tables import Column
from headscope.tasks.split import Split

RELIABLE = 0.5
"""Share of its top heads that a ranking must find again to name heads at all."""
MARGIN = 0.25
"""By which share of the top heads the other kind's ranking must find fewer."""
_JUDGED = Column("judged", pl.Boolean, "whether the claims go by this score")
_COUNTS = (
    Column("top", pl.Int64, "heads taken of each ranking"),
    Column("common", pl.Int64, "heads that are in both, as selected"),
    Column("expected", pl.Float64, "how many if both were drawn at random", "heads"),
    Column("p_value_at_least", pl.Float64, "chance of at least so many at random"),
    Column("p_value_at_most", pl.Float64, "chance of at most so many at random"),
)
_P_VALUE = Column("p_value", pl.Float64, "chance of so strong a correlation with heads exchanged")


@within_task
def different_heads(ctx: Ctx) -> Part:
    """Are the heads that write the function those that look examples up?"""
    rankings, judged = ctx.once(agreements), ctx.once(top_heads).judged
    claims = [heads_differ([*examples_teach(ctx), *kinds_exist(ctx)], rankings.get(judged))]
    if not rankings:
        return Part(claims=claims)
    marks = {_JUDGED: {kind: kind == judged for kind in rankings}}
    counts, p_values = (
        {column: {kind: getattr(r, column.name) for kind, r in rankings.items()} for column in columns}
        for columns in (_COUNTS, [_P_VALUE])
    )
    shares = [r.share.labelled(SCORE, kind) for kind, r in rankings.items()]
    rhos = [r.rho.labelled(SCORE, kind) for kind, r in rankings.items()]
    listed = table(shares, "overlap", more={**marks, **counts})
    noisy = (
        "Resampling adds noise to rankings of heads with like scores: the intervals of their common share and their "
        "rank correlation are biased downwards."
    )
    return Part(tables=[listed, table(rhos, "rank_correlations", more=p_values)], claims=claims, notes=[noisy])


def heads_differ(needs: Sequence[Test], judged: Agreement | None) -> Claim:
    """Whether each kind's ranking finds its own top heads again on other units, and the other kind's does not."""
    none, kinds = "induction heads were not measured", ("function-vector", "induction")
    ceilings, room = ((None, None), (None, None)) if judged is None else (judged.ceilings, judged.room)
    again = "top {} heads found again on the other half: share"
    return claim(
        "different_heads",
        "Function-vector heads and induction heads are different heads: each ranking finds its own top heads again, "
        "and clearly fewer of the other's.",
        needs=needs,
        positive_control=[
            Test(again.format(kind), own, above=RELIABLE, reason=none)
            for kind, own in zip(kinds, ceilings, strict=True)
        ],
        tests=[
            Test(f"{again.format(kind)} minus share found by the other ranking", each, above=MARGIN, reason=none)
            for kind, each in zip(kinds, room, strict=True)
        ],
        tables=[*([] if judged is None else ["overlap", "rank_correlations", "induction_scores"]), "head_effects"],
    )


def agreements(ctx: Ctx) -> dict[str, Agreement]:
    """How the ranking by indirect effect agrees with that by each induction score that was measured."""
    top, own, seed = ctx.once(top_heads), ctx.once(indirect_effects).estimation, ctx.settings.seed
    return {
        kind: agreement(own, score.estimation.beyond_null, (top.function_vector, top.by_score[kind]), seed=seed)
        for kind, score in ctx.once(induction).items()
        if isinstance(score, Split)
    }
