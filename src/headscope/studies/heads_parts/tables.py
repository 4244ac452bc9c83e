"""The tables of the heads study: what their columns mean, and how measured values become rows."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import torch
from torch import Tensor

from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.measures.intervals import interval
from headscope.models.model import Model
from headscope.sweeps.controls import AgainstRandom
from headscope.sweeps.self_repair import AblatedEffects, runs_after
from headscope.tables import Column, Schema, Table
from headscope.vocabulary import Head

_LAYER = Column("layer", pl.Int64, "layer, from 0")
_HEAD = Column("head", pl.Int64, "head within its layer, from 0; empty for an MLP")


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
        *bounds("the damage", "nats"),
        PROMPTS,
    ),
)
GROUPS = Schema(
    "groups",
    (
        Column("group", pl.String, "detector after which the heads were named, on the selection prompts"),
        Column("heads", pl.String, "the heads, cut together"),
        Column("size", pl.Int64, "how many heads"),
        Column("damage", pl.Float64, "loss on predictable tokens with all cut, minus clean loss", "nats"),
        *bounds("the damage", "nats"),
        Column("random_mean", pl.Float64, "mean damage of random sets of as many heads", "nats"),
        Column("random_max", pl.Float64, "largest damage among the random sets", "nats"),
        Column("random_worst", pl.String, "the heads of that set"),
        Column("random_sets", pl.Int64, "how many random sets were cut"),
        Column(
            "p", pl.Float64, "share of sets, this one included, that do at least this damage", "probability"
        ),
        PROMPTS,
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
        *bounds("the damage", "unit of the measure"),
        PROMPTS,
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
        *bounds("the share", "share"),
        PROMPTS,
    ),
)
PATCHING_SELECTION = replace(PATCHING, name="patching_selection")
TAKEOVER = Schema(
    "takeover",
    (
        Column("cut", pl.String, "the head that is cut (its output zeroed)"),
        Column("component", pl.String, "a head (layer.head) or an MLP"),
        _LAYER,
        _HEAD,
        Column("before", pl.Float64, "direct effect on the right token's logit, nothing cut", "logits"),
        Column(
            "after",
            pl.Float64,
            "direct effect with the head cut, the norms' scales kept as in the clean run",
            "logits",
        ),
        Column("change", pl.Float64, "after - before: what the component writes differently", "logits"),
        *bounds("the change", "logits"),
        Column("later", pl.Boolean, "whether it can read what the cut head writes"),
        PROMPTS,
    ),
)
TAKEOVER_SELECTION = replace(TAKEOVER, name="takeover_selection")
# A head that writes less than this has nothing to be made up for.
NEAR_ZERO_LOGITS = 0.1
SELF_REPAIR = Schema(
    "self_repair",
    (
        Column("cut", pl.String, "the head that is cut (its output zeroed)"),
        Column("direct_effect", pl.Float64, "its direct effect before", "logits"),
        Column("total_change", pl.Float64, "change of the right token's logit", "logits"),
        Column(
            "self_repair",
            pl.Float64,
            "total change + direct effect: what others make up for = by_heads + by_mlps + by_norms",
            "logits",
        ),
        *bounds("the self-repair", "logits"),
        Column("by_heads", pl.Float64, "sum of the changes of all other heads, at clean scales", "logits"),
        Column("by_mlps", pl.Float64, "sum of the changes of all MLPs, at clean scales", "logits"),
        Column(
            "by_norms",
            pl.Float64,
            "the rest: the norms rescale what is written (and a soft-cap bends it, where there is one)",
            "logits",
        ),
        Column("reason", pl.String, "why self-repair is undefined; empty where it is not"),
        PROMPTS,
    ),
)


def damage_row(head: Head, ablation: str, kind: str, damage: Tensor) -> dict[str, Any]:
    where = {"layer": head.layer, "head": head.index, "ablation": ablation, "prompts_kind": kind}
    return {**where, **estimated(damage, "damage")}


def group_row(group: str, beside: AgainstRandom) -> dict[str, Any]:
    """A picked set beside random sets; `p` counts the picked set itself, so it is never 0."""
    means = beside.means
    return {
        "group": group,
        "heads": written(beside.picked),
        "size": len(beside.picked),
        **estimated(beside.damage, "damage"),
        "random_mean": float(means.mean()) if len(means) else float("nan"),
        "random_max": float(means.max()) if len(means) else float("nan"),
        "random_worst": written(beside.worst),
        "random_sets": len(beside.sets),
        "p": beside.p,
    }


def takeover_table(schema: Schema, model: Model, cuts: Sequence[Head], followed: AblatedEffects) -> Table:
    """How much every other component writes before and after each cut."""
    rows, clean = [], followed.clean
    for cut, effects in zip(cuts, followed.ablated, strict=True):
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
                    "later": runs_after(model, component, cut),
                    "prompts": change.n,
                }
            )
    return schema.table(rows)


def self_repair_table(cuts: Sequence[Head], followed: AblatedEffects) -> Table:
    """What each cut changes in all, against what the head wrote itself, and who makes up for it."""
    rows, clean = [], followed.clean
    for cut, effects in zip(cuts, followed.ablated, strict=True):
        direct, total = clean.of(cut), effects.logit - clean.logit
        change = effects.direct - clean.direct
        is_mlp = torch.tensor([component.head is None for component in clean.components])
        by_heads = change[:, ~is_mlp].sum(1) + direct  # without the cut head's own loss
        by_mlps = change[:, is_mlp].sum(1)
        repair = {
            **estimated(total + direct, "self_repair"),
            "by_heads": float(by_heads.mean()),
            "by_mlps": float(by_mlps.mean()),
            "by_norms": float((total - change.sum(1)).mean()),
            "reason": "",
        }
        if abs(float(direct.mean())) < NEAR_ZERO_LOGITS:
            nothing = ("self_repair", "low", "high", "by_heads", "by_mlps", "by_norms")
            repair |= dict.fromkeys(nothing, float("nan"))
            repair["reason"] = f"the head itself writes less than {NEAR_ZERO_LOGITS} logits"
        where = {"cut": str(cut), "direct_effect": float(direct.mean()), "total_change": float(total.mean())}
        rows.append({**where, **repair})
    return SELF_REPAIR.table(rows)


def written(heads: Iterable[Head]) -> str:
    """Heads as text: "0.1 1.2"."""
    return " ".join(map(str, heads))
