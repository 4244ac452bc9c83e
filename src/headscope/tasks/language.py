"""What a model is trained on: the languages that exist, by the name that recipes and the cards of models give them.

A language gives sequences of token ids, drawn at will; token 0 is BOS and begins every sequence. It is frozen
plain data: its fields go to JSON and back, and two with equal fields are the same. It has a `vocab_size`, the
`length` of its sequences in tokens and a word for each token id (`words`); `sample` draws sequences, `labels` says
which of their tokens are worth a loss (-100: none), and `resized` is the same language in shorter or longer ones.
"""

from collections.abc import Mapping
from typing import Any

from headscope.errors import UnknownName
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.phrases import PhraseLanguage

Language = PhraseLanguage | PairLanguage
LANGUAGES: dict[str, type[Language]] = {"phrases": PhraseLanguage, "pairs": PairLanguage}
"""The languages that a recipe or a card can name."""


def language_of(name: object, parameters: Mapping[str, Any]) -> Language:
    """The language of that name with these fields, as JSON has them (lists for tuples).

    Raises:
        UnknownName: if there is no such language.
        TypeError: for fields that it does not have.
    """
    if not isinstance(name, str) or name not in LANGUAGES:
        raise UnknownName.among("language", name, LANGUAGES)
    return LANGUAGES[name](**with_tuples(parameters))


def with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as a frozen value has them, from JSON, which has lists for tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def name_of(language: Language) -> str:
    """The name of a language: the one under which `language_of` finds it."""
    return next(name for name, kind in LANGUAGES.items() if type(language) is kind)
