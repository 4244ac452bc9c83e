"""Every intervention twice: as headscope has it, and as changes of plain hooks.

In: a pair of models, prompts [2, 17], one other prompt of that length, and two heads of which the first is in an
earlier layer. Out: edits, and the changes that must give the same logits, to the bit but where a pattern is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import headscope as hs
from tests.real.plain import Change, at, attending


@dataclass(frozen=True)
class Case:
    edits: list[Any]
    changes: list[Change]
    exact: bool = True


Make = Callable[[Any, Tensor, hs.Prompts, hs.Head, hs.Head], Case]


def on_both(
    edit: Any,
    value: Callable[..., Tensor],
    heads: list[hs.Head],
    *,
    exact: bool = True,
    at_positions: Any = slice(None),
) -> Case:
    """The same change of z of every head."""
    return Case([edit], [Change("z", head.layer, at([head.index], value, at_positions)) for head in heads], exact)


def zero(pair, ids, other, *heads):
    return on_both(hs.zero(heads), lambda z, scene, head: torch.zeros_like(z), heads)


def add(pair, ids, other, *heads):
    push = torch.linspace(-1, 1, pair.plain.layers[0].self_attn.head_dim)
    edit = hs.add(heads, push, scale=3, positions=[5, 9])
    return on_both(edit, lambda z, scene, head: z + 3 * push, heads, at_positions=[5, 9])


def set_values(pair, ids, other, *heads):
    width = pair.plain.layers[0].self_attn.head_dim
    given = torch.linspace(-1, 1, 2 * width).reshape(2, width)
    edit = hs.interventions.set_values(heads, given, positions=-1)
    return on_both(edit, lambda z, scene, head: given[:, None].expand_as(z), heads, at_positions=[-1])


def from_other(edit, pair, other, heads, value):
    """z of the other prompt [1, position, head, head_dim], by layer, given to `value`."""
    held = pair.plain.values(other.ids, [("z", head.layer) for head in heads])
    changes = []
    for head in heads:
        z = held["z", head.layer]
        changes.append(Change("z", head.layer, at([head.index], lambda now, _, h, z=z: value(z[:, :, h], now))))
    return Case([edit], changes)


def mean(pair, ids, other, *heads):
    return from_other(
        hs.mean(heads, over=other), pair, other, heads, lambda z, now: (z.sum((0, 1)) / z.shape[1]).expand_as(now)
    )


def resample(pair, ids, other, *heads):
    # The only prompt that can be drawn is the other one; its values are taken at the same positions.
    return from_other(hs.resample(heads, over=other), pair, other, heads, lambda z, now: z.expand_as(now))


def patch(pair, ids, other, *heads):
    return from_other(hs.patch(heads, source=other), pair, other, heads, lambda z, now: z.expand_as(now))


def patch_values(pair, ids, other, *heads):
    layer, key_head = heads[0].layer, 0
    value = pair.plain.values(other.ids, [("v", layer)])["v", layer]
    target = hs.interventions.Target("v", layer, (key_head,))
    change = at([key_head], lambda now, scene, head: value[:, :, head].expand_as(now))
    return Case([hs.patch(target, source=other)], [Change("v", layer, change)])


def to_bos(pair, ids, other, *heads):
    return on_both(hs.to_bos(heads), lambda z, scene, head: scene.values[:, head, :1].expand_as(z), heads)


def fixed_offset(pair, ids, other, *heads):
    def three_back(z, scene, head):
        return torch.cat([z[:, :3], scene.values[:, head, :-3]], 1)

    return on_both(hs.fixed_offset(heads, 3), three_back, heads)


def set_pattern(pair, ids, other, *heads):
    even = torch.ones(ids.shape[1], ids.shape[1]).tril()
    even = even / even.sum(-1, keepdim=True)
    return on_both(hs.set_pattern(heads, even), attending(lambda rows: even.expand_as(rows)), heads, exact=False)


def knock_out(pair, ids, other, *heads):
    queries, keys = [8, 12, 16], [0, 4, 7]

    def without(rows):
        rows[..., keys] = 0
        return rows / rows.sum(-1, keepdim=True)

    edit = hs.knock_out(heads, queries, keys)
    return on_both(edit, attending(without), heads, exact=False, at_positions=queries)


def freeze_pattern(pair, ids, other, sender, receiver):
    clean = pair.plain.patterns(ids)[receiver.layer][:, receiver.index]
    edits = [hs.freeze_pattern(receiver), hs.zero(sender.layer)]
    cut = Change("z", sender.layer, lambda z, scene: torch.zeros_like(z))
    held = Change("z", receiver.layer, at([receiver.index], attending(lambda rows: clean)))
    return Case(edits, [cut, held], exact=False)


def path_patch(pair, ids, other, sender, receiver):
    plain, layers = pair.plain, range(len(pair.plain.layers))
    clean = plain.values(ids, [("z", layer) for layer in layers])

    def still(layer: int) -> Change:
        def make(z, scene):
            held = clean["z", layer].clone()
            if layer == sender.layer:
                held[:, :, sender.index] = 0
            return held

        return Change("z", layer, make)

    groups = plain.layers[receiver.layer].self_attn.num_key_value_groups
    parts = {"q": receiver.index, "k": receiver.index // groups, "v": receiver.index // groups}
    reached = plain.values(ids, [(site, receiver.layer) for site in parts], *map(still, layers))
    changes = [
        Change(site, receiver.layer, at([head], lambda now, _, h, site=site: reached[site, receiver.layer][:, :, h]))
        for site, head in parts.items()
    ]
    return Case([hs.path_patch(hs.zero(sender), receiver)], changes)


EDITS: dict[str, Make] = {
    make.__name__: make
    for make in (
        zero,
        mean,
        resample,
        patch,
        patch_values,
        add,
        set_values,
        to_bos,
        fixed_offset,
        set_pattern,
        knock_out,
        freeze_pattern,
        path_patch,
    )
}
