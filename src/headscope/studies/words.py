"""Numbers, counts and bounds as the sentences of a study say them.

In: values and rows of tables. Out: words. Every study speaks in the same way: two decimals, bounds in brackets,
"undefined" where there is no number.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from headscope.results.study import Claim, Verdict


def number(value: float) -> str:
    """Two decimals; never "-0.00", and a word where there is no number.

    >>> number(-0.001), number(float("nan"))
    ('0.00', 'undefined')
    """
    return "undefined" if value != value else f"{round(value, 2) + 0.0:.2f}"


def with_bounds(row: Mapping[str, Any], value: str) -> str:
    """A mean and its bounds.

    >>> with_bounds({"score": 0.5, "low": 0.25, "high": 0.75}, "score")
    '0.50 [0.25, 0.75]'
    """
    return f"{number(row[value])} [{number(row['low'])}, {number(row['high'])}]"


def count(many: int, what: str) -> str:
    """A number of things.

    >>> count(1, "head"), count(2, "head")
    ('1 head', '2 heads')
    """
    return f"{many} {what}{'' if many == 1 else 's'}"


def undetermined(name: str, statement: str, because: str, *tables: str) -> Claim:
    """A claim that these numbers cannot decide."""
    return Claim(name, statement, Verdict.UNDETERMINED, because, tables)


def as_sentences(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """The claims, what decided each beginning as a sentence does."""
    return tuple(replace(claim, because=claim.because[:1].upper() + claim.because[1:]) for claim in claims)
