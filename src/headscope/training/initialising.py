"""How a model starts, where its language knows something of its tokens: numbers as points on circles.

In: an untrained model and its language. Out: nothing; the model's embedding and unembedding are set in place.
A number starts as cosines and sines of its place on circles of several circumferences, so that sums and
products are turns and tens and units can be told apart from the first step. Trained models that add arrive at
such vectors by themselves (Nanda et al. 2023, "Progress measures for grokking via mechanistic
interpretability"), after many more steps than a small recipe has.
"""

import numpy as np
import torch

from headscope.architectures import ToyForCausalLM
from headscope.tasks.language import Language
from headscope.tasks.pairs import PairLanguage

_CIRCUMFERENCES = (2, 3, 4, 5, 7, 10, 13, 20, 32, 50, 80, 128, 200)
_READ, _WRITTEN = 0.3, 0.1  # scale in the embedding and in the unembedding
_REST = 0.05  # of the dimensions that are left to learn


def initialise(model: ToyForCausalLM, language: Language) -> None:
    """Set what the language knows; a language without numbers leaves the model as it is."""
    if not isinstance(language, PairLanguage):
        return
    numbers = np.arange(language.n_numbers)
    rows = torch.from_numpy(language.number_tokens(numbers))
    known = circles(numbers, model.config.d_model)
    with torch.no_grad():
        for weight, scale in ((model.model.embed_tokens.weight, _READ), (model.lm_head.weight, _WRITTEN)):
            weight[rows] = torch.randn(len(rows), weight.shape[1]) * _REST
            weight[rows, : known.shape[1]] = known * scale


def circles(numbers: np.ndarray, size: int) -> torch.Tensor:
    """Cosine and sine of each number on every circle, then the number itself from -1 to 1.

    Float32 [number, feature], at most `size` features.
    """
    turns = 2 * np.pi * numbers[:, None] / np.array(_CIRCUMFERENCES)
    around = np.stack((np.cos(turns), np.sin(turns)), axis=-1).reshape(len(numbers), -1)
    line = 2 * numbers[:, None] / max(1, len(numbers)) - 1
    return torch.from_numpy(np.concatenate((around, line), axis=1)[:, :size]).float()
