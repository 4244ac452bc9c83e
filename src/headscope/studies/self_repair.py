"""What components write differently when a head is ablated, and self-repair: what they make up for.

In: heads, and the direct effects of all components before and under the ablation of each (sweeps.self_repair). Out:
samples [prompt] for each ablated head, in logits of the token that follows. Self-repair = total change + direct
effect = by_heads + by_mlps + by_norms (McGrath et al. 2023; Rushing & Nanda 2024); undefined for a head that writes
next to nothing to the logit.

What a component writes differently is one of two things. A *backup* writes more of what the ablated head wrote
(`backup_growth`). One that wrote against it and now writes nothing is *released suppression* (`released`): the logit
rises too, but nothing took over the ablated head's work. Not done here: which component is a backup.
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
GROWTH = Quantity(
    "growth",
    "after - max(before, 0), in the ablated head's direction: a backup's is positive, and suppression that is let go "
    "adds nothing",
    "logits",
)
RELEASED = Quantity("released", "how much less the component writes against the ablated head: suppression", "logits")
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


def backup_growth(before: Samples, after: Samples, *, sign: float = 1.0) -> Samples:
    """How much more of what an ablated head wrote each component writes: after - max(before, 0), unit by unit.

    `before` and `after` are direct effects in logits; `sign` is that of the ablated head's own. At most the change,
    at most what the component ends with, and at most the growth of its positive part: it exceeds 0 only where all
    three do, and noise about 0 does not raise its mean.
    """
    wrote = before.changed(before.quantity, lambda values: np.maximum(sign * values, 0.0))
    return (after.changed(after.quantity, lambda values: sign * values) - wrote).measured_as(GROWTH)


def released(before: Samples, after: Samples, *, sign: float = 1.0) -> Samples:
    """How much suppression each component lets go: min(after, 0) - min(before, 0); see `backup_growth`."""
    against = [each.changed(each.quantity, lambda values: np.minimum(sign * values, 0.0)) for each in (before, after)]
    return (against[1] - against[0]).measured_as(RELEASED)


def effects_before_and_after(model: Model, heads: Sequence[Head], followed: AblatedEffects) -> dict[str, Samples]:
    """Samples `before`, `after` and `change` [prompt, AXES] of all components, the ablated head itself included."""
    before, after = {}, {}
    for head, ablated in zip(heads, followed.ablated, strict=True):
        for index, component in enumerate(followed.clean.components):
            cell = (str(head), str(component), component.layer, runs_after(model, component, head))
            before[cell], after[cell] = followed.clean.direct[:, index], ablated.direct[:, index]
    first, second = Samples.of(BEFORE, AXES, before), Samples.of(AFTER, AXES, after)
    return {"before": first, "after": second, "change": (second - first).measured_as(CHANGE)}
