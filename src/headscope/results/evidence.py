"""The comparisons behind a study's verdicts as one table, for whoever wants to compute with them.

In: a study. Out: a table, which a run folder keeps as `tables/claims.parquet`, and what the kinds of comparison
mean. Not done here: judging. A row already says on which side it lies.
"""

from dataclasses import asdict

import polars as pl

from headscope.results.study import Study
from headscope.tables import Column, Schema, Table

CLAIMS = "claims"

# What a reader must know of each kind of comparison, in the order in which a verdict asks for them.
ROLES = {
    "need": "must hold before the claim can be judged",
    "positive control": "must hold, since here the effect is known to be there",
    "null": "must not hold: the same measurement with the structure in question removed",
    "test": "decides",
}

_MEANINGS = {
    "claim": "name of the claim",
    "verdict": "how the claim ends on this model: supported, refuted or undetermined",
    "role": "; ".join(f"{role}: {meaning}" for role, meaning in ROLES.items()),
    "what": "what was compared",
    "quantity": "what was measured",
    "unit": "unit of estimate, low, high and margin; empty for a pure number",
    "estimate": "the estimate; NaN where there is none",
    "low": "lower bound, corrected for how many cells or tests were looked at together",
    "high": "upper bound, corrected likewise",
    "comparison": "where the quantity should lie, seen from the margin: above, below, within; or p at most",
    "margin": "what it was compared with; for within, the distance from 0 on either side",
    "side": "yes: the comparison surely holds; no: it surely fails; unclear: neither",
    "over": "what is independent of each other, and so counted",
    "n": "how many of these",
    "reason": "why there is no number; empty where there is one",
}
_TYPES = {"n": pl.Int64, **dict.fromkeys(("estimate", "low", "high", "margin"), pl.Float64)}
_EVIDENCE = Schema(
    CLAIMS, tuple(Column(name, _TYPES.get(name, pl.String), meaning) for name, meaning in _MEANINGS.items())
)


def evidence_table(study: Study) -> Table:
    """One row for each comparison behind each claim, in the order of the claims."""
    return _EVIDENCE.table(
        {"claim": claim.name, "verdict": str(claim.verdict), **asdict(row)}
        for claim in study.claims
        for row in claim.evidence
    )
