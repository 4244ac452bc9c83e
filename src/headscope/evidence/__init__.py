"""How numbers become claims: tests of samples, one verdict rule for all, tables and figures of samples."""

from headscope.evidence.claim import claim, claims_per, in_words, percent
from headscope.evidence.comparisons import Judged, Rank, Simulated, Test, any_of, every, injected
from headscope.evidence.figures import bars, lines, series
from headscope.evidence.tables import table

__all__ = [
    "Judged",
    "Rank",
    "Simulated",
    "Test",
    "any_of",
    "bars",
    "claim",
    "claims_per",
    "every",
    "in_words",
    "injected",
    "lines",
    "percent",
    "series",
    "table",
]
