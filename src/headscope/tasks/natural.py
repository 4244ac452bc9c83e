"""The prompts that are closest to what a model was trained on, for detectors that need no special structure.

In order of preference: a text that the user names; the language that a zoo model was trained on, which its
card names; prose that every Python has on disk. A model with neither tokenizer nor language gets random
tokens, and the recipe says so.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from headscope.tasks.language import language_of
from headscope.tasks.prompts import HasTokens, Prompts
from headscope.tasks.text import sample_text, windows
from headscope.tasks.vocabulary import ordinary_tokens


class HasLanguage(HasTokens, Protocol):
    """A model that may know the name and parameters of the language it was trained on."""

    @property
    def language(self) -> Mapping[str, Any] | None: ...

    @property
    def context(self) -> int | None: ...


def natural(
    model: HasLanguage,
    *,
    text: str | None = None,
    named: str = "a given text",
    length: int = 64,
    n: int = 50,
    seed: int = 0,
) -> Prompts:
    """`n` prompts of `length` tokens (fewer where the model's context is shorter), as natural as can be had.

    Raises:
        PromptError: if a text is given and the model has no tokenizer, or the text is too short.
    """
    length = min(length, model.context or length)
    if text is not None:
        return windows(model, text, length=length, n=n, named=named)
    if model.language is not None:
        return _spoken(model.language, length, n, seed)
    if model.tokenizer is not None:
        prose, source = sample_text()
        return windows(model, prose, length=length, n=n, named=source)
    return random_tokens(model, length=length, n=n, seed=seed)


def random_tokens(model: HasTokens, *, length: int = 64, n: int = 50, seed: int = 0) -> Prompts:
    """BOS and random tokens, drawn independently: prompts without any structure.

    Raises:
        PromptError: if the vocabulary has no ordinary tokens.
    """
    choices, said = ordinary_tokens(model)
    generator = torch.Generator().manual_seed(seed)
    start = [] if model.bos_token_id is None else [model.bos_token_id]
    drawn = torch.randint(len(choices), (n, length - len(start)), generator=generator).tolist()
    tokens = tuple(tuple(start + [choices[index] for index in row]) for row in drawn)
    recipe = {"task": "random_tokens", "length": length, "n": n, "seed": seed, "vocabulary": said}
    return Prompts(tokens, made_by=recipe)


def _spoken(language: Mapping[str, Any], length: int, n: int, seed: int) -> Prompts:
    spoken = language_of(language["generator"], language["parameters"]).resized(length)
    drawn = spoken.sample(n, np.random.default_rng(seed))
    parameters = {**language["parameters"], "length": drawn.shape[1]}
    recipe = {"task": language["generator"], **parameters, "n": n, "sample_seed": seed}
    return Prompts(tuple(map(tuple, drawn.tolist())), made_by=recipe)
