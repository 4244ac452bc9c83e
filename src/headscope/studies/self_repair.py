"""What components write differently when a head is ablated, and self-repair: what they make up for.

In: heads, and the direct effects of all components before and under the ablation of each (sweeps.self_repair). Out:
samples [prompt] for each ablated head, in logits of the token that follows. Self-repair = total change + direct
effect = by_heads + by_mlps + by_norms (McGrath et al. 2023; Rushing & Nanda 2024); undefined for a head that writes
next to nothing to the logit. Not done here: which component is a backup.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from headscope.errors import UnservedModel
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.sweeps.self_repair import AblatedEffects, runs_after
from headscope.tables import Column, Quantity
from headscope.vocabulary import Head

NEAR_ZERO_LOGITS = 0.1
ABLATED = Column("ablated", pl.String, "what is ablated: heads as layer.index")
COMPONENT = Column("component", pl.String, "a head, as layer.index, or an MLP")
AXES = (
    ABLATED,
    COMPONENT,
    Column("layer", pl.Int64, "the component's layer, from 0"),
    Column("later", pl.Boolean, "whether it can read what the ablated head writes"),
)
BEFORE = Quantity("before", "direct effect on the logit of the token that follows, nothing ablated", "logits")
AFTER = Quantity("after", "the same with the head ablated, norms scaled as in the clean run", "logits")
CHANGE = Quantity("change", "after - before: what the component writes differently", "logits")
_QUANTITIES = {
    "self_repair": "total change + direct effect: what others make up for = by_heads + by_mlps + by_norms",
    "direct_effect": "the head's direct effect on the logit of the token that follows, nothing ablated",
    "total_change": "change of that logit when the head is ablated",
    "by_heads": "sum of the changes of all other heads' direct effects, norms scaled as in the clean run",
    "by_mlps": "sum of the changes of all MLPs' direct effects, norms scaled as in the clean run",
    "by_norms": "the rest: the norms rescale what is written (and a soft-cap bends it, where there is one)",
}


def unserved_direct_effects(model: Model) -> str:
    """Why this model has no direct effects; empty where it has."""
    try:
        model.require_direct_effects()
    except UnservedModel as error:
        return str(error)
    return ""


def self_repair_of(heads: Sequence[Head], followed: AblatedEffects) -> dict[str, Samples]:
    """Samples [prompt, ablated head] by the name of their quantity; `followed` is under each head's ablation."""
    clean = followed.clean
    of_mlps = torch.tensor([component.head is None for component in clean.components])
    columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in _QUANTITIES}
    silent = []
    for head, ablated in zip(heads, followed.ablated, strict=True):
        direct, total, change = clean.of(head), ablated.logit - clean.logit, ablated.direct - clean.direct
        parts = {
            "self_repair": total + direct,
            "by_heads": change[:, ~of_mlps].sum(1) + direct,  # without what the head itself no longer writes
            "by_mlps": change[:, of_mlps].sum(1),
            "by_norms": total - change.sum(1),
        }
        if abs(float(direct.mean())) < NEAR_ZERO_LOGITS:
            silent.append(str(head))
            parts = {name: torch.full_like(direct, torch.nan) for name in parts}
        for name, values in {**parts, "direct_effect": direct, "total_change": total}.items():
            columns[name][str(head)] = values.numpy()
    reason = f"the head itself writes less than {NEAR_ZERO_LOGITS} logits"
    return {
        name: Samples.of(Quantity(name, meaning, "logits"), (ABLATED,), columns[name]).because(reason, ablated=silent)
        for name, meaning in _QUANTITIES.items()
    }


def effects_before_and_after(model: Model, heads: Sequence[Head], followed: AblatedEffects) -> dict[str, Samples]:
    """Samples `before`, `after` and `change` [prompt, AXES] of all components, the ablated head itself included."""
    before, after = {}, {}
    for head, ablated in zip(heads, followed.ablated, strict=True):
        for index, component in enumerate(followed.clean.components):
            cell = (str(head), str(component), component.layer, runs_after(model, component, head))
            before[cell], after[cell] = followed.clean.direct[:, index], ablated.direct[:, index]
    first, second = Samples.of(BEFORE, AXES, before), Samples.of(AFTER, AXES, after)
    return {"before": first, "after": second, "change": (second - first).measured_as(CHANGE)}
