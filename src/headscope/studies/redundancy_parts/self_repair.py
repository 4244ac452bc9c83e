"""The table of self-repair as the redundancy study has it."""

from collections.abc import Sequence

import polars as pl
import torch

from headscope.measures.estimates import PROMPTS, bounds, estimated
from headscope.sweeps.takeover import Followed
from headscope.tables import Column, Schema, Table
from headscope.vocabulary import Head

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


def self_repair_table(cuts: Sequence[Head], followed: Followed) -> Table:
    """What each cut changes in all, against what the head wrote itself, and who makes up for it."""
    rows, clean = [], followed.clean
    for cut, effects in zip(cuts, followed.cut, strict=True):
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
