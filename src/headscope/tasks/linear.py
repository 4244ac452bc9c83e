"""In-context learning of hidden functions: pairs (x, y) as prompts that any model can read.

In: a model and few-shot problems as numbers (`Shots`; drawn here if none are given). Out: prompts in the form
that the model knows: a zoo model of the language of pairs gets its number tokens, one for each whole number
(`x , y ; x , y ; x ,`); every other model gets text, `(x, y)` line by line and then `(x, `, tokenised with the
answer in place and cut before it, so that digits and spaces fall as they do in the lines above. Numbers may
be several tokens. The setting, and the name, are those of the article on redundant heads that `Shots.article`
quotes; the other families of `functions` are written in the same way.

Roles, by position: `x` and `y` (all tokens of the shown numbers), `before_y` (the token from which each shown
y is predicted), `separator` (everything that is no number), `query` (the last x), `readout` (the last
token, whose next one begins the answer). BOS has none.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from headscope.errors import PromptError
from headscope.tasks.functions import Functions, Ints
from headscope.tasks.language import language_of
from headscope.tasks.natural import HasLanguage
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.prompts import Prompts
from headscope.tasks.shots import EVERYDAY, Shots
from headscope.tasks.vocabulary import text_start

_Marked = tuple[str, tuple[int, int]]


def linear(
    model: HasLanguage,
    shots: Shots | None = None,
    *,
    n_shots: int = 12,
    n: int = 50,
    seed: int = 0,
    answers: Sequence[int] | Ints | None = None,
) -> Prompts:
    """Prompts of few-shot problems, with the whole answer of each in `answer_tokens`, its first in `answers`.

    Without `shots`, `n` problems of `n_shots` clean pairs are drawn, from the functions of the model's own
    language or else from `EVERYDAY`. `answers` puts other numbers, one per example, in place of the
    functions' values: to ask how likely some other answer is. (A tokenizer that joins the space with some
    digits and not with others then ends the prompt before the space for the one and after it for the other.)

    Raises:
        PromptError: if the model has neither the language nor a tokenizer that keeps numbers apart, or if
            `answers` are not one per example.
        OutOfRange: for a number that the model's language has no token for.
    """
    language = functions_of(model)
    if shots is None:
        shots = Shots.draw(language or EVERYDAY, shots=n_shots, n=n, seed=seed)
    wanted = shots.answer if answers is None else np.asarray(answers, np.int64)
    if wanted.shape != (len(shots),):
        raise PromptError(
            f"cannot write {len(shots)} problems with answers of shape {wanted.shape}: give one number for each."
        )
    prompts = _in_text(model, shots, wanted) if language is None else _in_tokens(language, shots, wanted)
    written = "text" if language is None else "number tokens"
    return replace(prompts, made_by={"task": "linear", "written": written, **shots.recipe()})


def linear_pair(
    model: HasLanguage, shots: Shots, bare: Shots | None = None, *, seed: int = 0
) -> tuple[Prompts, Prompts]:
    """Prompts A with context and B without, example by example about the same function.

    A asks its own queries. B asks those of `bare`, or, without it, inputs that A neither shows nor asks, drawn
    with `seed`; it has the query alone, so patches between the two name their positions ({-1: -1}).
    """
    asked = shots.asking_anew(seed).without_context() if bare is None else bare
    return linear(model, shots), linear(model, asked)


def functions_of(model: HasLanguage) -> PairLanguage | None:
    """The language of pairs that a model was trained on; None for every other model."""
    told = model.language
    language = None if told is None else language_of(told["generator"], told["parameters"])
    return language if isinstance(language, PairLanguage) else None


def _in_tokens(language: PairLanguage, shots: Shots, answers: Ints) -> Prompts:
    """Number tokens; every example has the same roles, since every number is one token."""
    if not shots.functions.is_number:
        raise PromptError(
            f"cannot write {shots.functions.stated} for this model: it has tokens for numbers alone. Use a model "
            "that reads text."
        )
    # The query and its answer are one more pair, of which the answer is left out.
    tokens = language.write(shots.inputs, np.concatenate((shots.y, answers[:, None]), axis=1))[:, :-1]
    names = ["x", "separator", "y", "separator"] * shots.x.shape[1] + ["query", "separator"]
    positions = _roles(dict(enumerate(names, start=1)), tokens.shape[1])
    firsts = tuple(language.number_tokens(answers).tolist())
    return Prompts(
        tuple(map(tuple, tokens.tolist())),
        roles={role: (marked,) * len(shots) for role, marked in positions.items()},
        answers=firsts,
        answer_tokens=tuple((token,) for token in firsts),
    )


def _in_text(model: HasLanguage, shots: Shots, answers: Ints) -> Prompts:
    """Text, tokenised whole; every example has roles of its own, since numbers differ in length."""
    if model.language is not None:
        raise PromptError(
            f"cannot write pairs for this model: it knows nothing but the language {model.language['generator']!r}. "
            "Use a model of the language of pairs, such as the linear ones of the zoo, or one that reads text."
        )
    if not getattr(model.tokenizer, "is_fast", False):
        raise PromptError(
            "cannot write pairs as text: this needs a fast tokenizer, which says where each token stands in the "
            "text. Load the model with one, or use a model of the zoo that knows number tokens."
        )
    start = text_start(model)
    tokens, roles, whole = [], [], []
    for x, y, query, answer in zip(shots.x, shots.y, shots.query, answers, strict=True):
        text, numbers = _written(shots.functions, x.tolist(), y.tolist(), int(query), int(answer))
        ids, names = _tokenised(model.tokenizer, text, numbers)
        asked = [index for index, name in names.items() if name == "answer"]
        first = asked[0]
        tokens.append(tuple(start + ids[:first]))
        whole.append(tuple(ids[first : asked[-1] + 1]))
        named = {index + len(start): names.get(index, "separator") for index in range(first)}
        roles.append(_roles(named, first + len(start)))
    return Prompts(
        tuple(tokens),
        roles={role: tuple(example[role] for example in roles) for role in roles[0]},
        answers=tuple(answer[0] for answer in whole),
        answer_tokens=tuple(whole),
    )


def _written(functions: Functions, x: list[int], y: list[int], query: int, answer: int) -> tuple[str, list[_Marked]]:
    """The text with its answer, and the name and span of each number (or word) in it."""
    text, numbers = "", []
    named = [*(("x", "y", *pair) for pair in zip(x, y, strict=True)), ("query", "answer", query, answer)]
    before, between, after = functions.form
    for left, right, first, second in named:
        for opening, name, number in ((before, left, first), (between, right, second)):
            text, own = text + opening, functions.text(number)
            numbers.append((name, (len(text), len(text) + len(own))))
            text += own
        text += after
    return text, numbers


def _tokenised(tokenizer: Any, text: str, numbers: list[_Marked]) -> tuple[list[int], dict[int, str]]:
    """Token ids of the text, and the name of each token that holds (part of) a number."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    names: dict[int, str] = {}
    spans = iter(numbers)
    name, (begin, end) = next(spans)
    for index, (low, high) in enumerate(encoded["offset_mapping"]):
        while low >= end:
            name, (begin, end) = next(spans, ("", (len(text), len(text) + 1)))
        if high <= begin or low == high:
            continue
        if text[low : min(high, begin)].strip() or text[end : max(high, end)].strip():
            raise PromptError(
                f"cannot write pairs for this tokenizer: its token {text[low:high]!r} holds a number together "
                "with other text, so numbers have no positions of their own."
            )
        names[index] = name
    return list(encoded["input_ids"]), names


def _roles(names: dict[int, str], length: int) -> dict[str, tuple[int, ...]]:
    """Positions by role, from the name of each position but BOS."""
    roles = {
        role: tuple(position for position, name in names.items() if name == role)
        for role in ("x", "y", "separator", "query")
    }
    before = tuple(position - 1 for position in roles["y"] if names.get(position - 1) != "y")
    return {**roles, "before_y": before, "readout": (length - 1,)}
