"""A test: a sample against a margin, with the correction of its family.

In: samples (or statistics) and what is wanted of them. Out: an evidence row that says yes, no or unclear. *Yes* and
*no* are surely on one side, by a bound; what lies between is unclear, and "no significant change" is never "no
change": that is a test of its own, equivalence, by the 90% interval inside the margin (Schuirmann 1987).

Many cells: `any_of` says yes by a bound that holds for all cells at once, and no where each single cell's own bound
stays under the margin (if none is there, each one must be shown not to be, which needs no correction); `every` the
other way round. A cell that was chosen on other units is an ordinary single cell: `any_of` of one says yes by its own
bound. A rank against random sets says yes by a p value that counts the set itself. Not done here: the verdict
(evidence.claim), intervals (measures).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from headscope.measures.intervals import Array
from headscope.measures.samples import Cells, Samples
from headscope.results.study import EvidenceRow
from headscope.vocabulary import Head

LEVEL = 0.95
SIGNIFICANT = 0.05
MOST_WORDS = 20


class Found(NamedTuple):
    """What a test found: numbers, the bounds that decided, the side; `cell` names the cell that stands for many."""

    estimate: float
    low: float
    high: float
    side: str
    n: int
    reason: str = ""
    cell: str = ""


class Judged(Protocol):
    """What a claim is made of: `row` judges; `no_level` is the level at which it may say no."""

    @property
    def what(self) -> str: ...

    def row(self, role: str, no_level: float = LEVEL) -> EvidenceRow: ...


@dataclass(frozen=True, eq=False)
class Test:
    """A single cell against one margin: `above`, `below`, or `within` (equivalence to 0: between minus and plus).

    `sample` is None where a selection was empty; `reason` then says what was to be selected.
    """

    __test__ = False  # pytest takes what is called Test for its own

    what: str
    sample: Cells | None
    above: float | None = None
    below: float | None = None
    within: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if sum(margin is not None for margin in (self.above, self.below, self.within)) != 1:
            raise ValueError(f"test {self.what!r}: give one of above, below and within")
        if len(self.what.split()) > MOST_WORDS:
            raise ValueError(f"test {self.what!r}: more than {MOST_WORDS} words")

    @property
    def wanted(self) -> tuple[str, float]:
        """What is compared with, and how."""
        named = (("above", self.above), ("below", self.below), ("within", self.within))
        return next((name, margin) for name, margin in named if margin is not None)

    def row(self, role: str, no_level: float = LEVEL) -> EvidenceRow:
        """The comparison with its outcome; it says no only by a bound of level `no_level`."""
        comparison, margin = self.wanted
        if self.sample is None or not len(self.sample):
            found = Found(math.nan, math.nan, math.nan, "unclear", 0, self.reason or "nothing was selected")
        elif math.isnan(margin):
            found = Found(math.nan, math.nan, math.nan, "unclear", 0, "the margin is undefined")
        else:
            found = self._judged(self.sample, no_level)
        quantity = None if self.sample is None else self.sample.quantity
        return EvidenceRow(
            role=role,
            what=f"{self.what}, {found.cell}" if found.cell else self.what,
            quantity=quantity.name if quantity else "",
            unit=quantity.unit if quantity else "",
            estimate=found.estimate,
            low=found.low,
            high=found.high,
            comparison=comparison,
            margin=margin,
            side=found.side,
            over=self.sample.over if self.sample else "",
            n=found.n,
            reason=found.reason,
        )

    def _judged(self, sample: Cells, no_level: float) -> Found:
        if len(sample) != 1:
            raise ValueError(f"test {self.what!r}: {len(sample)} cells; use at(...), any_of or every")
        usual, strict = sample.estimate(LEVEL), sample.estimate(no_level)
        mean, low, high = (float(each[0]) for each in (usual.mean, usual.low, usual.high))
        yes = self.within is None and _on_side(low, high, self.wanted)
        if self.within is not None:
            inner = sample.estimate(2 * LEVEL - 1)
            yes = -self.within < float(inner.low[0]) and float(inner.high[0]) < self.within
        no = _off_side(float(strict.low[0]), float(strict.high[0]), self.wanted)
        return Found(mean, low, high, _side(yes, no), int(sample.n[0]), _why(sample, mean, low))


def any_of(
    what: str, samples: Cells | None, *, above: float, chosen: Mapping[str, Any] | None = None, reason: str = ""
) -> Test:
    """Some cell's mean exceeds the margin; see the head of this module for what is corrected.

    `chosen` are the coordinates of a cell that other units chose (`{"layer": 3}`): yes by that cell's own bound, no
    where every cell's bound stays under the margin. The row is the chosen cell's, or, where that one is surely under
    the margin, that of the cell whose upper bound is largest. A cell that is not among them is an empty selection.
    """
    return _AnyOf(what, samples, above=above, reason=reason, chosen=chosen)


def every(
    what: str, samples: Samples | None, *, above: float | None = None, within: float | None = None, reason: str = ""
) -> Test:
    """Every cell's mean exceeds the margin, or is equivalent to 0; see the head of this module."""
    return _Every(what, samples, above=above, within=within, reason=reason)


