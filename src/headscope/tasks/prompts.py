"""Prompts: exactly the tokens that a model is asked about, and what we know of each position.

In: token ids (never text that would be tokenised a second time). Out: one frozen value that holds the
tokens of each example, the *roles* of its positions ("query", "repeated", ...), the right answers, the
foils they are compared with, and the recipe that made it. Examples may differ in length; padding is made
here, on the right, for whoever runs them, and is never seen by a user.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from headscope.errors import BadArgument, OutOfRange, PromptError, UnknownName
from headscope.vocabulary import Positions, PositionsLike

Role = tuple[tuple[int, ...], ...]

PER_EXAMPLE = ("tokens", "answers", "foils", "prompt_lengths", "answer_tokens")
"""Fields of prompts with one entry for each example, as each role has; all but the first may be empty."""

_FROM_TOKENIZERS = {"input_ids", "attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping"}


class HasTokens(Protocol):
    """What a task needs to know of a model to write prompts for it; every loaded model is one."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_token_id(self) -> int | None: ...


@dataclass(frozen=True, eq=False)
class Prompts:
    """Examples as token ids, with roles, answers and provenance.

    `roles` maps a role to the positions that carry it, one tuple per example. `answers` and `foils` are
    one token id per example (or empty); where whole answers are several tokens, `answer_tokens` has all of
    them and `answers` the first (see `answered`). `made_by` is the recipe: task, parameters, seed. `prompt_lengths`
    is set where tokens were generated after the prompts (see `grown`): negative positions count from there. `bare`
    ones are whatever ids somebody gave, without a mask: a model that they look padded to says so. It is no part of
    what they are.

    >>> prompts = Prompts.of([[5, 6, 7], [5, 6]])
    >>> prompts.lengths
    (3, 2)
    >>> prompts.where(-1).tolist()
    [[False, False, True], [False, True, False]]
    """

    tokens: tuple[tuple[int, ...], ...]
    roles: Mapping[str, Role] = field(default_factory=dict)
    answers: tuple[int, ...] = ()
    foils: tuple[int, ...] = ()
    made_by: Mapping[str, Any] = field(default_factory=dict)
    prompt_lengths: tuple[int, ...] = ()
    answer_tokens: tuple[tuple[int, ...], ...] = ()
    bare: bool = False

    def __post_init__(self) -> None:
        if not self.tokens or not all(self.tokens):
            raise PromptError("cannot use empty prompts: every example needs at least one token.")
        for name, given in (*((name, getattr(self, name)) for name in PER_EXAMPLE), *self.roles.items()):
            if given and len(given) != len(self.tokens):
                raise PromptError(
                    f"cannot build prompts: {name!r} has {len(given)} entries for {len(self.tokens)} examples."
                )

    @classmethod
    def of(cls, given: "PromptsLike", attention_mask: Any = None) -> Self:
        """From prompts, lists of token ids, one list of ids, an integer tensor, or what a tokenizer returns.

        What the mask (the argument, or the one beside `input_ids`) marks as padding, on either side, is left out.

        >>> Prompts.of({"input_ids": [[9, 9, 5], [5, 6, 7]], "attention_mask": [[0, 0, 1], [1, 1, 1]]}).tokens
        ((5,), (5, 6, 7))

        Raises:
            PromptError: if there is no example or an example is empty.
            BadArgument: for anything that is not token ids, or a mask that is none of padding.
        """
        if isinstance(given, Mapping):
            beside = set(given) - _FROM_TOKENIZERS
            if "input_ids" not in given or beside:
                raise BadArgument(
                    f"cannot read prompts from a mapping with {', '.join(map(str, given))}: give 'input_ids' and, "
                    "where there is padding, 'attention_mask'."
                )
            mask = given.get("attention_mask") if attention_mask is None else attention_mask
            return cls.of(given["input_ids"], mask)
        if attention_mask is not None:
            if isinstance(given, cls):
                raise BadArgument("cannot use attention_mask with prompts: they hold no padding. Leave it away.")
            return cls(_unpadded(cls.of(given).tokens, attention_mask))
        if isinstance(given, cls):
            return given
        if isinstance(given, Tensor):
            if given.is_floating_point() or given.ndim not in (1, 2):
                raise BadArgument(
                    f"cannot read prompts from a {given.dtype} tensor of shape {tuple(given.shape)}: "
                    "give token ids as integers [batch, position]."
                )
            given = given.tolist()
        try:
            if isinstance(given, str):
                raise TypeError("text")
            listed: list[Any] = list(given)  # type: ignore[arg-type]
            if listed and not any(isinstance(item, Iterable) for item in listed):
                listed = [listed]
            tokens = tuple(tuple(_token(token) for token in example) for example in listed)
        except TypeError as error:
            raise BadArgument(
                f"cannot read prompts from {str(given)[:60]!r}: give token ids, or text through hs.tasks.text."
            ) from error
        return cls(tokens)

    @classmethod
    def given(cls, given: "PromptsLike") -> Self:
        """As `of`, for what is run later: ids without a mask stay known as `bare`.

        >>> Prompts.given([[5, 6]]).bare, Prompts.given(Prompts.of([[5, 6]])).bare
        (True, False)
        """
        masked = isinstance(given, Mapping) and given.get("attention_mask") is not None
        return cls.of(given) if masked or isinstance(given, Prompts) else replace(cls.of(given), bare=True)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each example."""
        return tuple(len(example) for example in self.tokens)

    @property
    def ends(self) -> tuple[int, ...]:
        """Where negative positions count from: the end of each prompt, before anything generated."""
        return self.prompt_lengths or self.lengths

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether examples differ in length."""
        return len(set(self.lengths)) > 1

    @cached_property
    def ids(self) -> Tensor:
        """Token ids, int64 [batch, position], padded on the right with the example's last token.

        Repeating a real token keeps padded cells harmless for every model: none reads its future.
        """
        longest = self.longest
        return torch.tensor([example + (example[-1],) * (longest - len(example)) for example in self.tokens])

    @cached_property
    def real(self) -> Tensor:
        """Which cells hold a token rather than padding, bool [batch, position]."""
        return torch.arange(self.longest)[None] < torch.tensor(self.lengths)[:, None]

    def where(self, positions: PositionsLike) -> Tensor:
        """The cells at these positions, bool [batch, position].

        Raises:
            OutOfRange: if an example is too short for a position.
            UnknownName: if no position carries the role.
        """
        wanted = Positions.of(positions)
        self.check(wanted)
        mask = torch.zeros_like(self.real)
        if wanted.role is not None:
            for row, marked in enumerate(self.roles[wanted.role]):
                mask[row, list(marked)] = True
        elif wanted.indices is None:
            mask = self.real.clone()
        else:
            for row, end in enumerate(self.ends):
                mask[row, [index if index >= 0 else end + index for index in wanted.indices]] = True
        return mask

    def check(self, positions: Positions) -> None:
        """Raise unless every example has these positions (see `where`)."""
        if positions.role is not None and positions.role not in self.roles:
            raise UnknownName.among("role", positions.role, self.roles)
        shortest, nearest = min(self.lengths), min(self.ends)
        for index in positions.indices or ():
            if not -nearest <= index < shortest:
                raise OutOfRange(
                    f"cannot use position {index}: the shortest example has {shortest} tokens, "
                    f"numbered 0 to {shortest - 1} or, from the end, -{nearest} to -1."
                )

    def grown(self, tokens: Sequence[Sequence[int]]) -> Self:
        """The same prompts with what was generated after them; positions and roles mean what they meant.

        >>> prompts = Prompts.of([[5, 6]]).grown([[7, 8]])
        >>> prompts.tokens, prompts.where(-1).tolist()
        (((5, 6, 7, 8),), [[False, True, False, False]])
        """
        if len(tokens) != len(self):
            raise PromptError(
                f"cannot continue {len(self)} prompts by {len(tokens)} rows of tokens: give one row for each."
            )
        longer = tuple(own + tuple(more) for own, more in zip(self.tokens, tokens, strict=True))
        return replace(self, tokens=longer, prompt_lengths=self.ends)

    def answered(self) -> Self:
        """The same prompts with their whole answers after them, to be scored by teacher forcing.

        The role `answering` marks the positions whose *next* token belongs to the answer; the product of its
        probabilities there is that of the answer as a whole (`measures.joint_probability`). Positions and
        other roles mean what they meant.

        >>> prompts = Prompts(((5, 6),), answer_tokens=((7, 8),)).answered()
        >>> prompts.tokens, prompts.roles["answering"]
        (((5, 6, 7, 8),), ((1, 2),))

        Raises:
            PromptError: if an example has no answer.
        """
        whole = self.answer_tokens or tuple((answer,) for answer in self.answers)
        if not whole or not all(whole):
            raise PromptError(
                "cannot put answers after these prompts: they have none. Build them with answers= (one token id "
                "per example) or answer_tokens= (all tokens of each answer)."
            )
        spans = zip(self.lengths, whole, strict=True)
        answering = tuple(tuple(range(end - 1, end - 1 + len(answer))) for end, answer in spans)
        return replace(self.grown(whole), roles={**self.roles, "answering": answering})

    def rows(self, chosen: slice | Sequence[int]) -> Self:
        """Some of the examples, in the given order."""
        order = range(len(self))[chosen] if isinstance(chosen, slice) else chosen

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[row] for row in order) if values else ()

        picked: dict[str, Any] = {name: pick(getattr(self, name)) for name in PER_EXAMPLE}
        picked["roles"] = {name: pick(marked) for name, marked in self.roles.items()}
        return replace(self, **picked, made_by={**self.made_by, "rows": list(order)})

    def recipe(self) -> Mapping[str, Any]:
        """What identifies these prompts: the tokens themselves, and how they were made."""
        names: tuple[str, ...] = ("tokens", "roles", "answers", "foils", "made_by", "prompt_lengths")
        # Prompts whose answers are single tokens keep the hash that they had before there were others.
        names += ("answer_tokens",) if self.answer_tokens else ()
        return {"kind": "Prompts", **{name: getattr(self, name) for name in names}}


