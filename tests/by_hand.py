"""Interventions applied by hand: slow, one example and one layer at a time, through plain hooks written here.

For each layer in turn, pattern and values are taken from a run in which all earlier layers are already
changed; rows are rewritten by simple loops; what every head then returns is forced into the output
projection. Nothing of headscope's own editing takes part, only its un-edited captures.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import headscope as hs


@dataclass(frozen=True)
class Op:
    """One change in one layer, with absolute positions."""

    kind: str
    layer: int
    heads: tuple[int, ...]
    positions: tuple[int, ...]
    strength: float = 1.0
    more: dict[str, Any] = field(default_factory=dict)


ON_PATTERN = ("to_bos", "fixed_offset", "set_pattern", "knock_out", "freeze_pattern")


def logits(model: hs.Model, tokens: Sequence[int], ops: Sequence[Op]) -> Tensor:
    """Logits [position, vocab] of one example under the operations, in their order."""
    ids = torch.tensor([list(tokens)])
    clean = model.run(ids, capture="pattern")
    with ExitStack() as stack:
        for layer in sorted({op.layer for op in ops}):
            z = changed_z(model, ids, [op for op in ops if op.layer == layer], clean)
            projection = model.anatomy.layers[layer].projection
            hook = projection.register_forward_pre_hook(lambda module, args, z=z: (z.flatten(-2),))
            stack.callback(hook.remove)
        with torch.no_grad():
            return model.hf(ids, use_cache=False).logits[0]


def changed_z(model: hs.Model, ids: Tensor, ops: Sequence[Op], clean: hs.Run) -> Tensor:
    """z [1, position, head, head_dim] of one layer after its operations."""
    layer = ops[0].layer
    run = model.run(ids, capture=[("pattern", layer), ("v", layer), ("z", layer)])
    pattern, z = run["pattern", layer][0].clone(), run["z", layer].clone()
    values = run["v", layer][0].transpose(0, 1)
    values = values.repeat_interleave(len(pattern) // len(values), dim=0)
    for op in ops:
        if op.kind not in ON_PATTERN:
            continue
        for head in op.heads:
            for query in op.positions:
                row = new_row(op, pattern[head, query], query, clean["pattern", layer][0, head, query])
                pattern[head, query] = (1 - op.strength) * pattern[head, query] + op.strength * row
                z[0, query, head] = pattern[head, query] @ values[head]
    for op in ops:
        if op.kind in ON_PATTERN:
            continue
        for head in op.heads:
            for query in op.positions:
                old = z[0, query, head]
                new = {
                    "zero": lambda old, query, head, op: torch.zeros_like(old),
                    "add": lambda old, query, head, op: old + op.more["vector"],
                    "put": lambda old, query, head, op: op.more["value"][query, head],
                    "put one": lambda old, query, head, op: op.more["value"][head],
                }[op.kind](old, query, head, op)
                z[0, query, head] = (1 - op.strength) * old + op.strength * new
    return z


def new_row(op: Op, row: Tensor, query: int, clean: Tensor) -> Tensor:
    """What one row of a pattern becomes at full strength."""
    new = torch.zeros_like(row)
    if op.kind == "to_bos":
        new[0] = 1
    elif op.kind == "fixed_offset":
        if query < op.more["offset"]:
            return row
        new[query - op.more["offset"]] = 1
    elif op.kind == "set_pattern":
        new[: len(row)] = op.more["pattern"][query, : len(row)]
    elif op.kind == "freeze_pattern":
        new = clean
    elif op.kind == "knock_out":
        new = row.clone()
        for key in op.more["keys"]:
            new[key] = 0
        # What the row lacked of 1 before (taken by an earlier operation) is still lacking after, in proportion.
        total, lacking = float(new.sum()), max(0.0, 1 - float(row.sum()))
        lacking = lacking if lacking > 1e-5 else 0.0
        if op.more["renormalise"]:
            scale = (float(row.sum()) + lacking) / (total + lacking) if total > 0 else 0.0
            new = new * scale
    return new
