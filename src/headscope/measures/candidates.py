"""What is read of several candidate tokens at one place: the probability of each, and which token comes first.

In: logits at one position of each prompt. Out: one number per prompt; candidates differ from prompt to prompt, so
such a measure holds one token for each. All that are read at the same place cost a sweep no more than one
(`sweeps.cell_values.values_of`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from headscope.measures import tokens
from headscope.measures.readouts import Measure, ReadOut
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions, PositionsLike, Rows


def probability_of(candidates: Sequence[int], position: PositionsLike = "readout") -> Measure:
    """Probability of one token of each prompt, whatever its answer is."""
    wanted = torch.tensor(list(candidates))

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        return tokens.log_probability_nats(logits[:, 0].float(), wanted.to(logits.device)).exp()

    def split(rows: Rows) -> Measure:
        return probability_of(wanted[rows].tolist(), position)

    where = ReadOut(Positions.of(position))
    return Measure("probability_of", "", 1, where, compute, split, {"candidates": wanted}, version=1)


def most_likely(among: Sequence[int] | None = None, position: PositionsLike = "readout") -> Measure:
    """The id of the most likely token of all, or of these."""
    some = None if among is None else torch.tensor(list(among))

    def compute(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        if some is None:
            return logits[:, 0].argmax(-1).double()
        few = some.to(logits.device)
        return few[logits[:, 0][:, few].argmax(-1)].double()

    where = ReadOut(Positions.of(position))
    return Measure("most_likely", "", 1, where, compute, parameters={"among": some}, version=1)