def _unpadded(tokens: tuple[tuple[int, ...], ...], mask: Any) -> tuple[tuple[int, ...], ...]:
    """The tokens that a mask [batch, position] of 0 and 1 keeps, which stand together in every row."""
    rows = mask.tolist() if hasattr(mask, "tolist") else list(mask)
    rows = rows if rows and isinstance(rows[0], Iterable) else [rows]
    spans = [[index for index, mark in enumerate(row) if mark] for row in rows]
    if (
        [len(row) for row in rows] != [len(example) for example in tokens]
        or any(mark not in (0, 1) for row in rows for mark in row)
        or any(span != list(range(span[0], span[-1] + 1)) for span in spans if span)
    ):
        raise BadArgument(
            "cannot use this attention_mask: give one of the shape of the token ids, 1 at tokens and 0 at padding, "
            "which stands before or after an example and never within it."
        )
    return tuple(tuple(example[index] for index in span) for example, span in zip(tokens, spans, strict=True))


def padded_rows(tokens: Sequence[Sequence[int]], pad: int | None, *, single: bool) -> list[int]:
    """The examples that begin or end in a run of the token `pad`, of one token where `single`, else of two."""
    run = (pad,) * (1 if single else 2)
    ends = [(tuple(row[: len(run)]), tuple(row[-len(run) :]), set(row)) for row in tokens]
    return [index for index, (first, last, all_) in enumerate(ends) if run in (first, last) and all_ != {pad}]


def _token(given: Any) -> int:
    """A whole number as an int; text, floats and truth values are none."""
    if isinstance(given, bool | str):
        raise TypeError(f"{given!r} is no token id")
    return operator.index(given)


PromptsLike = Prompts | Tensor | Sequence[Sequence[int]] | Sequence[int] | Mapping[str, Any]
