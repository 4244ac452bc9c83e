"""The two-head circuit: a previous-token head writes what an induction head's keys read (Elhage et al. 2021).

In: a model, its induction heads and its strongest previous-token head in an earlier layer. Out: how much of the
induction heads' prefix matching is left when that head no longer acts on their keys (path patching: everything else
as it was), beside the same with a head that attends to the token before least; and K-composition from weights. That
weights compose says what could be read; whether it is, only the ablated path shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headscope.detectors import DetectorPrompts, LayerMass, head_attention
from headscope.interventions import path_patch, zero
from headscope.measures.intervals import Array
from headscope.models.model import Model
from headscope.models.weights import HeadWeights
from headscope.vocabulary import Head

CASES = ("nothing", "previous-token head", "another head")


@dataclass(frozen=True)
class Circuit:
    """Induction heads, the previous-token head whose path to their keys is cut, and another head beside it."""

    induction: tuple[Head, ...]
    previous: Head
    other: Head | None


def circuit_of(
    model: Model, induction: Sequence[Head], previous: Sequence[Head], attention: Mapping[int, LayerMass]
) -> Circuit | None:
    """The strongest previous-token head before an induction head; None where there is no such pair."""
    for head in previous:
        later = tuple(each for each in induction if each.layer > head.layer)
        if later:
            mass = attention[head.layer].mass.mean(0)
            order = torch.argsort(mass).tolist()
            weakest = Head(head.layer, order[0]) if len(order) > 1 and order[0] != head.index else None
            return Circuit(later, head, weakest)
    return None


def prefix_without(model: Model, half: DetectorPrompts, circuit: Circuit | None) -> Array:
    """Mean prefix matching of the induction heads, [case, prompt]; nothing without a circuit."""
    if circuit is None:
        return np.empty((len(CASES), 0))
    layers = sorted({head.layer for head in circuit.induction})
    rows: list[Array] = []
    for case, sender in zip(CASES, (None, circuit.previous, circuit.other), strict=True):
        if sender is None and case != CASES[0]:
            rows.append(np.full_like(rows[0], np.nan))
            continue
        edits = [] if sender is None else [path_patch(zero(sender), ("k", layer)) for layer in layers]
        read = head_attention(model, "induction", prompts=half, interventions=edits)["induction"]
        own = torch.stack([read[head.layer].mass[:, head.index] for head in circuit.induction])
        rows.append(own.double().mean(0).numpy())
    return np.stack(rows)


def k_composition(model: Model, circuit: Circuit) -> float:
    """Mean over the induction heads of |W_QK W_OV| / (|W_QK| |W_OV|), Frobenius norms (Elhage et al. 2021)."""
    previous = model.head_weights(circuit.previous.layer)
    w_ov = previous.w_v[_group(previous, circuit.previous)] @ previous.w_o[circuit.previous.index]
    values = []
    for head in circuit.induction:
        own = model.head_weights(head.layer)
        w_qk = own.w_q[head.index] @ own.w_k[_group(own, head)].mT
        # Keys read what the earlier head wrote: its output comes in from the right.
        values.append(float((w_qk @ w_ov.mT).norm() / (w_qk.norm() * w_ov.norm())))
    return float(np.mean(values))


def _group(weights: HeadWeights, head: Head) -> int:
    """The key/value head that a head reads."""
    return head.index * len(weights.w_v) // len(weights.w_o)
