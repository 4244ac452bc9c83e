"""One verdict rule for every claim: needs, positive control, null, tests, in this order.

In: a statement and its tests. Out: a `Claim` with its verdict, the rows that decided, and a sentence rendered from
them. The rule:

    a need is unmet, a selection is empty, a value is NaN     undetermined, with that reason
    the positive control does not pass                        undetermined: what must show it does not
    a null passes                                             undetermined: the control shows it too
    all tests are surely on their side                        supported
    one test is surely on the other side (Holm over tests)    refuted
    else                                                      undetermined

All tests must hold, so that a claim is supported without a correction; any single one refutes it, so that the bound
of a refutation is that of level 1 - .05 / (number of tests), the first step of Holm's procedure. Not done here:
judging a single comparison (evidence.comparisons).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headscope.evidence.comparisons import LEVEL, Judged
from headscope.figures.words import number
from headscope.measures.samples import Cells
from headscope.results.study import Claim, EvidenceRow, Verdict

MOST_WORDS = 25
_UNITLESS = ("", "share", "probability", "cosine")
_JUDGED = ("test", "positive control", "null")
_COMPARED = {"above": "above", "below": "below", "within": "within ±", "p at most": "at most"}


def claim(
    name: str,
    statement: str,
    *,
    tests: Sequence[Judged],
    needs: Sequence[Judged] = (),
    positive_control: Judged | Sequence[Judged] | None = None,
    null: Judged | Sequence[Judged] | None = None,
    tables: Sequence[str] = (),
) -> Claim:
    """Judge a statement of at most 25 words; `tables` names those in which its numbers stand.

    `needs` are what must hold before anything can be said; `positive_control` is the same test (or tests) on what
    must show the effect; `null` the same test with the structure removed and everything else kept.

    Raises:
        ValueError: for a statement that is too long, or no test (a defect of the author).
    """
    if len(statement.split()) > MOST_WORDS or not tests:
        raise ValueError(f"claim {name!r}: a statement of at most {MOST_WORDS} words, and at least one test")
    no_level = 1 - (1 - LEVEL) / len(tests)
    rows = {
        "need": [each.row("need") for each in needs],
        "positive control": [each.row("positive control") for each in _listed(positive_control)],
        "null": [each.row("null") for each in _listed(null)],
        "test": [each.row("test", no_level) for each in tests],
    }
    verdict, sentence = _verdict(rows)
    evidence = tuple(row for listed in rows.values() for row in listed)
    return Claim(name, statement, verdict, sentence, tuple(tables), evidence)


def without_needs(judged: Claim) -> Claim:
    """The same claim as if it needed nothing: what its tests, its null and its positive control say by themselves."""
    evidence = tuple(row for row in judged.evidence if row.role != "need")
    rows = {role: [row for row in evidence if row.role == role] for role in ("need", *_JUDGED)}
    verdict, sentence = _verdict(rows)
    return replace(judged, verdict=verdict, because=sentence, evidence=evidence)


def _listed(judged: Judged | Sequence[Judged] | None) -> Sequence[Judged]:
    if judged is None:
        return ()
    return judged if isinstance(judged, Sequence) else (judged,)


def claims_per(axis: str, values: Sequence[Any], make: Callable[[Any], Claim]) -> tuple[Claim, ...]:
    """One claim with a verdict of its own for each value of an axis (each model, each head): "name:value"."""
    made = ((value, make(value)) for value in values)
    return tuple(replace(one, name=f"{one.name}:{value}") for value, one in made)


def _verdict(rows: Mapping[str, list[EvidenceRow]]) -> tuple[Verdict, str]:
    judged = [row for role in _JUDGED for row in rows[role]]
    for finding, against in (
        ("Not judged", [row for row in rows["need"] if row.side != "yes"]),
        ("Not judged", [row for row in judged if math.isnan(row.estimate)]),
        ("What must show it does not", [row for row in rows["positive control"] if row.side != "yes"]),
        ("The control shows it too", [row for row in rows["null"] if row.side == "yes"]),
        # A null that could not be tested has not been passed.
        ("Not judged", [row for row in rows["null"] if row.side == "unclear" and row.reason]),
    ):
        if against:
            return Verdict.UNDETERMINED, f"{finding}: {told(against[0])}."
    tests = rows["test"]
    failed, unclear = ([row for row in tests if row.side == side] for side in ("no", "unclear"))
    if failed:
        return Verdict.REFUTED, f"{_capital(told(failed[0]))}."
    if unclear:
        return Verdict.UNDETERMINED, f"It is unclear whether it holds: {told(unclear[0])}."
    others = ", which holds, and so do the other tests" if len(tests) > 1 else ""
    return Verdict.SUPPORTED, f"{_capital(told(min(tests, key=_room)))}{others}."


def told(row: EvidenceRow) -> str:
    """A comparison in words, with at most four numbers besides those in names of layers and heads.

    >>> row = EvidenceRow("test", "rise", "rise", "nats", 1.5, 1.25, 1.75, "above", 0.5, "yes", "prompts", 20)
    >>> told(row)
    'rise 1.50 [1.25, 1.75] nats (margin: above 0.50)'
    """
    if math.isnan(row.estimate):
        return f"{row.what} is undefined, {row.reason}" if row.reason else f"{row.what} is undefined"
    if row.comparison == "p at most":
        why = f"; {row.reason}" if row.reason else ""
        return f"{row.what} p = {row.estimate:.3f} (margin: at most {row.margin:.3g}{why})"
    if math.isnan(row.low) and math.isnan(row.high):
        return f"{row.what} {number(row.estimate)}{_unit(row.unit)}, {row.reason or 'without bounds'}"
    estimate, low, high, margin = _written(row.estimate, row.low, row.high, row.margin)
    return f"{row.what} {estimate} [{low}, {high}]{_unit(row.unit)} (margin: {_COMPARED[row.comparison]} {margin})"


def in_words(sample: Cells) -> str:
    """Mean and 95% bounds, where there are any, of a single cell with its unit, for a sentence.

    >>> from headscope.measures.samples import Samples
    >>> from headscope.tables import Quantity
    >>> in_words(Samples.one(Quantity("rise", "a rise", "nats"), [0.4, 0.5, 0.6, 0.7, 0.8]))
    '0.60 [0.38, 0.83] nats'
    """
    mean, *bounds = _written(*(value for value in _numbers(sample) if not math.isnan(value))) or ["undefined"]
    between = f" [{', '.join(bounds)}]" if bounds else ""
    return f"{mean}{between}{_unit(sample.quantity.unit)}"


def percent(sample: Cells) -> str:
    """A share in a sentence: mean and 95% bounds of a single cell.

    >>> from headscope.measures.samples import Samples
    >>> from headscope.tables import Quantity
    >>> percent(Samples.one(Quantity("share", "of what", within=(0.0, 1.0)), [1.0] * 10))
    '100% [69, 100]'
    """
    mean, low, high = _numbers(sample)
    if math.isnan(mean):
        return "an undefined share"
    whole, *bounds = (f"{round(100 * value) + 0}" for value in (mean, low, high) if not math.isnan(value))
    return f"{whole}% [{', '.join(bounds)}]" if len(bounds) == 2 else f"{whole}%"


def _numbers(sample: Cells) -> tuple[float, float, float]:
    if len(sample) != 1:
        raise ValueError(f"{sample.quantity.name!r}: {len(sample)} cells; use at(...)")
    bounded = sample.estimate()
    return float(bounded.mean[0]), float(bounded.low[0]), float(bounded.high[0])


def _unit(unit: str) -> str:
    return "" if unit in _UNITLESS else f" {unit}"


def _written(*values: float) -> list[str]:
    """Numbers of one kind with two decimals, never "-0.00"; with more where all of them are small."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    decimals = 2 if largest == 0 or largest >= 0.095 else 1 - math.floor(math.log10(largest))
    return [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in values]


def _room(row: EvidenceRow) -> float:
    """How far beyond its margin a test that holds lies, in widths of its interval: the least is told."""
    if row.comparison == "p at most" or not row.high > row.low:
        return math.inf
    above, below = row.low - row.margin, row.margin - row.high
    room = {"above": above, "below": below, "within": min(below, row.low + row.margin)}
    return room[row.comparison] / (row.high - row.low)


def _capital(sentence: str) -> str:
    """A sentence with its first letter large, unless it begins with a symbol (x_A, f(x), 1.3)."""
    return sentence if sentence[1:2] in "_(." else sentence[:1].upper() + sentence[1:]
