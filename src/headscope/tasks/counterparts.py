"""Prompts in which every judged token has a counterpart before it: copying, translation, pattern matching.

The three behaviours of Olsson et al. 2022, argument 4. *Literal copying*: a passage, and the same again.
*Translation*: a passage in English, and the same in French or German (`lists/parallel.txt`: phrases of our own with
aligned words; the French adjective stands after its noun); words are judged by their first tokens, but for those that
the original has too. *Pattern matching*: lines such as `May lion: 2`, in which the kinds of both words decide the
number. In: a model. Out: `Counterparts`, each prompt beside its null: the same tokens are judged, but what stands
before them is another passage of the same phrases, or has its words exchanged between lines. A model that cannot be
asked in text is given random tokens to copy.

Roles: `predicting` are the positions whose *next* token is judged; for the i-th of these tokens `query i` is that
position, `analogue i` its counterpart (in the null, what stands in its place), `beside i` what stands next to that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from headscope.errors import PromptError
from headscope.tasks.natural import HasLanguage
from headscope.tasks.prompts import Prompts
from headscope.tasks.text import read_text
from headscope.tasks.vocabulary import distinct_tokens, ordinary_tokens, text_start

PREDICTING = "predicting"
LITERAL, TRANSLATION, PATTERN = BEHAVIOURS = ("literal_copying", "translation", "pattern_matching")
MOST_CLAUSES, SHOWN_OF_A_KIND, _PHRASES = 4, 2, 12
_KINDS = (("month", "animal"), ("month", "fruit"), ("color", "animal"), ("color", "fruit"))
_SLOTS, _COLUMNS = ("who", "does", "what", "where"), {"English": 1, "French": 2, "German": 3}
_LISTS = Path(__file__).parent / "lists"
# The position of a judged token, those of its counterpart and of what stands beside that; None if it is not judged.
_Slot = tuple[int, tuple[int, ...], tuple[int, ...]] | None
_Row = tuple[tuple[int, ...], list[_Slot]]


@dataclass(frozen=True, eq=False)
class Counterparts:
    """Prompts and, row by row, their nulls; each has at most `slots` judged tokens."""

    matched: Prompts
    null: Prompts
    slots: int

    def __len__(self) -> int:
        return len(self.matched)

    def rows(self, chosen: slice) -> Self:
        """Some of the prompts, each with its null."""
        return replace(self, matched=self.matched.rows(chosen), null=self.null.rows(chosen))

    @property
    def both(self) -> Prompts:
        """The prompts and, after all of them, their nulls."""
        roles = {name: (*marked, *self.null.roles[name]) for name, marked in self.matched.roles.items()}
        return Prompts((*self.matched.tokens, *self.null.tokens), roles, made_by=self.matched.made_by)


def counterparts(
    model: HasLanguage, behaviour: str, *, n: int = 50, clauses: int = 2, length: int = 12, seed: int = 0
) -> Counterparts:
    """`n` prompts of a behaviour, each with its null; a passage has so many clauses, or `length` random tokens.

    Raises:
        PromptError: if the model cannot be asked in text; for copying only if there are too few random tokens too.
    """
    recipe = {"task": behaviour, "n": n, "seed": seed, "clauses": clauses}
    try:
        return _made(model, _in_text(model, behaviour, n, clauses, seed), recipe)
    except PromptError:
        if behaviour != LITERAL:
            raise
    length = min(length, (model.context or 10**9) // 2 - 1, len(ordinary_tokens(model)[0]) // 2)
    generator = torch.Generator().manual_seed(seed)
    pairs = [_random_tokens(model, length, generator) for _ in range(n)]
    return _made(model, pairs, recipe | {"written": "random tokens", "clauses": 0, "length": length})


def _in_text(model: HasLanguage, behaviour: str, n: int, clauses: int, seed: int) -> list[tuple[_Row, _Row]]:
    if model.language is not None or model.tokenizer is None:
        raise PromptError("this model reads no text")
    generator = np.random.default_rng([seed, BEHAVIOURS.index(behaviour)])
    if behaviour == PATTERN:
        return [_lines(model, generator) for _ in range(n)]
    # The halves, of even and of odd number, have both languages.
    to = ["" if behaviour == LITERAL else ("French", "German")[row // 2 % 2] for row in range(n)]
    return [_passages(model, language, clauses, generator) for language in to]


def _made(model: HasLanguage, pairs: list[tuple[_Row, _Row]], recipe: Mapping[str, Any]) -> Counterparts:
    longest = max(len(tokens) for pair in pairs for tokens, _ in pair)
    if model.context is not None and longest > model.context:
        raise PromptError(f"its context of {model.context} tokens is shorter than the prompts ({longest})")
    if not all(any(slots) for pair in pairs for _, slots in pair):
        raise PromptError("its words begin with tokens that stand before them")
    matched, null = zip(*pairs, strict=True)
    told = ({**recipe, "counterpart": there} for there in (True, False))
    return Counterparts(_prompts(matched, next(told)), _prompts(null, next(told)), len(matched[0][1]))


def _prompts(rows: Sequence[_Row], recipe: Mapping[str, Any]) -> Prompts:
    roles = {PREDICTING: tuple(tuple(sorted(slot[0] - 1 for slot in slots if slot)) for _, slots in rows)}
    for index in range(len(rows[0][1])):
        marked = [slots[index] or (0, (), ()) for _, slots in rows]
        roles[f"query {index}"] = tuple((at - 1,) if at else () for at, _, _ in marked)
        roles[f"analogue {index}"] = tuple(analogue for _, analogue, _ in marked)
        roles[f"beside {index}"] = tuple(beside for _, _, beside in marked)
    return Prompts(tuple(tokens for tokens, _ in rows), roles, made_by=recipe)


def _random_tokens(model: HasLanguage, length: int, generator: torch.Generator) -> tuple[_Row, _Row]:
    """A passage of different random tokens twice; in the null others stand in its first place."""
    drawn = distinct_tokens(ordinary_tokens(model)[0], 2 * length, generator)
    start = [] if model.bos_token_id is None else [model.bos_token_id]
    begin, end = len(start), len(start) + length
    slots: list[_Slot] = [(at + length, (at,), (at - 1, at + 1)[: end - at]) for at in range(begin + 1, end)]
    own, other = ((*start, *before, *drawn[:length]) for before in (drawn[:length], drawn[length:]))
    return (own, slots), (other, slots)


def _passages(model: HasLanguage, to: str, clauses: int, generator: np.random.Generator) -> tuple[_Row, _Row]:
    """A passage and, on the next line, the same in the language `to`, or again; after another one in the null."""
    drawn = [generator.permutation(_PHRASES)[: 2 * clauses].tolist() for _ in _SLOTS]
    target = _passage("target", to or "English", [each[::2] for each in drawn])
    sources = [_passage("source", "English", [each[part::2] for each in drawn]) for part in (0, 1)]
    opening, between = ("English: ", f"\n{to}: ") if to else ("", "\n")
    rows = [_tokenised(model, f"{opening}{source}{between}{target}") for source in sources]
    (own, spans), (other, null_spans) = rows
    # What stands before its own translation could be copied; what stands in the null is known there.
    known = {*other[: null_spans["target0"][0]], *(own[: spans["target0"][0]] if to else ())}
    words = [word for word in range(len(spans) // 2) if own[spans[f"target{word}"][0]] not in known]
    made: list[_Row] = []
    for tokens, where in rows:
        slots: list[_Slot] = [None] * (len(spans) // 2)
        for word in words:
            near = [where.get(f"source{word + side}", ()) for side in (-1, 1)]
            slots[word] = where[f"target{word}"][0], where[f"source{word}"], (*near[0], *near[1])
        made.append((tokens, slots))
    return made[0], made[1]


def _passage(name: str, language: str, drawn: list[list[int]]) -> str:
    """Clauses of the phrases with these numbers, aligned words marked by name in the order of the English ones."""
    said, word = [], 0
    for clause in zip(*drawn, strict=True):
        for slot, row in zip(_SLOTS, clause, strict=True):
            phrase = [each for each in _listed("parallel.txt", "\t") if each[0] == slot][row]
            text = phrase[_COLUMNS[language]]
            for aligned in phrase[-1].split():
                own = aligned.split("=")[_COLUMNS[language] - 1]
                text = re.sub(rf"\b{own}\b", f"{{{name}{word}|{own}}}", text, count=1)
                word += 1
            said.append(text + "." * (slot == _SLOTS[-1]))
    return " ".join(said)


def _lines(model: HasLanguage, generator: np.random.Generator) -> tuple[_Row, _Row]:
    """Lines of two words and the number of their kinds; in the null words are exchanged between the lines shown."""
    words = {name: generator.permutation(each).tolist() for name, *each in _listed("categories.txt", " ")}
    labels, shown = generator.permutation(len(_KINDS)).tolist(), len(_KINDS) * SHOWN_OF_A_KIND
    each = np.arange(len(_KINDS))
    order = [*generator.permutation(each.repeat(SHOWN_OF_A_KIND)).tolist(), *generator.permutation(each).tolist()]
    pairs = [" ".join(words[name].pop() for name in _KINDS[kind]) for kind in order]
    exchanged = [pairs[row] for row in (*generator.permutation(shown), *range(shown, len(pairs)))]
    made: list[_Row] = []
    for listed in (pairs, exchanged):
        lines = (f"{said}: {{{row}|{labels[order[row]]}}}" for row, said in enumerate(listed))
        tokens, where = _tokenised(model, "\n".join(lines))
        slots: list[_Slot] = []
        for row in range(shown, len(pairs)):
            kinds: dict[bool, tuple[int, ...]] = {True: (), False: ()}
            for before in range(shown):
                kinds[order[before] == order[row]] += where[str(before)]
            slots.append((where[str(row)][0], kinds[True], kinds[False]))
        made.append((tokens, slots))
    return made[0], made[1]


def _tokenised(model: HasLanguage, marked: str) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """Token ids of a text, and the positions of what is marked in it as {name|words}."""
    text, spans = "", dict[str, tuple[int, int]]()
    for plain, name, words in re.findall(r"([^{]+)|\{(\w+)\|(.+?)\}", marked):
        spans |= {name: (len(text), len(text) + len(words))} if name else {}
        text += plain or words
    start, tokenizer = text_start(model), model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError("its tokenizer does not say where tokens stand in a text")
    told = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    def tokens_of(begin: int, end: int) -> tuple[int, ...]:
        offsets = enumerate(told["offset_mapping"], len(start))
        return tuple(at for at, (low, high) in offsets if max(low, begin) < min(high, end))

    where = {name: tokens_of(*span) for name, span in spans.items()}
    every = [at for each in where.values() for at in each]
    # Some tokenizers drop what they do not know.
    written = all(tokens_of(*word.span()) for word in re.finditer(r"\w+", text))
    if not written or len(set(every)) < len(every) or tokenizer.unk_token_id in told["input_ids"]:
        raise PromptError("its tokenizer has no tokens for some of the words")
    return (*start, *told["input_ids"]), where


def _listed(file: str, separator: str) -> list[list[str]]:
    return [line.split(separator) for line in read_text(_LISTS / file).splitlines()]
