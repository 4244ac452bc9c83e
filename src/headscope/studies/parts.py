"""A part of a study: what one question of several found, to be joined with the others into one report.

A study of many questions is a tuple of parts, each a function `part(config, model, progress) -> Part`. This
module only says what a part hands back; the study joins them, and knows the order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headscope.results.study import Claim, Figure
from headscope.tables import Table


@dataclass(frozen=True)
class Part:
    """What one part of a study found: tables, claims and figures by itself, in the order of the report."""

    tables: Mapping[str, Table]
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
