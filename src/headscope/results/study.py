"""The Study record: everything that a study found, and nothing about how it is shown.

In: what a study computed. Out: one value that a report renders, a folder stores and a script reads.
A *claim* ends as supported, refuted or undetermined, with the numbers that decided it in its own words;
"no significant change" is undetermined unless an equivalence test says otherwise. Not done here:
computing (studies) and drawing (figures, report).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import numpy as np

from headscope.measures.equivalence import Side
from headscope.tables import Table


class Verdict(StrEnum):
    """How a claim ends on this model."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDETERMINED = "undetermined"

    @classmethod
    def of(cls, side: Side) -> Self:
        """For a claim that something exceeds a margin: see `measures.equivalence.side`."""
        if side is Side.UNDETERMINED:
            return cls.UNDETERMINED
        return cls.SUPPORTED if side is Side.ABOVE else cls.REFUTED


@dataclass(frozen=True)
class Claim:
    """One statement, its verdict, and the numbers that decided it.

    `because` is a sentence computed from the tables named in `tables`, control and null included.
    """

    name: str
    statement: str
    verdict: Verdict
    because: str
    tables: tuple[str, ...] = ()


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

    `summary` are the paragraphs that a reader sees first, computed from the numbers; `notes` are
    assumptions and limits; `provenance` says what it takes to run it again.
    """

    name: str
    title: str
    question: str
    summary: tuple[str, ...]
    claims: tuple[Claim, ...]
    tables: Mapping[str, Table]
    figures: tuple[Figure, ...]
    attention: tuple[AttentionExample, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures and patterns, as plain JSON data."""
        return {
            "study": self.name,
            "title": self.title,
            "question": self.question,
            "summary": list(self.summary),
            "claims": [
                {
                    "name": claim.name,
                    "statement": claim.statement,
                    "verdict": str(claim.verdict),
                    "because": claim.because,
                    "tables": list(claim.tables),
                }
                for claim in self.claims
            ],
            "tables": {
                name: {"columns": table.describe(), "rows": table.to_records()}
                for name, table in self.tables.items()
            },
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }
