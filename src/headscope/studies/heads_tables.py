"""The tables of the heads study: what their columns mean, and how measured values become rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from headscope.measures.intervals import interval
from headscope.sweeps.takeover import Effects
from headscope.tables import Column, Schema, Table
from headscope.vocabulary import Head

_LAYER = Column("layer", pl.Int64, "layer, from 0")
_HEAD = Column("head", pl.Int64, "head within its layer, from 0; empty for an MLP")
_PROMPTS = Column("prompts", pl.Int64, "prompts behind the mean")


def _bounds(what: str, unit: str) -> tuple[Column, Column]:
    return (
        Column("low", pl.Float64, f"lower 95% bound of {what} over prompts", unit),
        Column("high", pl.Float64, f"upper 95% bound of {what} over prompts", unit),
    )


DAMAGE = Schema(
    "damage",
    (
        _LAYER,
        _HEAD,
        Column("ablation", pl.String, "what is put in place of the head's output"),
        Column(
            "prompts_kind", pl.String, "repeated: loss on predictable tokens; natural: loss on all tokens"
        ),
        Column("damage", pl.Float64, "loss with the head cut minus clean loss", "nats"),
        *_bounds("the damage", "nats"),
        _PROMPTS,
    ),
)
GROUPS = Schema(
    "groups",
    (
        Column("group", pl.String, "detector after which the heads were named, on the selection prompts"),
        Column("heads", pl.String, "the heads, cut together"),
        Column("size", pl.Int64, "how many heads"),
        Column("damage", pl.Float64, "loss on predictable tokens with all cut, minus clean loss", "nats"),
        *_bounds("the damage", "nats"),
        Column("random_mean", pl.Float64, "mean damage of random sets of as many heads", "nats"),
        Column("random_max", pl.Float64, "largest damage among the random sets", "nats"),
        Column("random_worst", pl.String, "the heads of that set"),
        Column("random_sets", pl.Int64, "how many random sets were cut"),
        Column(
            "p", pl.Float64, "share of sets, this one included, that do at least this damage", "probability"
        ),
        _PROMPTS,
    ),
)
CUMULATIVE = Schema(
    "cumulative",
    (
        Column("cut", pl.Int64, "how many induction heads are cut, most damaging first"),
        Column("heads", pl.String, "which"),
        Column("measure", pl.String, "loss (nats), or logit of the right token above the mean (logits)"),
        Column(
            "quantity", pl.String, "together; sum of the single cuts; interaction: the first minus the second"
        ),
        Column("damage", pl.Float64, "how much worse than clean", "unit of the measure"),
        *_bounds("the damage", "unit of the measure"),
        _PROMPTS,
    ),
)
PATCHING = Schema(
    "patching",
    (
        Column(
            "layer", pl.Int64, "the stream before this layer is patched; the last row is the final stream"
        ),
        Column("position", pl.Int64, "patched position, from 0"),
        Column(
            "role",
            pl.String,
            "match: the token that was corrupted; answer: the one after it; query: the last",
        ),
        Column("recovered", pl.Float64, "share of the clean-corrupted logit difference restored", "share"),
        *_bounds("the share", "share"),
        _PROMPTS,
    ),
)
TAKEOVER = Schema(
    "takeover",
    (
        Column("cut", pl.String, "the head that is cut (its output zeroed)"),
        Column("component", pl.String, "a head (layer.head) or an MLP"),
        _LAYER,
        _HEAD,
        Column("before", pl.Float64, "direct effect on the right token's logit, nothing cut", "logits"),
        Column("after", pl.Float64, "direct effect with the head cut", "logits"),
        Column("change", pl.Float64, "after - before", "logits"),
        *_bounds("the change", "logits"),
        _PROMPTS,
    ),
)
TAKEOVER_SELECTION = replace(TAKEOVER, name="takeover_selection")
SELF_REPAIR = Schema(
    "self_repair",
    (
        Column("cut", pl.String, "the head that is cut (its output zeroed)"),
        Column("direct_effect", pl.Float64, "its direct effect before", "logits"),
        Column("total_change", pl.Float64, "change of the right token's logit", "logits"),
        Column("self_repair", pl.Float64, "total change + direct effect: what others make up for", "logits"),
        *_bounds("the self-repair", "logits"),
        _PROMPTS,
    ),
)


def estimated(values: Tensor, name: str) -> dict[str, Any]:
    """Mean, bounds and number of prompts of one value per prompt, as cells of a row."""
    found = interval(values.double().numpy())
    return {name: float(found.mean), "low": float(found.low), "high": float(found.high), "prompts": found.n}


def damage_row(head: Head, ablation: str, kind: str, damage: Tensor) -> dict[str, Any]:
    where = {"layer": head.layer, "head": head.index, "ablation": ablation, "prompts_kind": kind}
    return {**where, **estimated(damage, "damage")}


def group_row(
    group: str, heads: Sequence[Head], damage: Tensor, control: Mapping[tuple[Head, ...], float]
) -> dict[str, Any]:
    """A picked set beside random sets; `p` counts the picked set itself, so it is never 0."""
    row = estimated(damage, "damage")
    at_least = sum(other >= row["damage"] for other in control.values())
    worst = max(control, key=lambda chosen: control[chosen], default=())
    return {
        "group": group,
        "heads": written(heads),
        "size": len(heads),
        **row,
        "random_mean": float(np.mean(list(control.values()))) if control else float("nan"),
        "random_max": control.get(worst, float("nan")),
        "random_worst": written(worst),
        "random_sets": len(control),
        "p": (1 + at_least) / (1 + len(control)),
    }


def takeover_table(schema: Schema, cuts: Iterable[tuple[Head, Effects]], clean: Effects) -> Table:
    """How much every other component writes before and after each cut."""
    rows = []
    for cut, effects in cuts:
        change = interval((effects.direct - clean.direct).numpy())
        for index, component in enumerate(clean.components):
            if (component.layer, component.head) == (cut.layer, cut.index):
                continue
            rows.append(
                {
                    "cut": str(cut),
                    "component": str(component),
                    "layer": component.layer,
                    "head": component.head,
                    "before": float(clean.direct[:, index].mean()),
                    "after": float(effects.direct[:, index].mean()),
                    "change": float(change.mean[index]),
                    "low": float(change.low[index]),
                    "high": float(change.high[index]),
                    "prompts": change.n,
                }
            )
    return schema.table(rows)


def self_repair_table(cuts: Iterable[tuple[Head, Effects]], clean: Effects) -> Table:
    """What each cut changes in all, against what the head wrote itself."""
    rows = []
    for cut, effects in cuts:
        direct, total = clean.of(cut), effects.logit - clean.logit
        rows.append(
            {
                "cut": str(cut),
                "direct_effect": float(direct.mean()),
                "total_change": float(total.mean()),
                **estimated(total + direct, "self_repair"),
            }
        )
    return SELF_REPAIR.table(rows)


def written(heads: Iterable[Head]) -> str:
    """Heads as text: "0.1 1.2"."""
    return " ".join(map(str, heads))
