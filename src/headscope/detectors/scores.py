"""The rows of the detector table: scores with intervals, references and nulls, and which heads are named.

In: per layer, one detector's attention mass on its keys and on its null, prompt by prompt. Out: one row per
head. A head is *named* if its score exceeds the matched null by a margin (.1) with a lower bound that holds for
all heads of the model at once (measures.simultaneous): an interval above uniform attention names far too many heads
of a random model, and an interval of one head at a time names the more the more heads there are. Each detector
is a family of its own.

Why a margin and not 0: the matched null of repetition is nearly one, not exactly. Repeated prompts hold copies of
the query's own token, the null holds none, and attention sums to 1: what a random head gives to such copies, or
keeps from them, is missing or left over at the keys that are judged (`pytest tests/test_random_heads.py -s`).
Not done here: reading attention (detectors.reading).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from headscope.detectors.catalogue import Detector
from headscope.measures.intervals import MIN_UNITS, Estimate, interval
from headscope.measures.samples import Samples, over_heads
from headscope.measures.simultaneous import MIN_UNITS_TOGETHER
from headscope.tables import Column, Quantity, Schema
from headscope.vocabulary import Head

NAMED_MARGIN = 0.1
ABOVE_NULL = Quantity(
    "above_null", "attention on the detector's keys minus that on the null's, paired", "", within=(-1.0, 1.0)
)

HEADS = Schema(
    "heads",
    (
        Column("layer", pl.Int64, "layer, from 0"),
        Column("head", pl.String, "layer.index of the head, as in 1.4"),
        Column("detector", pl.String, "what kind of head is looked for"),
        Column("score", pl.Float64, "mean attention on the detector's keys", "probability"),
        Column("low", pl.Float64, "lower 95% bound of the score over prompts", "probability"),
        Column("high", pl.Float64, "upper 95% bound of the score over prompts", "probability"),
        Column("uniform", pl.Float64, "the score of even attention = share of visible keys", "probability"),
        Column("lift", pl.Float64, "score over uniform", "times"),
        Column("null", pl.Float64, "mean attention on the keys of the null, see null_kind", "probability"),
        Column(
            "null_kind",
            pl.String,
            "nothing repeats: the same pairs on matched prompts in which no token occurs twice; other keys: "
            "equally many other visible keys of the same queries; other roles: the largest of the same queries on "
            "numbers of another role, the same keys from other queries, and the same distances from other queries",
        ),
        Column("above_null_low", pl.Float64, "lower 95% bound of score - null, paired", "probability"),
        Column("above_null_high", pl.Float64, "upper 95% bound of score - null, paired", "probability"),
        Column(
            "adjusted_low",
            pl.Float64,
            "one-sided lower 95% bound of score - null that holds for all heads of this detector at once",
            "probability",
        ),
        Column(
            "adjusted_p_value",
            pl.Float64,
            f"p value of a score at most {NAMED_MARGIN} above the null, adjusted for all heads of this detector",
            "probability",
        ),
        Column("named", pl.Boolean, f"adjusted_low exceeds {NAMED_MARGIN}"),
        Column("prompts", pl.Int64, "prompts behind the score"),
        Column("reason", pl.String, "why there is no score, interval or adjusted bound, or none for some queries"),
    ),
)


@dataclass(frozen=True)
class LayerMass:
    """What one detector read in one layer: mass and null [prompt, head], uniform [prompt].

    `hidden` is the share of its queries whose keys lie outside the window of the layer, and which are not judged.
    """

    mass: Tensor
    null: Tensor
    uniform: Tensor
    hidden: float = 0.0

    @property
    def kept(self) -> Tensor:
        """Prompts with something to judge, [prompt]."""
        return ~self.above.isnan().any(1)

    @property
    def above(self) -> Tensor:
        """How much of the mass is beyond the null, [prompt, head]."""
        return self.mass - self.null


def rows_of(detector: Detector, layers: Mapping[int, LayerMass]) -> list[dict[str, object]]:
    """One row per head of all layers of a model; the heads of all layers are one family."""
    together = _together(layers)
    return [row for layer, read in layers.items() for row in _rows(layer, detector, read, together)]


def above_null(layers: Mapping[int, LayerMass]) -> Samples:
    """Score minus null of every head in layers that judge enough prompts, on the prompts that all of these judge."""
    wide = [layer for layer, read in layers.items() if int(read.kept.sum()) >= MIN_UNITS_TOGETHER]
    common = torch.stack([layers[layer].kept for layer in wide]).all(0) if wide else torch.zeros(0)
    heads = [Head(layer, index) for layer in wide for index in range(layers[layer].mass.shape[1])]
    above = [layers[layer].above[common].double() for layer in wide]
    units = tuple(torch.nonzero(common).flatten().tolist())
    return over_heads(ABOVE_NULL, heads, torch.cat(above, 1) if wide else torch.zeros(0, 0), units=units)


def _together(layers: Mapping[int, LayerMass]) -> dict[str, tuple[float, float, str]]:
    """Lower bound, p value and reason of every head in the family over all heads (see `above_null`)."""
    above = above_null(layers)
    if len(above.units) < MIN_UNITS_TOGETHER:
        return {}
    bounds = above.together(above=NAMED_MARGIN)
    told = zip(bounds.at_least.tolist(), bounds.p.tolist(), bounds.reason.tolist(), strict=True)
    return {str(head): each for (_, head), each in zip(above.cells, told, strict=True)}


def _rows(
    layer: int, detector: Detector, read: LayerMass, together: Mapping[str, tuple[float, float, str]]
) -> list[dict[str, object]]:
    """One row per head; prompts in which nothing is judged are left out, and `prompts` counts the rest."""
    kept, nothing = read.kept, np.full(read.mass.shape[1], np.nan)
    prompts = int(kept.sum())

    def bounded(values: Tensor, within: tuple[float, float]) -> Estimate:
        shown = values[kept].double().numpy()
        return interval(shown, within=within) if prompts else Estimate(nothing, nothing, nothing, 0)

    score, above = bounded(read.mass, (0.0, 1.0)), bounded(read.above, (-1.0, 1.0))
    expected = float(read.uniform[kept].mean())
    few = f"{prompts} of {len(kept)} prompts have a query to judge; an interval needs {MIN_UNITS}"
    window = f"for {read.hidden:.0%} of queries all keys lie outside the window of the layer" if read.hidden else ""
    apart = f"bounds for all heads at once need {MIN_UNITS_TOGETHER} prompts that every layer judges"
    rows = []
    for head in range(read.mass.shape[1]):
        value, name = float(score.mean[head]), str(Head(layer, head))
        low, p, reason = together.get(name, (math.nan, math.nan, apart))
        rows.append(
            {
                "layer": layer,
                "head": name,
                "detector": detector.name,
                "score": value,
                "low": float(score.low[head]),
                "high": float(score.high[head]),
                "uniform": expected,
                "lift": value / expected if expected else math.nan,
                "null": float(read.null[kept][:, head].mean()),
                "null_kind": detector.null,
                "above_null_low": float(above.low[head]),
                "above_null_high": float(above.high[head]),
                "adjusted_low": low,
                "adjusted_p_value": p,
                "named": low > NAMED_MARGIN,
                "prompts": prompts,
                "reason": "; ".join(filter(None, (few if prompts < MIN_UNITS else reason, window))),
            }
        )
    return rows
