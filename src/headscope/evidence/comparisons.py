"""A test: a sample against a margin, with the correction of its family.

In: samples (or statistics) and what is wanted of them. Out: an evidence row that says yes, no or unclear. *Yes* and
*no* are surely on one side, by a bound; what lies between is unclear, and "no significant change" is never "no
change": that is a test of its own, equivalence, by an inner interval inside the margin (measures.equivalence).

Many cells: `any_of` says yes and no by bounds that hold for all cells at once; `every` says yes where each cell's own
bound holds (all must, which needs no correction), and no by the bounds of all. A cell that was chosen on other units
is an ordinary single cell: `any_of` of samples that have one says yes by its own bound, and no by those of all cells
still, for the choice may have missed. A rank against random sets says yes by a p value that counts the set itself.
Not done here: the verdict (evidence.claim), intervals (measures).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headscope.measures.equivalence import inner_level
from headscope.measures.intervals import Array, Estimate
from headscope.measures.samples import Cells, Samples
from headscope.results.study import EvidenceRow
from headscope.vocabulary import Head

LEVEL = 0.95
SIGNIFICANT = 0.05
MOST_WORDS = 20
NAN = math.nan
Bools = NDArray[np.bool_]


class Found(NamedTuple):
    """What a test found: numbers, the bounds that decided, the side; `cell` names the cell that stands for many."""

    estimate: float = NAN
    low: float = NAN
    high: float = NAN
    side: str = "unclear"
    n: int = 0
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
        if self.sample is None or not len(self.sample) or not self.sample.n.any():
            found = self._nothing()
        elif math.isnan(margin):
            found = Found(reason="the margin is undefined")
        else:
            found = self._judged(self.sample, no_level)
        quantity = None if self.sample is None else self.sample.quantity
        numbers = found._asdict()
        cell = numbers.pop("cell")
        return EvidenceRow(
            role=role,
            what=f"{self.what} ({cell})" if cell else self.what,
            quantity=quantity.name if quantity else "",
            unit=quantity.unit if quantity else "",
            comparison=comparison,
            margin=margin,
            over=self.sample.over if self.sample else "",
            **numbers,
        )

    def _nothing(self) -> Found:
        return Found(reason=self.reason or "nothing was selected")

    def _judged(self, sample: Cells, no_level: float) -> Found:
        if len(sample) != 1:
            raise ValueError(f"test {self.what!r}: {len(sample)} cells; use at(...), any_of or every")
        usual, strict = sample.estimate(LEVEL), sample.estimate(no_level)
        inner = usual if self.within is None else sample.estimate(_inner(sample))
        side = _side(self._holds(inner).all(), self._fails(strict.low, strict.high).all())
        # Equivalence is shown by the inner interval: the row has the bounds that decided.
        return _found(sample, inner if side == "yes" else usual, side)

    def _holds(self, bounds: Estimate) -> Bools:
        """Which cells surely are on the wanted side; `within` takes those of equivalence."""
        comparison, margin = self.wanted
        if comparison == "within":
            return (bounds.low > -margin) & (bounds.high < margin)
        return bounds.low > margin if comparison == "above" else bounds.high < margin

    def _fails(self, low: Array, high: Array) -> Bools:
        """Which cells surely are on the other side."""
        comparison, margin = self.wanted
        if comparison == "within":
            return (low > margin) | (high < -margin)
        return high < margin if comparison == "above" else low > margin


def any_of(what: str, samples: Cells | None, *, above: float, reason: str = "") -> Test:
    """Some cell's mean exceeds the margin; see the head of this module for what is corrected.

    Where other units chose a cell (`samples.choosing(layer=3)`): yes by that cell's own bound, no where the joint
    bounds of all cells stay under the margin. The row is the chosen cell's, or, where that one is surely under the
    margin, that of the cell whose upper bound is largest. A chosen cell that is not among them is an empty selection.
    """
    return _AnyOf(what, samples, above=above, reason=reason)


def every(
    what: str, samples: Samples | None, *, above: float | None = None, within: float | None = None, reason: str = ""
) -> Test:
    """Every cell's mean exceeds the margin, or is equivalent to 0; see the head of this module."""
    return _Every(what, samples, above=above, within=within, reason=reason)


class _AnyOf(Test):
    def _judged(self, sample: Cells, no_level: float) -> Found:
        assert self.above is not None
        if sample.chosen:
            return self._judged_at(sample, sample.only(**sample.chosen), self.above, no_level)
        joint, highest = sample.together(above=self.above), sample.together(level=no_level).at_most
        if np.isnan(joint.at_least).all():
            return Found(reason=next(filter(None, joint.reason), "undefined in every cell"))
        best = int(np.nanargmax(joint.at_least))
        low, high = float(joint.at_least[best]), float(np.nanmax(highest))
        side = _side(low > self.above, (highest < self.above).all())
        return Found(float(joint.mean[best]), low, high, side, joint.n, cell=_named(sample, best))

    def _judged_at(self, every: Cells, shown: Cells, above: float, no_level: float) -> Found:
        if not len(shown):
            return self._nothing()
        if len(shown) != 1:
            raise ValueError(f"test {self.what!r}: {len(shown)} cells are chosen, not one")
        own, highest, name = shown.estimate(LEVEL), every.together(level=no_level).at_most, _named(shown, 0)
        side = _side(own.low[0] > above, (highest < above).all())
        # The row is that of the cell that decides: the chosen one, unless only another one could exceed the margin.
        if side != "yes" and own.high[0] < above and not np.isnan(highest).any():
            place, chosen = int(highest.argmax()), shown.cells
            shown = every._taken([place])
            own = replace(shown.estimate(no_level), high=highest[[place]])
            name = _named(shown, 0) + (", not chosen" if shown.cells != chosen else "")
        return _found(shown, own, side, name)


