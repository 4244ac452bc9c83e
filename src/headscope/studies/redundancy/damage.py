"""Who forms the task: what is lost of it in B when parts of A are cut, one by one and in every combination.

In: the bench, the stream at which B is given what A has formed, heads or layers. Out: damages in logits, per prompt.
The measure is the logit of f(x_B) in B, above the vocabulary's mean, with that stream taken from A under the cut. So
heads that A needs only to read its own x_A, or to write its answer, do not count. Layers that stand in for
each other each cost little alone and much after the others. An answer of several tokens counts by their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from headscope.interventions import patch
from headscope.measures import next_logit
from headscope.measures.coalitions import Array, Coalition, Game
from headscope.studies.redundancy_parts.cuts import Heads, heads_among
from headscope.studies.redundancy_parts.patching import ends_of, streams_of
from headscope.studies.redundancy_parts.peeling import Bench, Progress
from headscope.studies.redundancy_parts.prompts import Written
from headscope.sweeps.naive import evaluate
from headscope.vocabulary import Head

# Of so many layers before the stream every set is cut: 2^6 - 1 runs of A.
MOST_LAYERS = 6


@dataclass(frozen=True, eq=False)
class Formation:
    """What A has formed in its last position before `stream`, as B shows it, on one half of the prompts."""

    bench: Bench
    written: Written
    stream: int

    @cached_property
    def clean(self) -> Tensor:
        """The logit of f(x_B) with nothing cut, [prompt]."""
        return self.logit(())

    def damage(self, heads: Heads) -> Tensor:
        """How much lower it is with these heads cut in A, [prompt]."""
        return self.clean - self.logit(heads)

    def logit(self, heads: Heads) -> Tensor:
        model, n = self.bench.model, len(self.written)
        source = self.written.sources["task"]
        ends = ends_of(model, source.prompts, self.bench.scissors.cut(heads)).rows(
            list(source.of_answers[:n])
        )
        put = patch(streams_of(model)[self.stream], source=ends, positions={-1: -1})
        return evaluate(model, self.written.answers.rows(slice(0, n)), [next_logit("answering")], [put])[0]


def layers_before(bench: Bench, stream: int, cut: Heads) -> tuple[int, ...]:
    """The attention layers before a stream of which every set is cut: those once cut, then the nearest others."""
    before = [layer for layer in bench.model.anatomy.attending if layer < stream]
    first = {head.layer for head in cut}
    ranked = sorted(before, key=lambda layer: (layer not in first, -layer))
    return tuple(sorted(ranked[:MOST_LAYERS]))


def game_of_layers(formation: Formation, layers: Sequence[int], progress: Progress) -> Game:
    """Layers as players: every set of them cut together."""

    def damages(sets: Sequence[Coalition]) -> list[Array]:
        model = formation.bench.model
        return [
            formation.damage(heads_among(model, [int(str(layer)) for layer in cut])).numpy() for cut in sets
        ]

    most = 2 ** len(layers) - 1
    return Game(
        tuple(layers),
        len(formation.written),
        damages,
        progress=lambda done: progress("cutting sets of layers", done, most),
    )


def foremost(chosen_on: Formation, heads: Heads) -> Heads:
    """Of these heads the one in each layer whose cut costs the task most, on the selection half."""
    damage = {head: float(chosen_on.damage((head,)).mean()) for head in heads}
    layers = sorted({head.layer for head in heads})
    return tuple(
        max((head for head in heads if head.layer == layer), key=damage.__getitem__) for layer in layers
    )


def damages_of(formation: Formation, heads: Sequence[Head]) -> Tensor:
    """[head, prompt]"""
    return torch.stack([formation.damage((head,)) for head in heads])
