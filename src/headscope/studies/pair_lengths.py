"""How long prompts of pairs are for this model: what forecasts of the studies of pairs count with.

In: settings and a model. Out: mean tokens of a prompt with any number of pairs, without and with its answer. A few
prompts are drawn and written for it; the model is not run.
"""

from dataclasses import dataclass

import numpy as np

from headscope.models.model import Model
from headscope.studies.pairs import PairsConfig
from headscope.tasks.linear import linear

_DRAWN = 8


@dataclass(frozen=True)
class PairLengths:
    """Mean tokens of a prompt without pairs, of each further pair, and of an answer; `pairs` are shown in full."""

    pairs: int
    alone: float
    pair: float
    answer: float

    @classmethod
    def of(cls, settings: PairsConfig, model: Model) -> "PairLengths":
        """Of the problems that these settings draw."""
        shots = settings.draw(model, n=_DRAWN)
        whole, bare = linear(model, shots), linear(model, shots.without_context())
        long, short = (float(np.mean(each.lengths)) for each in (whole, bare))
        answered = float(np.mean(whole.answered().lengths))
        pairs = shots.x.shape[1]
        return cls(pairs, short, (long - short) / max(1, pairs), answered - long)

    def asked(self, pairs: float) -> float:
        """Tokens of a prompt with so many pairs."""
        return self.alone + pairs * self.pair

    def answered(self, pairs: float) -> float:
        """The same with its answer."""
        return self.asked(pairs) + self.answer
