"""How numbers become claims: tests of samples, one verdict rule for all, tables and figures of samples."""

from headscope.evidence.chosen import Chosen, chosen_table
from headscope.evidence.claim import claim, claims_per, in_words, percent
from headscope.evidence.comparisons import Rank, Test, any_of, every, injected
from headscope.evidence.figures import bars, lines, series
from headscope.evidence.tables import beside, joint_table, table

__all__ = [
    "Chosen",
    "Rank",
    "Test",
    "any_of",
    "bars",
    "beside",
    "chosen_table",
    "claim",
    "claims_per",
    "every",
    "in_words",
    "injected",
    "joint_table",
    "lines",
    "percent",
    "series",
    "table",
]
