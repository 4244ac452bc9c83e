"""Heads that look at the counterpart of what comes next: in copying, translation, pattern matching.

In: a model and `Counterparts` (tasks.counterparts). Out: of every head the attention from the position that predicts
a token to the token's counterpart, prompt by prompt, and its null, the larger of two:

    beside     the same query on what stands beside the counterpart (the words next to it, or the labels of lines of
               other kinds): a head that attends to a passage, or to labels, gives these as much
    missing    the same place in prompts in which something else of that kind stands there

Olsson et al. 2022, argument 4. Not done here: whether what a head reads there raises the token (sweeps.self_repair).
"""

import torch

from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.detectors.scores import LayerMass
from headscope.models.kept import kept
from headscope.models.model import Model
from headscope.tasks.counterparts import Counterparts
from headscope.tasks.prompts import Prompts


def counterpart_sets(prompts: Prompts, slots: int) -> KeySets:
    """For every predicting position the counterpart of its next token, compared with what stands beside that."""
    pairs = torch.zeros(len(prompts), prompts.longest, prompts.longest, dtype=torch.bool)
    beside = torch.zeros(pairs.shape)
    for slot in range(slots):
        query, analogue, near = (prompts.roles[f"{role} {slot}"] for role in ("query", "analogue", "beside"))
        for row, queries in enumerate(query):
            for at in queries:
                pairs[row, at, list(analogue[row])] = True
                beside[row, at, list(near[row])] = 1.0
    return KeySets(pairs, pairs.any(-1), (beside,))


def counterpart_attention(model: Model, given: Counterparts) -> dict[int, LayerMass]:
    """Every layer's attention on the counterpart and on the null, prompt by prompt; see `scores.above_null`."""
    both, n = given.both, len(given)
    reading = MassReading([counterpart_sets(both, given.slots)])

    def run() -> list[torch.Tensor]:
        model.read(both, [reading])
        return reading.tensors()

    reading.fill(kept("attention", model, (both, "counterparts"), run))
    masses = {}
    for layer, mass in sorted(reading.mass.items()):
        null = torch.stack([reading.other[layer][0, :n], mass[0, n:]]).amax(0)
        masses[layer] = LayerMass(mass[0, :n], null, reading.uniform[layer][0, :n], float(reading.hidden[layer][0]))
    return masses
