"""The number that a model answers with, and how far its next token is one.

In: a model, prompts that ask for a number (tasks.linear), cells. Out: numbers per cell and prompt. What a model
*predicts* is, with the number tokens of a language of pairs, the most likely of them, and in text the number that
greedy decoding writes. *Any number* is, with number tokens, the probability of all of them together, and in text 1
where the most likely next token begins a number, else 0. Not done here: the probability of a given answer (measures).
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from headscope.measures.readouts import Measure, ReadOut
from headscope.models.model import Model
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.generation import generate_many
from headscope.sweeps.grid import Cell
from headscope.tasks.functions import Ints
from headscope.tasks.linear import functions_of
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions

_NUMBER = re.compile(r"\s*(\d+)")
# At most this far from the right number, as a share of it, is *near*: the 85, 89 and 91 for 87 of the article on
# redundant heads.
NEAR = 0.05


def any_number(model: Model) -> Measure:
    """How far the next token is a number, from 0 to 1: see the first paragraph of this module."""
    language = functions_of(model)
    if language is not None:
        numbers = _number_tokens(language)

        def mass(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
            return logits[:, 0].float().softmax(-1)[:, numbers].sum(-1)

        return _at_last("probability of all numbers together", mass)
    begins = _beginning(model)

    def likeliest(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        best = logits[:, 0].argmax(-1)
        return begins.to(best.device)[best].float()

    return _at_last("the most likely next token begins a number", likeliest)


def predicted_numbers(model: Model, prompts: Prompts, cells: Sequence[Cell], tokens: int) -> Tensor:
    """The number that the model predicts in every cell, float64 [cell, prompt]; NaN where it writes none.

    `tokens` are those of the longest number in question.
    """
    language = functions_of(model)
    if language is None:
        edits = [cell.interventions for cell in cells]
        texts = generate_many(model, prompts, edits, max_new_tokens=tokens + 1)
        return torch.stack([_numbers_in(each.texts or ()) for each in texts])
    numbers = _number_tokens(language)

    def most_likely(logits: Tensor, prompts: Prompts, at: Tensor) -> Tensor:
        return logits[:, 0][:, numbers].argmax(-1).double()

    return cell_values(model, prompts, cells, _at_last("most likely number", most_likely))


def exact(numbers: Tensor, right: Ints) -> Tensor:
    """1 where the predicted number is the right one, else 0; float64 of the shape of `numbers` [..., prompt]."""
    return (numbers == torch.from_numpy(right)).double()


def near(numbers: Tensor, right: Ints) -> Tensor:
    """1 where the predicted number is off by at most `NEAR` of the right one, rounded up; else 0.

    >>> near(torch.tensor([85.0, 82.0, 81.0]), np.array([87, 87, 87])).tolist()
    [1.0, 1.0, 0.0]
    """
    reach = torch.from_numpy(np.ceil(NEAR * right))
    return ((numbers - torch.from_numpy(right)).abs() <= reach).double()


def _at_last(name: str, compute: Callable[[Tensor, Prompts, Tensor], Tensor]) -> Measure:
    return Measure(name, "", 1, ReadOut(Positions.of("readout")), compute)


def _number_tokens(language: PairLanguage) -> Tensor:
    """The token of every number from 0, int64 [number]."""
    return torch.from_numpy(language.number_tokens(np.arange(language.n_numbers)))


def _beginning(model: Model) -> Tensor:
    """Which tokens begin a number, spaces before it aside, bool [vocab]."""
    n_tokens = min(len(model.tokenizer), model.vocab_size)
    begins = torch.zeros(model.vocab_size, dtype=torch.bool)
    begins[:n_tokens] = torch.tensor(
        [model.tokenizer.decode([token]).lstrip()[:1].isdecimal() for token in range(n_tokens)]
    )
    return begins


def _numbers_in(texts: Sequence[str]) -> Tensor:
    matches = [_NUMBER.match(text) for text in texts]
    return torch.tensor([float("nan") if m is None else float(m[1]) for m in matches], dtype=torch.float64)
