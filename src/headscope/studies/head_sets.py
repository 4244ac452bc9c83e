"""Sets of heads: named by a detector, told in a sentence, and ablated beside as many random heads.

In: attention above a null, or `AgainstRandom` (sweeps.controls) by the name of the set. Out: heads, strongest first;
the tests that a set costs more than random ones do; columns of a table of sets. Not done here: ablating.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import polars as pl

from headscope.detectors import NAMED_MARGIN, DetectorPrompts, above_null, head_attention, kinds, signed_raise
from headscope.evidence import Rank, Test
from headscope.evidence.comparisons import head_names
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.sweeps.controls import FEWEST_SETS, AgainstRandom
from headscope.tables import Column, Quantity
from headscope.vocabulary import Head, Progress, silent

INTERACTION_SHARE = 0.1
FLOOR = 0.1  # in the unit of the damage: logits or nats; less is not worth a sentence
COLUMNS: dict[Column, Callable[[AgainstRandom], Any]] = {
    Column("ablated", pl.String, "the heads, ablated together"): lambda one: head_names(one.picked),
    Column("size", pl.Int64, "how many heads"): lambda one: len(one.picked),
    Column("random_mean", pl.Float64, "mean over random sets of as many heads", "nats"): lambda one: float(
        one.means.mean()
    ),
    Column("random_max", pl.Float64, "largest damage among the random sets", "nats"): lambda one: max(
        one.means.tolist(), default=math.nan
    ),
    Column("random_worst", pl.String, "the heads of that set"): lambda one: head_names(one.worst),
    Column("random_sets", pl.Int64, "random sets that were ablated"): lambda one: len(one.sets),
    Column("p_value", pl.Float64, "share of sets, this one included, with at least its damage"): lambda one: one.p,
}


def named(above: Samples) -> tuple[Head, ...]:
    """The heads whose attention above the null [prompt, (layer, head)] is clear for all at once, strongest first."""
    heads = above.named(above=NAMED_MARGIN) if len(above) else above
    order = (-heads.estimate().low).argsort(kind="stable") if len(heads) else ()
    return tuple(Head.parse(heads.coordinates("head")[place]) for place in order)


def heads_by_kind(model: Model, prompts: DetectorPrompts, progress: Progress = silent) -> dict[str, tuple[Head, ...]]:
    """Induction, previous-token and duplicate-token heads, strongest first; "like_induction" are those that have the
    pattern of induction and another sign, or one that is not known."""
    kinds_of = ("induction", "previous_token", "duplicate_token")
    read = head_attention(model, kinds_of, prompts=prompts, progress=progress)
    above = {kind: above_null(layers) for kind, layers in read.items()}
    sign = kinds(above["induction"], signed_raise(model, prompts, progress=progress)[0])
    found = {kind: named(each) for kind, each in above.items()}
    copies = tuple(head for head in found["induction"] if sign[str(head)] == "induction")
    other = tuple(head for head in found["induction"] if head not in copies)
    return {**found, "induction": copies, "like_induction": other}


def apart(model: Model, picked: Collection[Head], tested: Collection[Head]) -> set[Head]:
    """What no random set beside `picked` may hold: heads under test, and those of other layers.

    Other layers than those of the picked heads where four times as many heads are left in these, else those before
    the first and after the last of them, else none: sets of nearly all that are left would hardly differ.
    """
    own = {head.layer for head in picked}
    for layers in (own, range(min(own), max(own) + 1)):
        elsewhere = {head for head in model.heads if head.layer not in layers}
        left = len(model.heads) - len({*tested, *picked, *elsewhere})
        if left >= 4 * len(picked) and math.comb(left, len(picked)) >= FEWEST_SETS:
            return {*tested, *elsewhere}
    return set(tested)


def first_few(heads: Sequence[Head], most: int) -> str:
    """The first of many heads in a sentence.

    >>> first_few([Head(0, 1), Head(1, 0), Head(2, 3)], 2)
    '0.1 1.0 and 1 more'
    """
    return head_names(heads[:most]) + (f" and {len(heads) - most} more" if len(heads) > most else "")


def rank_in_words(each: AgainstRandom) -> str:
    """A set's rank among random ones; their mean is no number that is known from a few of them."""
    if not each.sets or math.isnan(each.p):
        return f"beside no random set: {each.reason}"
    less = int((each.means < each.ranked).sum())
    return f"more than {less} of {len(each.sets)} random sets of as many heads (p = {each.p:.2f})"


def beyond_random(what: str, quantity: Quantity, ablated: AgainstRandom | None, none: str) -> list[Rank | Test]:
    """Tests that a set costs anything, and among random ones as much as the largest; `none`: why not known.

    The mean of a few random sets is no number that is known: sets are compared by rank, both ways.
    """
    if ablated is None:
        return [Test(what, None, above=0.0, reason=none)]
    ranked = "rank among random sets"
    if not ablated.sets:
        return [Test(ranked, None, above=0.0, reason=ablated.reason)]
    rank = Rank(ranked, ablated.ranked, ablated.means.numpy(), quantity.name, quantity.unit)
    return [rank, Test(what, Samples.one(quantity, ablated.damage), above=0.0)]


def superadditive(jointly_more: Samples | None, singly: Samples | None, reason: str, *, floor: float = FLOOR) -> Test:
    """The test of redundancy: joint damage minus the sum of single ones and a tenth of that sum, prompt by prompt.

    The sum is subtracted before anything is averaged, so that a margin that is a share of it is as uncertain as it
    is; where single damages cancel, the `floor` keeps rounding from deciding. See `costly_together`.
    """
    what = f"joint damage minus {1 + INTERACTION_SHARE:.1f} times the sum of single ones"
    if jointly_more is None or singly is None:
        return Test(what, None, above=floor, reason=reason)
    share = INTERACTION_SHARE * (-1 if singly.mean[0] < 0 else 1)
    beyond = jointly_more - singly.changed(singly.quantity, lambda values: share * values)
    return Test(what, beyond, above=floor, reason=reason)


def costly_together(
    jointly_more: Samples | None, singly: Samples | None, reason: str, *, floor: float = FLOOR
) -> Test:
    """What redundancy presumes (a need): that ablating all of them costs anything; singly they may cost nothing."""
    together = None if jointly_more is None or singly is None else jointly_more - (-singly)
    return Test("joint damage", together, above=floor, reason=reason)


def columns_of(sets: Mapping[Any, AgainstRandom], names: str) -> dict[Column, dict[Any, Any]]:
    """Columns with these names (`more=`) of a table with a row for each set."""
    by_name = {column.name: column for column in COLUMNS}
    wanted = [by_name[name] for name in names.split()]
    return {column: {label: COLUMNS[column](one) for label, one in sets.items()} for column in wanted}
