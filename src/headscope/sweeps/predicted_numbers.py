"""The answer that a model gives: its most likely next token, the number that this makes, or what it writes greedily.

In: a model, prompts that ask for an answer (tasks.linear, tasks.telling), cells. Out: measures, and what their values
mean. What a model *predicts* is its most likely next token; with the number tokens of a language of pairs, the most
likely of those. Where an answer is one token, or all of it but one was forced, that token makes a whole number, with
those *near* it. *Any number* is, with number tokens, the probability of all of them together, and in text 1 where the
most likely next token begins a number, else 0. Not done here: the probability of a given answer (measures).
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from headscope.measures.candidates import most_likely
from headscope.measures.readouts import Measure, ReadOut
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.sweeps.generation import generate_many
from headscope.tasks.functions import Ints
from headscope.tasks.linear import functions_of
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions

_NUMBER = re.compile(r"\s*(\d+)\s*")
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


def predicted_token(model: Model) -> Measure:
    """The most likely next token; in a language of pairs the most likely number token."""
    language = functions_of(model)
    return most_likely(None if language is None else _number_tokens(language).tolist())


def numbers_of(model: Model, tokens: Tensor, forced: Sequence[Sequence[int]]) -> Tensor:
    """The numbers that tokens [..., prompt] make with what was forced before them; NaN where they make none."""
    language = functions_of(model)
    if language is not None:
        return tokens - float(language.number_tokens(np.array(0)))
    decode = model.tokenizer.decode
    begun = ["".join(decode([token]) for token in each) for each in forced]
    flat = tokens.reshape(-1, len(begun))
    known = {token: decode([token]) for token in set(flat.long().flatten().tolist())}
    numbers = [
        [_number(begin + known[token]) for begin, token in zip(begun, row, strict=True)]
        for row in flat.long().tolist()
    ]
    return torch.tensor(numbers, dtype=torch.float64).reshape(tokens.shape)


def near(numbers: Tensor, right: Ints) -> Tensor:
    """1 where the predicted number is off by at most `NEAR` of the right one, rounded up; else 0.

    >>> near(torch.tensor([85.0, 82.0, 81.0]), np.array([87, 87, 87])).tolist()
    [1.0, 1.0, 0.0]
    """
    reach = torch.from_numpy(np.ceil(NEAR * right))
    return ((numbers - torch.from_numpy(right)).abs() <= reach).double()


def written_right(model: Model, prompts: Prompts, after: str, edits: Sequence[Edit] = ()) -> Tensor:
    """1 where greedy decoding writes the very answer of the prompts and then ends it, else 0, float64 [prompt].

    `after` is what stands after an answer, of which the first character ends it; in text alone.
    """
    longest = max(map(len, prompts.answer_tokens))
    (found,) = generate_many(model, prompts, [list(edits)], max_new_tokens=longest + 1)
    decode = model.tokenizer.decode
    answers = [decode(list(tokens)) for tokens in prompts.answer_tokens]
    pairs = zip(found.texts or (), answers, strict=True)
    return torch.tensor([_ends(text, answer, after) for text, answer in pairs], dtype=torch.float64)


def _ends(text: str, answer: str, after: str) -> bool:
    """Whether a text is an answer, gone on with what comes after one, or with nothing.

    >>> [_ends(text, " 87", ")") for text in (" 87)", " 87", " 873", " 8")]
    [True, True, False, False]
    """
    rest = text.removeprefix(answer)
    return text.startswith(answer) and (not rest or rest.lstrip(" ").startswith(after[0]))


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


def _number(text: str) -> float:
    match = _NUMBER.fullmatch(text)
    return float("nan") if match is None or len(match[1]) > 15 else float(match[1])
