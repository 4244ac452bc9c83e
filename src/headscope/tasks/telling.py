"""The first token that tells candidate answers apart: where a model is patched and read.

In: a model, few-shot problems, and candidate answers for each of them. Out: `ToldApart`: for every candidate the same
prompts, gone on with all tokens that the candidates share (a space of its own, a common first digit), and the next
token of that candidate. What is patched into the last position of a prompt decides the first token that is generated;
the later ones of an answer are those of a model that saw no examples. So what candidates share is *forced*, in source
and target alike, and the token after it is asked for; the probability of all that is left of an answer can still be
read (`Prompts.answered`). With one token for each answer, as number tokens are, prompts stay what they were.

A problem is *clear* if the candidates part all at once: where two of them go on alike, that token tells neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from headscope.tasks.functions import Bools, Ints
from headscope.tasks.linear import linear
from headscope.tasks.natural import HasLanguage
from headscope.tasks.prompts import Prompts
from headscope.tasks.shots import Shots


@dataclass(frozen=True, eq=False)
class ToldApart:
    """Prompts by candidate: the same tokens, `answers` the telling tokens, `answer_tokens` what is left from there.

    `clear` [problem]: all candidates have a telling token of their own; others are not to be read. `forced` [problem]
    counts the tokens that were put after the prompt as it is written.
    """

    prompts: Mapping[str, Prompts]
    clear: Bools
    forced: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> Prompts:
        """Those of the first candidate; the tokens are those of all."""
        return next(iter(self.prompts.values()))


def told_apart(model: HasLanguage, shots: Shots, candidates: Mapping[str, Ints]) -> ToldApart:
    """These problems up to the first token that tells their candidates [problem] apart.

    Raises:
        PromptError: as `linear`.
    """
    written = {name: linear(model, shots, answers=numbers) for name, numbers in candidates.items()}
    whole = {name: each.grown(each.answer_tokens).tokens for name, each in written.items()}
    shared = [_shared(rows) for rows in zip(*whole.values(), strict=True)]
    # A candidate that another one goes on from has no token of its own there: such a problem is not clear.
    clear = [
        len({row[at : at + 1] for row in rows} - {()}) == len(rows)
        for rows, at in zip(zip(*whole.values(), strict=True), shared, strict=True)
    ]
    prompts = {name: _cut(written[name], rows, shared) for name, rows in whole.items()}
    begun = [min(lengths) for lengths in zip(*(each.lengths for each in written.values()), strict=True)]
    tokens = next(iter(prompts.values())).tokens
    forced = tuple(row[begin:] for row, begin in zip(tokens, begun, strict=True))
    return ToldApart(prompts, np.array(clear, np.bool_), forced)


def _shared(rows: tuple[tuple[int, ...], ...]) -> int:
    """With how many equal tokens all of them begin."""
    return len(list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rows, strict=False))))


def _cut(prompts: Prompts, whole: tuple[tuple[int, ...], ...], at: list[int]) -> Prompts:
    """The same prompts with other ends; roles other than the read-out lie before all of them."""
    at = [min(end, len(row) - 1) for row, end in zip(whole, at, strict=True)]
    rows = list(zip(whole, at, strict=True))
    left = tuple(row[end:] for row, end in rows)
    return replace(
        prompts,
        tokens=tuple(row[:end] for row, end in rows),
        # Whatever was cut off is a space at most, and what was added an answer: only the end has moved.
        roles={
            role: tuple(tuple(p for p in marked if p < end) for marked, end in zip(every, at, strict=True))
            for role, every in {**prompts.roles, "readout": tuple((end - 1,) for end in at)}.items()
        },
        answers=tuple(tokens[0] for tokens in left),
        answer_tokens=left,
    )
