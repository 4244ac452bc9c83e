"""How numbers become claims: tests of samples, one verdict rule for all, tables and figures of samples."""

from headscope.evidence.claim import bounded, claim, claims_per
from headscope.evidence.comparisons import Rank, Test, any_of, every, injected
from headscope.evidence.figures import bars, lines
from headscope.evidence.tables import joint_table, table

__all__ = [
    "Rank",
    "Test",
    "any_of",
    "bars",
    "bounded",
    "claim",
    "claims_per",
    "every",
    "injected",
    "joint_table",
    "lines",
    "table",
]
