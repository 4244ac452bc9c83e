"""The tables of the vectors study: what their columns mean, and how outcomes become rows.

Functions are the unit of every interval: problems of one function share its vectors, and another function would
have given others. Means are taken over the problems of each function first.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from headscope.measures.intervals import interval
from headscope.studies.vectors_parts.heads import Overlap, by_function
from headscope.studies.vectors_parts.reach import FUNCTION
from headscope.studies.vectors_parts.values import ACCURACY, PROBABILITY, unpacked
from headscope.sweeps.controls import AgainstRandom
from headscope.tables import Column, Schema
from headscope.tasks.functions import Ints

# The comparisons that claims go by.
BEYOND_SHUFFLED = "task vector minus label-shuffled one"
TASK_SHARE = "task vector: share of what pairs add"
NOT_COPIED = "task vector: what is asked minus the dummy query's answer"
FOLLOWS_OTHER = "other function's vector: its answer minus own answer"
COPIED = "task vector: the dummy query's answer minus without a vector"
FUNCTION_SHARE = "function vector: share of what pairs add"
FUNCTION_FOLLOWS_OTHER = "other function's function vector: its answer minus own answer"
MATTER_MORE = "function-vector heads cut minus induction heads cut"

_FUNCTIONS = Column("functions", pl.Int64, "functions behind the mean, the unit of the bounds")
_LAYER = Column("layer", pl.Int64, "the stream before this layer, from 0")


def beyond(control: str) -> str:
    """The name of the comparison of the function vector with one of its controls."""
    return f"{FUNCTION} minus {control}"


def _bounds(of: str, unit: str = "", prefix: str = "") -> tuple[Column, Column]:
    return (
        Column(f"{prefix}low", pl.Float64, f"lower 95% bound of the {of} over functions", unit),
        Column(f"{prefix}high", pl.Float64, f"upper 95% bound of the {of} over functions", unit),
    )


_MEASURED = (
    Column(
        "accuracy", pl.Float64, "share of problems with the answer as the single most likely one", "share"
    ),
    *_bounds("accuracy", "share"),
    Column("probability", pl.Float64, "mean probability of the answer", "probability"),
    *_bounds("probability", "probability", "probability_"),
    _FUNCTIONS,
    Column("prompts", pl.Int64, "problems behind the mean"),
)

BASELINES = Schema(
    "baselines",
    (
        Column(
            "prompts_kind",
            pl.String,
            "zero-shot: the query alone; few-shot: pairs and the query; label-shuffled: each y at another x",
        ),
        *_MEASURED,
    ),
)
_UNDER_VECTORS = (
    Column("half", pl.String, "selection: functions that choose layers; estimation: the others"),
    Column("prompts_kind", pl.String, "the prompts into which the vector is put"),
    Column("vector", pl.String, "what is put there"),
    Column("answer", pl.String, "the answer that is looked for: what is asked, or what shows a copy"),
    _LAYER,
    *_MEASURED,
)
TASK_VECTORS = Schema("task_vectors", _UNDER_VECTORS)
FUNCTION_VECTORS = Schema("function_vectors", _UNDER_VECTORS)
COMPARISONS = Schema(
    "comparisons",
    (
        Column("comparison", pl.String, "which two accuracies are compared, problem by problem"),
        _LAYER,
        Column("picked", pl.Boolean, "whether the selection half chose this layer for it"),
        Column("difference", pl.Float64, "difference, or share of what pairs add to accuracy", "share"),
        *_bounds("difference", "share"),
        _FUNCTIONS,
    ),
)
HEADS = Schema(
    "head_effects",
    (
        Column("layer", pl.Int64, "layer, from 0"),
        Column("head", pl.Int64, "head within its layer, from 0"),
        Column("indirect_effect", pl.Float64, "causal indirect effect on the answer", "probability"),
        *_bounds("effect", "probability"),
        Column(
            "adjusted_low",
            pl.Float64,
            "one-sided lower 95% bound of the effect that holds for all heads at once",
            "probability",
        ),
        Column("selection_effect", pl.Float64, "the effect on the half that selects", "probability"),
        Column(
            "prefix_matching", pl.Float64, "attention to what followed copies, on repeated tokens", "share"
        ),
        Column(
            "example_to_example", pl.Float64, "attention from where a y is predicted to earlier y", "share"
        ),
        Column("prefix_matching_named", pl.Boolean, "whether the detector names it, beyond the null"),
        Column("example_to_example_named", pl.Boolean, "whether the detector names it, beyond the null"),
        Column("picked", pl.String, "function-vector, induction or both: as selected"),
        _FUNCTIONS,
    ),
)
OVERLAP = Schema(
    "overlap",
    (
        Column("induction", pl.String, "which induction score"),
        Column("judged", pl.Boolean, "whether the claims go by it"),
        Column("top", pl.Int64, "heads taken of each ranking"),
        Column("common", pl.Int64, "heads that are in both, as selected"),
        Column("expected", pl.Float64, "how many if both were drawn at random", "heads"),
        Column("p_at_least", pl.Float64, "chance of at least so many at random", "probability"),
        Column("p_at_most", pl.Float64, "chance of at most so many at random", "probability"),
        Column(
            "share_low", pl.Float64, "lower 95% bound of the common share, functions and prompts resampled"
        ),
        Column("share_high", pl.Float64, "upper 95% bound of it"),
        Column("rho", pl.Float64, "rank correlation of effect and score over all heads"),
        Column("low", pl.Float64, "lower 95% bound of it, functions and prompts resampled"),
        Column("high", pl.Float64, "upper 95% bound of it"),
        Column("p", pl.Float64, "chance of so strong a correlation with heads exchanged", "probability"),
        Column("reason", pl.String, "why it is undefined; empty where it is not"),
    ),
)
ABLATIONS = Schema(
    "ablations",
    (
        Column("group", pl.String, "the top heads of one kind that are not top heads of the other"),
        Column("heads", pl.String, "which are cut together (means in their place)"),
        Column("size", pl.Int64, "how many"),
        Column("damage", pl.Float64, "few-shot accuracy lost", "share"),
        *_bounds("damage", "share"),
        Column("beyond_random", pl.Float64, "damage minus the mean of random sets of as many heads", "share"),
        *_bounds("excess", "share", "beyond_"),
        Column("random_mean", pl.Float64, "mean damage of random sets of as many heads", "share"),
        Column("random_max", pl.Float64, "largest damage among the random sets", "share"),
        Column("random_sets", pl.Int64, "how many random sets were cut"),
        Column("p", pl.Float64, "share of sets, this one included, with at least this damage", "probability"),
        Column("probability_damage", pl.Float64, "probability of the answer lost", "probability"),
        _FUNCTIONS,
    ),
)
_UNDEFINED = dict.fromkeys(
    ("expected", "p_at_least", "p_at_most", "share_low", "share_high", "rho", "low", "high", "p"),
    float("nan"),
)


def estimate(
    values: Tensor, function: Ints, name: str, prefix: str = "", within: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Mean over functions of one value per problem, with bounds, as cells of a row; `within` is their range."""
    found = interval(by_function(values, function), within=within)
    return {
        name: float(found.mean),
        f"{prefix}low": float(found.low),
        f"{prefix}high": float(found.high),
        "functions": found.n,
    }


