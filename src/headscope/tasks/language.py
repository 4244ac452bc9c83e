"""What a language must tell whoever trains a model on it or writes prompts in it.

A language is frozen plain data: its fields go to JSON and back, and two with equal fields are the same. Here
is also the list of those that exist, by the name that recipes and the cards of models give them.
"""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from headscope.errors import UnknownName
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.phrases import PhraseLanguage

Tokens = NDArray[np.int64]


class Language(Protocol):
    """Sequences of token ids, drawn at will. Token 0 is BOS and begins every sequence."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        ...

    @property
    def words(self) -> list[str]:
        """The word of each token id, for a tokenizer that splits at spaces."""
        ...

    def sample(self, n: int, generator: np.random.Generator) -> Tokens:
        """`n` sequences, int64 [sequence, position]."""
        ...

    def labels(self, tokens: Tokens) -> Tokens:
        """The tokens themselves where predicting them is worth a loss, -100 elsewhere."""
        ...

    def resized(self, length: int) -> Self:
        """The same language in sequences of at most `length` tokens."""
        ...


LANGUAGES: dict[str, type[PhraseLanguage] | type[PairLanguage]] = {"phrases": PhraseLanguage, "pairs": PairLanguage}
"""The languages that a recipe or a card can name."""


def language_of(name: object, parameters: Mapping[str, Any]) -> PhraseLanguage | PairLanguage:
    """The language of that name with these fields, as JSON has them (lists for tuples).

    Raises:
        UnknownName: if there is no such language.
        TypeError: for fields that it does not have.
    """
    if not isinstance(name, str) or name not in LANGUAGES:
        raise UnknownName.among("language", name, LANGUAGES)
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()
    }
    return LANGUAGES[name](**fields)


def name_of(language: Language) -> str:
    """The name of a language: the one under which `language_of` finds it."""
    return next(name for name, kind in LANGUAGES.items() if type(language) is kind)
