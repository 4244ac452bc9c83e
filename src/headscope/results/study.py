"""The Study record: everything that a study found, and nothing about how it is shown.

In: what a study computed. Out: one value that a report renders, a folder stores and a script reads.
A *claim* ends as supported, refuted or undetermined, with the numbers that decided it in its own words;
"no significant change" is undetermined unless an equivalence test says otherwise. Not done here:
computing (studies) and drawing (figures, report).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from headscope.results.files import SCHEMA
from headscope.tables import Table


class Verdict(StrEnum):
    """How a claim ends on this model."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True)
class EvidenceRow:
    """One comparison behind a verdict; `results.evidence` says what each field means.

    `role` is "need", "positive control", "null" or "test"; `comparison` "above", "below", "within" or "p at most";
    `side` "yes", "no" or "unclear".
    """

    role: str
    what: str
    quantity: str
    unit: str
    estimate: float
    low: float
    high: float
    comparison: str
    margin: float
    side: str
    over: str
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """One statement, its verdict, and the numbers that decided it.

    `evidence` are the comparisons that decided, `because` is a sentence rendered from them, `tables` names the
    tables in which the numbers stand beside others.
    """

    name: str
    statement: str
    verdict: Verdict
    because: str
    tables: tuple[str, ...] = ()
    evidence: tuple[EvidenceRow, ...] = ()


@dataclass(frozen=True)
class Source:
    """A paper or article whose claims a study puts to the test."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Figure:
    """A finished picture: static SVG, the table behind it, and words for who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    table: str


@dataclass(frozen=True)
class AttentionExample:
    """The patterns of every head on one prompt, for looking at.

    `patterns` is float32 [layer, head, query, key]; `labels` says in a word what a head was named, by
    its written form ("1.2" -> "induction"). `tokens` are the decoded tokens, untrusted text.
    """

    name: str
    title: str
    caption: str
    tokens: tuple[str, ...]
    patterns: np.ndarray
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """What a study found.

    `answer` is what a reader sees first: one or two sentences that answer the question, computed from the numbers;
    `lead` names the figure beside it, `details` are the paragraphs after it, `notes` assumptions and limits,
    `sources` the papers whose claims are tested; `provenance` says what it takes to run it again.
    """

    name: str
    title: str
    question: str
    answer: tuple[str, ...]
    claims: tuple[Claim, ...]
    tables: Mapping[str, Table]
    figures: tuple[Figure, ...]
    lead: str = ""
    details: tuple[str, ...] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    attention: tuple[AttentionExample, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures and patterns, as plain JSON data."""
        return {
            "schema": SCHEMA,
            "study": self.name,
            "title": self.title,
            "question": self.question,
            "answer": list(self.answer),
            "details": list(self.details),
            "terms": dict(self.terms),
            "sources": [asdict(source) for source in self.sources],
            "claims": [
                {
                    **asdict(claim),
                    "verdict": str(claim.verdict),
                    "tables": list(claim.tables),
                    "evidence": [_without_nan(asdict(row)) for row in claim.evidence],
                }
                for claim in self.claims
            ],
            "tables": {
                name: {"columns": table.describe(), "rows": table.to_records()} for name, table in self.tables.items()
            },
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what is undefined becomes None, and `reason` says why."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
