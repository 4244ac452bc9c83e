"""The tables of redundancy: what their columns mean, and how the statistics of a game become rows.

In: interactions, effects of ablating first and last, Shapley values and smallest sets, per prompt. Out: tables of
means over prompts with 95% bounds. Damages are in logits and positive where ablation hurts.
"""

from collections.abc import Hashable, Iterable

import numpy as np
import polars as pl

from headscope.measures.coalitions import Game, PerPrompt
from headscope.measures.intervals import Array, interval
from headscope.measures.shapley import Shapley
from headscope.measures.smallest_sets import SmallestSet
from headscope.tables import Column, Schema, Table

_UNIT = "logits"


def _columns(name: str, meaning: str) -> tuple[Column, ...]:
    return (
        Column(name, pl.Float64, meaning, _UNIT),
        Column("low", pl.Float64, f"lower 95% bound of {name} over prompts", _UNIT),
        Column("high", pl.Float64, f"upper 95% bound of {name} over prompts", _UNIT),
        Column("prompts", pl.Int64, "prompts behind the mean"),
    )


def _estimated(name: str, values: Array) -> dict[str, float]:
    """The cells of these columns, from [prompt]."""
    found = interval(values)
    return {name: float(found.mean), "low": float(found.low), "high": float(found.high), "prompts": found.n}


INTERACTIONS = Schema(
    "interactions",
    (
        Column("first", pl.String, "a head"),
        Column("second", pl.String, "another head"),
        Column("damage_first", pl.Float64, "damage of ablating the first alone", _UNIT),
        Column("damage_second", pl.Float64, "damage of ablating the second alone", _UNIT),
        Column("damage_both", pl.Float64, "damage of ablating both together", _UNIT),
        *_columns("interaction", "damage_both - damage_first - damage_second; positive: the two are redundant"),
    ),
)
EFFECTS = Schema(
    "effects",
    (
        Column("head", pl.String, "the head that is ablated"),
        Column(
            "effect",
            pl.String,
            "ablated first: alone; ablated last: after all other heads of the game; Shapley: mean over all orders",
        ),
        *_columns("logit_damage", "damage that its ablation adds"),
        Column("how", pl.String, "what was ablated: one set, all sets, or a number of drawn orders"),
        Column(
            "sampling_error",
            pl.Float64,
            "standard error of the mean over drawn orders, not part of the bounds; 0 where nothing is drawn, "
            "NaN for a single pair of orders",
            _UNIT,
        ),
    ),
)
SETS = Schema(
    "sets",
    (
        Column(
            "kind",
            pl.String,
            "necessary: ablating the set does the share of the damage of ablating all heads of the game; "
            "sufficient: keeping it alone restores that share",
        ),
        Column("share", pl.Float64, "what the set must reach, as a share of what all heads reach"),
        Column("heads", pl.String, "the set; empty if there is none"),
        Column("size", pl.Int64, "how many heads; empty if there is none"),
        Column("search", pl.String, "the search that found it: growing or shrinking"),
        Column("grown_size", pl.Int64, "size that growing found"),
        Column("shrunk_size", pl.Int64, "size that shrinking found"),
        Column("reached", pl.Float64, "what the set reaches on other prompts than it was chosen on", _UNIT),
        Column("everything", pl.Float64, "what all heads of the game reach there", _UNIT),
        *_columns("excess_logits", "reached - share * everything; below 0: the set does not hold there"),
        Column("reason", pl.String, "why there is no set, or no interval; empty where there is"),
    ),
)
STEPS = Schema(
    "steps",
    (
        Column("kind", pl.String, "necessary or sufficient"),
        Column("search", pl.String, "growing: from no head, then shrunk; shrinking: from all heads of the game"),
        Column("step", pl.Int64, "from 1"),
        Column("action", pl.String, "add to the set, or leave out of it"),
        Column("head", pl.String, "which head"),
        Column("tied", pl.Int64, "heads that were equally good, this one included; the first named was taken"),
        Column("heads", pl.String, "the set after the step"),
        Column("size", pl.Int64, "how many heads"),
        *_columns("reached", "damage of ablating the set (necessary), or what keeping it restores"),
    ),
)


def interactions_table(game: Game, pairs: PerPrompt) -> Table:
    return INTERACTIONS.table(
        {
            "first": str(first),
            "second": str(second),
            "damage_first": float(game([first]).mean()),
            "damage_second": float(game([second]).mean()),
            "damage_both": float(game([first, second]).mean()),
            **_estimated("interaction", values),
        }
        for (first, second), values in zip(pairs.labels, pairs.values.T, strict=True)
    )


def effects_table(first: PerPrompt, last: PerPrompt, values: Shapley) -> Table:
    how = "all sets" if values.orders is None else f"{values.orders} orders"
    none = np.zeros(len(values.labels))
    kinds = (
        ("ablated first", first, "one set", none),
        ("ablated last", last, "one set", none),
        ("Shapley", values, how, values.sampling_error),
    )
    return EFFECTS.table(
        {
            "head": str(head),
            "effect": effect,
            **_estimated("logit_damage", each.values[:, column]),
            "how": ablated,
            "sampling_error": float(error[column]),
        }
        for column, head in enumerate(values.labels)
        for effect, each, ablated, error in kinds
    )


def sets_table(sets: Iterable[SmallestSet]) -> Table:
    rows = []
    for one in sets:
        sizes = {search.name: len(search.members) for search in one.searches}
        excess = _estimated("excess_logits", one.excess)
        reason = one.reason
        if not reason and np.isnan(excess["low"]):
            reason = f"{excess['prompts']} prompts to estimate on are too few for an interval"
        rows.append(
            {
                "kind": one.kind,
                "share": one.share,
                "heads": _written(one.members or ()),
                "size": None if one.members is None else len(one.members),
                "search": one.search,
                "grown_size": sizes.get("growing"),
                "shrunk_size": sizes.get("shrinking"),
                "reached": float(one.reached.mean()),
                "everything": float(one.everything.mean()),
                **excess,
                "reason": reason,
            }
        )
    return SETS.table(rows)


def steps_table(sets: Iterable[SmallestSet]) -> Table:
    return STEPS.table(
        {
            "kind": one.kind,
            "search": search.name,
            "step": number,
            "action": step.action,
            "head": str(step.player),
            "tied": step.tied,
            "heads": _written(step.members),
            "size": len(step.members),
            **_estimated("reached", step.reached),
        }
        for one in sets
        for search in one.searches
        for number, step in enumerate(search.steps, start=1)
    )


def _written(heads: Iterable[Hashable]) -> str:
    """Heads as text: "0.1 1.2"."""
    return " ".join(map(str, heads))
