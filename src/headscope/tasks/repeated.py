"""Repeated random tokens, their matched null, and clean/corrupted pairs made of them.

A segment of distinct random tokens is shown several times. From the second time on, only a model that
looks up what followed the current token before can know the next one: this is the standard probe for
induction (Olsson et al. 2022, Bansal et al. 2022). Everything is token-exact: ids are drawn, never decoded
and tokenised again. At a fixed period a head that merely looks a fixed distance back scores as well, so
`gaps` can put a random number of other tokens between the repeats.
"""

from collections.abc import Sequence
from typing import Any

import torch

from headscope.errors import BadArgument
from headscope.tasks.prompts import HasTokens, Prompts
from headscope.tasks.vocabulary import distinct_tokens, ordinary_tokens


def repeated_tokens(
    model: HasTokens,
    *,
    length: int = 25,
    repeats: int = 4,
    n: int = 50,
    seed: int = 0,
    gaps: tuple[int, int] = (0, 0),
    frequencies: Sequence[float] | None = None,
) -> Prompts:
    """A BOS token, then a segment of `length` distinct random tokens `repeats` times.

    Roles: `first` (the first showing), `repeated` (the later ones, where the past answers), and
    `predictable`: the positions of later showings whose *next* token is determined by the past.
    `gaps=(low, high)` puts low to high (inclusive, drawn per gap) further distinct tokens before each
    repeat. A model without a BOS token gets none, and the recipe says so.

    Raises:
        PromptError: if the vocabulary is too small.
        BadArgument: for sizes below 1 or gaps out of order.
    """
    _check_sizes(length=length, repeats=repeats, n=n)
    if not 0 <= gaps[0] <= gaps[1]:
        raise BadArgument(f"cannot use gaps {gaps}: give (low, high) with 0 <= low <= high.")
    choices, said = ordinary_tokens(model, frequencies)
    generator = torch.Generator().manual_seed(seed)
    start = [] if model.bos_token_id is None else [model.bos_token_id]
    tokens, first, repeated, predictable = [], [], [], []
    for _ in range(n):
        sizes = torch.randint(gaps[0], gaps[1] + 1, (repeats - 1,), generator=generator).tolist()
        drawn = distinct_tokens(choices, length + sum(sizes), generator)
        segment, spare = drawn[:length], drawn[length:]
        example, shown = start + segment, []
        for size in sizes:
            example = example + spare[:size]
            spare = spare[size:]
            shown.append(range(len(example), len(example) + length))
            example = example + segment
        tokens.append(tuple(example))
        first.append(tuple(range(len(start), len(start) + length)))
        repeated.append(tuple(position for showing in shown for position in showing))
        predictable.append(tuple(position for showing in shown for position in showing[:-1]))
    return Prompts(
        tuple(tokens),
        roles={"first": tuple(first), "repeated": tuple(repeated), "predictable": tuple(predictable)},
        made_by=_recipe(
            "repeated_tokens", model, said, length=length, repeats=repeats, n=n, seed=seed, gaps=list(gaps)
        ),
    )


def without_repeats(model: HasTokens, prompts: Prompts, *, seed: int = 0) -> Prompts:
    """The matched null: prompts of the same lengths and roles in which no token occurs twice.

    The same (query, key) pairs exist in both, so a score on these is what the pairs give without the
    structure that makes them meaningful.

    Raises:
        PromptError: if the vocabulary is too small for that many distinct tokens.
    """
    choices, said = ordinary_tokens(model)
    generator = torch.Generator().manual_seed(seed)
    bos = model.bos_token_id
    tokens = []
    for example in prompts.tokens:
        start = [bos] if bos is not None and example[0] == bos else []
        drawn = distinct_tokens(choices, len(example) - len(start), generator)
        tokens.append(tuple(start + drawn))
    return Prompts(
        tuple(tokens),
        roles=prompts.roles,
        made_by=_recipe("without_repeats", model, said, seed=seed, of=dict(prompts.made_by)),
    )


def induction_pairs(model: HasTokens, *, length: int = 8, n: int = 50, seed: int = 0) -> tuple[Prompts, Prompts]:
    """Clean and corrupted prompts that differ in one token, for patching.

    Clean: `BOS s0 ... s(L-1) s0 ... sk` with answer s(k+1), known only from the first showing. Corrupted:
    the token sk of the *first* showing is replaced by one that occurs nowhere else, so that the last
    token no longer matches anything. The foil is a later token of the segment: shown once, like the
    answer, so that merely favouring such tokens gains nothing. Roles:
    `match` (sk in the first showing), `answer` (the token after it), `query` (the last token).
    k is the middle of the segment, so all examples have one length and patches need no position map.

    Raises:
        BadArgument: for segments of fewer than 5 tokens.
    """
    if length < 5:
        raise BadArgument(f"cannot build induction pairs of length {length}: use at least 5 tokens.")
    _check_sizes(length=length, repeats=2, n=n)
    choices, said = ordinary_tokens(model)
    generator = torch.Generator().manual_seed(seed)
    start = [] if model.bos_token_id is None else [model.bos_token_id]
    shown = length // 2  # index of sk within the segment
    match, query = len(start) + shown, len(start) + length + shown
    clean, corrupted, answers, foils = [], [], [], []
    later = range(shown + 2, length)
    for _ in range(n):
        *segment, other = distinct_tokens(choices, length + 1, generator)
        broken = [*segment[:shown], other, *segment[shown + 1 :]]
        clean.append(tuple(start + segment + segment[: shown + 1]))
        corrupted.append(tuple(start + broken + segment[: shown + 1]))
        answers.append(segment[shown + 1])
        foils.append(segment[later[int(torch.randint(len(later), (1,), generator=generator))]])
    roles = {"match": ((match,),) * n, "answer": ((match + 1,),) * n, "query": ((query,),) * n}

    def prompts(tokens: list[tuple[int, ...]], version: str) -> Prompts:
        recipe = _recipe("induction_pairs", model, said, length=length, n=n, seed=seed, version=version)
        return Prompts(tuple(tokens), roles, tuple(answers), tuple(foils), recipe)

    return prompts(clean, "clean"), prompts(corrupted, "corrupted")


def _recipe(task: str, model: HasTokens, vocabulary: str, **parameters: Any) -> dict[str, Any]:
    bos = "none: the model declares none" if model.bos_token_id is None else model.bos_token_id
    return {"task": task, **parameters, "vocabulary": vocabulary, "bos": bos}


def _check_sizes(*, length: int, repeats: int, n: int) -> None:
    for name, value in (("length", length), ("repeats", repeats), ("n", n)):
        if value < 1:
            raise BadArgument(f"cannot build prompts with {name}={value}: it must be at least 1.")
