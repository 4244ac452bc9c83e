"""How much attention falls on key sets: the reading behind every detector.

In: attention calls, one layer at a time. A query of which no key that counts lies in the window of a layer is not
judged there, and its share is kept. Out: for each detector, head and prompt the mean over judged
queries of the mass on the query's key set, with its two references: *uniform* (the same for a head that
spreads evenly over the keys it may see, windows respected) and *other keys* (the mean mass on equally
many other visible keys of the same query: all others, or those that the key set names; of several such kinds the
one with the largest mass).
Patterns are dropped after each layer: memory is one layer's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headscope.detectors.pairs import KeySets
from headscope.models.attention import AttentionCall
from headscope.vocabulary import Progress


@dataclass
class MassReading:
    """Mass on several kinds of key sets at once; implements the Reading protocol.

    After the run `mass[layer]` and `other[layer]` are [detector, prompt, head], `uniform[layer]`
    [detector, prompt]; NaN where a prompt has no judged query. `hidden[layer]`, float64 [detector], is the share of
    queries that are not judged because a window hides their keys.
    """

    sets: Sequence[KeySets]
    mass: dict[int, Tensor] = field(default_factory=dict)
    other: dict[int, Tensor] = field(default_factory=dict)
    uniform: dict[int, Tensor] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """All that was read, as one list: of the layers their numbers, then of each what it has."""
        layers = sorted(self.mass)
        parts = (self.mass, self.other, self.uniform, self.hidden)
        return [torch.tensor(layers), *(part[layer] for part in parts for layer in layers)]

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Take what `tensors` gave, here or in another process."""
        layers, values = tensors[0].tolist(), iter(tensors[1:])
        for part in (self.mass, self.other, self.uniform, self.hidden):
            part.update({layer: next(values) for layer in layers})

    def over_layers(self, index: int) -> tuple[Tensor, Tensor]:
        """`mass` and `other` of one kind of key sets, float64 [prompt, head] over the heads of all layers."""
        mass, other = (
            torch.cat([by_layer[layer][index] for layer in sorted(by_layer)], dim=1).double()
            for by_layer in (self.mass, self.other)
        )
        return mass, other

    def read(self, call: AttentionCall, rows: slice) -> None:
        pattern = call.pattern().float()
        visible = call.visible()
        prompts = len(self.sets[0].queries)
        if call.layer not in self.mass:
            shape = (len(self.sets), prompts, pattern.shape[1])
            self.mass[call.layer] = torch.full(shape, float("nan"))
            self.other[call.layer] = torch.full(shape, float("nan"))
            self.uniform[call.layer] = torch.full(shape[:2], float("nan"))
            self.hidden[call.layer] = torch.zeros(len(self.sets), dtype=torch.float64)
        for index, keys in enumerate(self.sets):
            cells = pattern.shape[2]
            pairs = keys.pairs[rows, :cells, :cells].to(pattern.device) & visible
            asked = keys.queries[rows, :cells].to(pattern.device)
            queries = asked & pairs.any(-1)
            hidden = (asked & ~queries).sum().cpu() / max(1, int(keys.queries.sum()))
            self.hidden[call.layer][index] += hidden
            others = [each[rows, :cells, :cells].to(pattern.device) for each in keys.others]
            means = _masses(pattern, pairs, queries, visible, others)
            for kept, mean in zip((self.mass, self.other, self.uniform), means, strict=True):
                kept[call.layer][index, rows] = mean.cpu()


@dataclass
class Ticks:
    """Tells how far a reading is, in layers of prompts; implements Reading."""

    progress: Progress
    stage: str
    prompts: int
    layers: Sequence[int]

    def __post_init__(self) -> None:
        self.progress(self.stage, 0, self.prompts * len(self.layers))

    def read(self, call: AttentionCall, rows: slice) -> None:
        before, now = rows.start * len(self.layers), rows.stop - rows.start
        done = before + now * (self.layers.index(call.layer) + 1)
        self.progress(self.stage, done, self.prompts * len(self.layers))


@dataclass
class Sight:
    """Which keys a query sees in each layer, bool [query, key], by the first prompt; implements Reading."""

    visible: dict[int, Tensor] = field(default_factory=dict)

    def read(self, call: AttentionCall, rows: slice) -> None:
        self.visible.setdefault(call.layer, call.visible()[0].cpu())


def _masses(
    pattern: Tensor, pairs: Tensor, queries: Tensor, visible: Tensor, others: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Means over judged queries: mass on the set and on other keys [prompt, head], uniform [prompt]."""
    on_set = (pattern * pairs[:, None]).sum(-1)
    in_set = pairs.sum(-1).float()
    seen = visible.sum(-1).float().expand_as(in_set)
    # As many other keys as the set has; a query that sees nothing else has no such reference.
    compared = []
    for weights in others or [~pairs * 1.0]:
        shown = weights * visible
        weight = shown.sum(-1)
        spare = weight >= in_set if not others else weight > 0
        mass = (pattern * shown[:, None]).sum(-1) * (in_set / weight.clamp(min=1e-9))[:, None]
        # Fewer keys scaled up cannot have more than all attention.
        compared.append(mean_where(mass.clamp(max=1.0), (queries & spare)[:, None]))
    return (
        mean_where(on_set, queries[:, None]),
        torch.stack(compared).amax(0),
        mean_where(in_set / seen.clamp(min=1.0), queries),
    )


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over the last axis where `chosen`; NaN where nothing is."""
    count = chosen.sum(-1)
    total = torch.where(chosen, values, 0.0).sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), float("nan"))