def measured(outcome: Tensor, function: Ints) -> dict[str, Any]:
    """Accuracy and probability [measure, problem] as cells of a row."""
    return {
        **estimate(outcome[ACCURACY], function, "accuracy", within=(0.0, 1.0)),
        **estimate(outcome[PROBABILITY], function, "probability", "probability_", within=(0.0, 1.0)),
        "prompts": len(function),
    }


def under_vectors(
    half: str, kind: str, under: Mapping[tuple[str, str], Tensor], function: Ints
) -> Iterable[dict[str, Any]]:
    """Rows of every vector, answer and layer."""
    for (vector, answer), outcome in under.items():
        for layer in range(outcome.shape[1]):
            where = {"half": half, "prompts_kind": kind, "vector": vector, "answer": answer, "layer": layer}
            yield {**where, **measured(outcome[:, layer], function)}


def comparison(name: str, differences: Tensor, picked: int, function: Ints) -> Iterable[dict[str, Any]]:
    """Rows of one comparison [layer, problem]."""
    for layer, values in enumerate(differences):
        where = {"comparison": name, "layer": layer, "picked": layer == picked}
        yield {**where, **estimate(values, function, "difference")}


def share_of_gap(gained: Tensor, gap: Tensor, function: Ints) -> Tensor:
    """`gained` as a share of the mean of `gap` [problem]; NaN where that is not clearly above 0."""
    found = interval(by_function(gap, function))
    return gained / float(found.mean) if float(found.low) > 0 else gained * float("nan")


def overlap_row(kind: str, judged: bool, top: int, found: Overlap | None, reason: str) -> dict[str, Any]:
    """One ranking beside that of effects; without `found` the `reason` says why there is none."""
    where = {"induction": kind, "judged": judged, "top": top, "reason": reason}
    if found is None:
        return {**where, "common": None, **_UNDEFINED}
    return {**where, "common": found.common, **{name: float(getattr(found, name)) for name in _UNDEFINED}}


def ablation_row(group: str, beside: AgainstRandom, function: Ints) -> dict[str, Any]:
    """A group of heads beside random sets of the same size; damages are those of `whole_answer`."""
    own, sets = unpacked(beside.damage), unpacked(beside.set_damage)
    drawn, damage = sets[ACCURACY], own[ACCURACY]
    means = drawn.mean(1)
    some = len(drawn) > 0
    excess = damage - drawn.mean(0) if some else damage * float("nan")
    return {
        "group": group,
        "heads": " ".join(map(str, beside.picked)),
        "size": len(beside.picked),
        **estimate(damage, function, "damage", within=(-1.0, 1.0)),
        **estimate(excess, function, "beyond_random", "beyond_"),
        "random_mean": float(means.mean()) if some else float("nan"),
        "random_max": float(means.max()) if some else float("nan"),
        "random_sets": len(drawn),
        "p": (1 + int((means >= damage.mean()).sum())) / (1 + len(drawn)),
        "probability_damage": float(own[PROBABILITY].mean()),
    }


def largest(rows: Iterable[Mapping[str, Any]], name: str) -> float:
    """The largest of a column; NaN if there is none or one is undefined."""
    values = [float(row[name]) for row in rows]
    return float(np.max(values)) if values else float("nan")