@dataclass(frozen=True, eq=False)
class _AnyOf(Test):
    chosen: Mapping[str, Any] | None = None

    def _judged(self, sample: Cells, no_level: float) -> Found:
        assert self.above is not None
        if self.chosen is not None:
            return self._judged_at(sample, sample.only(**self.chosen), self.above, no_level)
        samples = _of_means(self.what, sample)
        joint, alone = samples.together(above=self.above), samples.estimate(no_level)
        best = _argmax(joint.at_least)
        if best is None:
            return Found(
                math.nan, math.nan, math.nan, "unclear", 0, _first(joint.reason) or "undefined in every cell"
            )
        low, high = float(joint.at_least[best]), float(np.max(alone.high))
        side = _side(low > self.above, high < self.above)
        return Found(float(joint.mean[best]), low, high, side, joint.n, "", _named(samples, best))

    def _judged_at(self, every: Cells, chosen: Cells, above: float, no_level: float) -> Found:
        if not len(chosen):
            return Found(math.nan, math.nan, math.nan, "unclear", 0, self.reason or "nothing was selected")
        if len(chosen) != 1:
            raise ValueError(f"test {self.what!r}: {len(chosen)} cells are chosen, not one")
        own, highest = chosen.estimate(LEVEL), every.estimate(no_level).high
        side = _side(float(own.low[0]) > above, bool((highest < above).all()))
        shown, name = chosen, _named(chosen, 0)
        # The row is that of the cell that decides: the chosen one, unless only another one could exceed the margin.
        if side != "yes" and float(own.high[0]) < above and not np.isnan(highest).any():
            shown = every._taken([int(highest.argmax())])
            own = shown.estimate(no_level)
            name = _named(shown, 0) + (" (not chosen)" if shown.cells != chosen.cells else "")
        mean, low, high = (float(each[0]) for each in (own.mean, own.low, own.high))
        return Found(mean, low, high, side, int(shown.n[0]), _why(shown, mean, low), name)


class _Every(Test):
    def _judged(self, sample: Cells, no_level: float) -> Found:
        samples = _of_means(self.what, sample)
        if np.isnan(samples.mean).any():
            return Found(math.nan, math.nan, math.nan, "unclear", 0, _why(samples, math.nan, math.nan))
        joint = samples.together(level=no_level)
        if self.within is not None:
            worst = int(np.abs(samples.mean).argmax())
            inner = samples.estimate(2 * LEVEL - 1)
            yes = bool((inner.low > -self.within).all() and (inner.high < self.within).all())
            no = bool(((joint.low > self.within) | (joint.high < -self.within)).any())
            low, high = float(joint.low[worst]), float(joint.high[worst])
        else:
            assert self.above is not None
            alone = samples.estimate(LEVEL)
            worst = int(alone.low.argmin())
            yes = bool((alone.low > self.above).all())
            no = bool((joint.at_most < self.above).any())
            low, high = float(alone.low[worst]), float(joint.at_most[worst])
        return Found(float(samples.mean[worst]), low, high, _side(yes, no), joint.n, "", _named(samples, worst))


