"""Claims as the page shows them: the verdict, and each comparison behind it as a row of short texts.

In: a Claim. Out: plain records of text for the template, which decides nothing. An interval stands behind its
estimate, what was wanted of it is written as one reads it aloud ("above 0.1"), and what has no number reads
"undefined", above its reason. Not done here: judging; a row already says on which side it lies.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from headscope.figures.words import number
from headscope.report.cells import TableView
from headscope.results.evidence import ROLES
from headscope.results.study import Claim, EvidenceRow, Verdict


@dataclass(frozen=True)
class ComparisonView:
    """One comparison in words; `exactly` has the full numbers, for the tooltip."""

    row: EvidenceRow
    measured: str
    exactly: str
    wanted: str

    @classmethod
    def of(cls, row: EvidenceRow) -> "ComparisonView":
        sign = "±" if row.comparison == "within" else ""
        bounds = f" [{number(row.low)}, {number(row.high)}]"
        interval = "" if math.isnan(row.low) and math.isnan(row.high) else bounds
        exactly = f"{row.estimate!r} [{row.low!r}, {row.high!r}]"
        wanted = f"{row.comparison} {sign}{number(row.margin)}"
        return cls(row, f"{number(row.estimate)}{interval}", exactly, wanted)


@dataclass(frozen=True)
class ClaimView:
    """A claim, its comparisons, and the tables that it names."""

    claim: Claim
    comparisons: tuple[ComparisonView, ...]
    tables: tuple[TableView, ...]


def tally(claims: Sequence[Claim]) -> str:
    """How many claims ended how, in one line.

    >>> tally([Claim("a", "A.", Verdict.SUPPORTED, "")])
    '1 claim: 1 supported, 0 refuted, 0 undetermined'
    """
    counted = Counter(claim.verdict for claim in claims)
    ends = ", ".join(f"{counted[verdict]} {verdict}" for verdict in Verdict)
    return f"{len(claims)} {'claim' if len(claims) == 1 else 'claims'}: {ends}"


def roles(claims: Sequence[Claim]) -> dict[str, str]:
    """What each kind of comparison means, of those that these claims have."""
    found = {row.role for claim in claims for row in claim.evidence}
    return {role: meaning for role, meaning in ROLES.items() if role in found}