class _Every(Test):
    def _judged(self, sample: Cells, no_level: float) -> Found:
        if np.isnan(sample.point).any():
            return Found(reason=_why(sample, sample.estimate()))
        joint, inner = (
            sample.together(level=no_level),
            sample.estimate(LEVEL if self.within is None else _inner(sample)),
        )
        one_sided = self.within is None
        low, high = (inner.low, joint.at_most) if one_sided else (joint.low, joint.high)
        fails = self._fails(low, high)
        side = _side(self._holds(inner).all(), fails.any())
        if side == "yes":
            low, high = inner.low, inner.high
        # The row is that of the cell that decides: of those that fail, or of all, the one farthest on the wrong side.
        farthest = -sample.point if one_sided else np.abs(sample.point)
        if not fails.any() and one_sided:
            farthest = -inner.low
        worst = int(np.where(fails if side == "no" else True, farthest, -np.inf).argmax())
        mean, low_bound, high_bound = (float(each[worst]) for each in (sample.point, low, high))
        return Found(mean, low_bound, high_bound, side, joint.n, cell=_named(sample, worst))


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

    def row(self, role: str, no_level: float = LEVEL) -> EvidenceRow:
        """The p value with its outcome; `low` and `high` are undefined."""
        sets, p, side, reason = len(self.drawn), NAN, "unclear", ""
        if not sets:
            reason = "there is no other set of this size"
        elif math.isnan(self.value) or np.isnan(self.drawn).any():
            reason = "undefined for some prompts"
        else:
            p, smaller = (
                float(1 + beyond.sum()) / (1 + sets)
                for beyond in (self.drawn >= self.value, self.drawn <= self.value)
            )
            side = _side(p <= SIGNIFICANT, smaller <= 1 - no_level)
            if p == 1 / (1 + sets) > SIGNIFICANT:
                reason = "too few random sets for so small a p value"
        compared = ("p at most", SIGNIFICANT, side, "random sets", sets, reason)
        return EvidenceRow(role, self.what, "p_value", "", p, NAN, NAN, *compared)


@dataclass(frozen=True)
class Simulated:
    """What was found against simulations in which it is not so: p is the share of these that go as far or farther.

    A large p shows nothing, so that it never says no. `draws` simulations; `reason` says why there is no p, or what
    else is `lacking`, without which a small one shows nothing either.
    """

    what: str
    p: float
    draws: int
    reason: str = ""
    lacking: bool = False

    def row(self, role: str, no_level: float = LEVEL) -> EvidenceRow:
        """The p value with its outcome; `low` and `high` are undefined."""
        side = _side(self.p <= SIGNIFICANT and not self.lacking, False)
        compared = ("p at most", SIGNIFICANT, side, "simulations", self.draws, self.reason)
        return EvidenceRow(role, self.what, "p_value", "", self.p, NAN, NAN, *compared)


def injected(test: Test) -> Test:
    """A positive control where there is no exact observer: the same samples with their mean put at twice the margin.

    It passes where an effect of that size would be seen among so many units of such a spread.
    """
    sample, (comparison, margin) = test.sample, test.wanted
    if not isinstance(sample, Samples) or comparison != "above" or not margin > 0:
        raise ValueError(f"test {test.what!r}: only means above a positive margin can be injected")
    free = replace(sample.quantity, within=None)
    shifted = sample.changed(free, lambda values: values - values.mean(0) + 2 * margin)
    return replace(test, what="twice the margin, injected", sample=shifted)


def _inner(sample: Cells) -> float:
    return inner_level(LEVEL, int(sample.n.min()))


def _side(yes: Any, no: Any) -> str:
    return "yes" if yes else "no" if no else "unclear"


def _found(sample: Cells, bounds: Estimate, side: str, cell: str = "") -> Found:
    """What is known of a single cell."""
    mean, low, high = (float(each[0]) for each in (bounds.mean, bounds.low, bounds.high))
    return Found(mean, low, high, side, int(sample.n[0]), _why(sample, bounds), cell)


def _why(sample: Cells, bounds: Estimate) -> str:
    """Why a cell has no number or no bounds; empty where all have both."""
    if not np.isnan(bounds.low).any():
        return ""
    unknown = f"undefined for some {sample.over}"
    known = [] if np.isnan(bounds.mean).any() else [*bounds.reasons.values()]
    return next(filter(None, [*sample.reasons.values(), *known]), unknown)


def _named(samples: Cells, cell: int) -> str:
    """A cell in words, such as "head 1.4" or "layer 3, ablation mean"."""
    named = dict(zip((axis.name for axis in samples.axes), samples.cells[cell], strict=True))
    if "head" in named:
        named.pop("layer", None)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in named.items())


def head_names(heads: Sequence[Head]) -> str:
    """Heads in a table or a sentence: "0.1 1.2"."""
    return " ".join(map(str, heads))