@dataclass(frozen=True, eq=False)
class Rank:
    """What was picked against random sets of its size: is its `value` among the largest? `drawn` [set] are theirs.

    p = (1 + sets with at least this value) / (1 + sets). It says no where the value is among the *smallest*, by the
    same rule.
    """

    what: str
    value: float
    drawn: Array
    quantity: str
    unit: str = ""
    p_at_most: float = SIGNIFICANT

    def row(self, role: str, no_level: float = LEVEL) -> EvidenceRow:
        """The p value with its outcome; `low` and `high` are undefined."""
        sets, p, reason = len(self.drawn), math.nan, ""
        side = "unclear"
        if not sets:
            reason = "there is no other set of this size"
        elif math.isnan(self.value) or np.isnan(self.drawn).any():
            reason = "undefined for some prompts"
        else:
            p = float(1 + (self.drawn >= self.value).sum()) / (1 + sets)
            smaller = float(1 + (self.drawn <= self.value).sum()) / (1 + sets)
            side = _side(p <= self.p_at_most, smaller <= (1 - no_level))
            if p == 1 / (1 + sets) > self.p_at_most:
                reason = "too few random sets for so small a p value"
        return EvidenceRow(
            role,
            self.what,
            "p_value",
            "",
            p,
            math.nan,
            math.nan,
            "p at most",
            self.p_at_most,
            side,
            "random sets",
            sets,
            reason,
        )


def injected(test: Test) -> Test:
    """A positive control where there is no exact observer: the same samples with their mean put at twice the margin.

    It passes where an effect of that size would be seen among so many units of such a spread.
    """
    sample, (comparison, margin) = test.sample, test.wanted
    if not isinstance(sample, Samples) or comparison == "within":
        raise ValueError(f"test {test.what!r}: only means against a margin can be injected")
    shifted = sample.changed(
        replace(sample.quantity, within=None), lambda values: values - values.mean(0) + 2 * margin
    )
    return replace(test, what="twice the margin, injected", sample=shifted)


def _on_side(low: float, high: float, wanted: tuple[str, float]) -> bool:
    comparison, margin = wanted
    return low > margin if comparison == "above" else high < margin


def _off_side(low: float, high: float, wanted: tuple[str, float]) -> bool:
    comparison, margin = wanted
    if comparison == "within":
        return low > margin or high < -margin
    return high < margin if comparison == "above" else low > margin


def _side(yes: bool, no: bool) -> str:
    return "yes" if yes else "no" if no else "unclear"


def _why(sample: Cells, mean: float, low: float) -> str:
    """Why a cell has no number or no bounds; empty where it has both."""
    if not math.isnan(mean) and not math.isnan(low):
        return ""
    told = next(iter(sample.reasons.values()), "")
    if told:
        return told
    return f"too few {sample.over} for bounds" if not math.isnan(mean) else f"undefined for some {sample.over}"


def _of_means(what: str, sample: Cells) -> Samples:
    if not isinstance(sample, Samples):
        raise ValueError(f"test {what!r}: joint bounds are those of means")
    return sample


def _argmax(values: Array) -> int | None:
    known = np.where(np.isnan(values), -np.inf, values)
    return int(known.argmax()) if known.max() > -np.inf else None


def _first(reasons: Any) -> str:
    return next((str(reason) for reason in np.ravel(reasons) if reason), "")


def _named(samples: Cells, cell: int) -> str:
    """A cell in words, such as "head 1.4" or "layer 3, ablation mean"."""
    named = dict(zip((axis.name for axis in samples.axes), samples.cells[cell], strict=True))
    if "head" in named:
        named.pop("layer", None)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items())


def head_names(heads: Sequence[Head]) -> str:
    """Heads in a table or a sentence: "0.1 1.2"."""
    return " ".join(map(str, heads))
