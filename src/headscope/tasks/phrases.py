"""The language of phrases: a synthetic text in which the past pays, on which small models learn to look back.

In: the sizes of the language and a numpy generator. Out: token ids [sequence, position] of any number of
sequences. Each sequence begins with BOS (token 0) and goes on as *background*: token 1 to V - 1, each drawn
from the few successors of the one before it, which the language fixes once for all. That much a bigram
table knows. Over the background lie *phrases*: every sequence draws a few random ones for itself, in which
no token occurs twice, and shows them again and again. No weight can know them; only a model that finds where
the current token stood before and reads on from there predicts their later showings. This is what makes
two-layer attention-only models form induction heads, all at once, after some ten million tokens.

Built after the argument of Olsson et al. 2022, "In-context Learning and Induction Heads"; the language
itself is ours. Not here: prompts for detectors (`tasks.repeated`), which nobody is trained on.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from headscope.errors import BadArgument
from headscope.tasks.functions import Floats, Ints

BOS = 0
_ONSETS = "bdfghjklmnprstvwyz"
_VOWELS = "aeiou"
_CODAS = ("", "n", "r", "s", "l", "m", "t", "k", "p")


def syllables(vocab_size: int) -> list[str]:
    """A readable name for each token: `<bos>`, then "ba", "be", ..., "zu", then "ban", "ben", ...

    >>> syllables(7)
    ['<bos>', 'ba', 'be', 'bi', 'bo', 'bu', 'da']

    Raises:
        BadArgument: for more tokens than there are syllables.
    """
    names = [onset + vowel + coda for coda in _CODAS for onset in _ONSETS for vowel in _VOWELS]
    if not 2 <= vocab_size <= len(names) + 1:
        raise BadArgument(
            f"cannot name {vocab_size} tokens by syllables: expected 2 to {len(names) + 1}, BOS included."
        )
    return ["<bos>", *names[: vocab_size - 1]]


@dataclass(frozen=True)
class PhraseLanguage:
    """The sizes of a language of phrases; two with equal fields are the same language.

    Ranges are inclusive. `seed` fixes which tokens follow which, never which sequences are drawn.
    """

    vocab_size: int = 128
    length: int = 128
    seed: int = 1234
    n_successors: int = 8
    zipf_exponent: float = 0.7
    phrases: tuple[int, int] = (2, 4)
    phrase_length: tuple[int, int] = (5, 12)
    gap: tuple[int, int] = (1, 8)

    def __post_init__(self) -> None:
        if self.vocab_size <= self.n_successors or self.length < 2:
            raise BadArgument(
                f"cannot make a language of {self.vocab_size} tokens, {self.n_successors} successors each, "
                f"in sequences of {self.length}: expected more tokens than successors, 2 positions or more."
            )
        needed = self.phrases[1] * self.phrase_length[1]
        if needed >= self.vocab_size:
            raise BadArgument(
                f"cannot make phrases of {needed} different tokens out of {self.vocab_size - 1}: use more "
                "tokens, or fewer or shorter phrases."
            )
        for name in ("phrases", "phrase_length", "gap"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise BadArgument(f"cannot make a language with {name}=({low}, {high}): expected 1 <= low <= high.")

    @cached_property
    def successors(self) -> Ints:
        """The tokens that may follow each token in the background, most likely first [token, rank]."""
        generator = np.random.default_rng(self.seed)
        return generator.integers(1, self.vocab_size, (self.vocab_size, self.n_successors))

    @property
    def words(self) -> list[str]:
        """The word of each token id."""
        return syllables(self.vocab_size)

    def labels(self, tokens: Ints) -> Ints:
        """What is worth a loss: every token."""
        return tokens

    def resized(self, length: int) -> Self:
        """The same language in sequences of `length` tokens."""
        return replace(self, length=length)

    def sample(self, n: int, generator: np.random.Generator) -> Ints:
        """`n` sequences of token ids, int64 [sequence, position], BOS first."""
        return self.sample_with_showings(n, generator)[0]

    def sample_with_showings(self, n: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Sequences as from `sample`, and for each token how often its phrase has been shown by then.

        Both int64 [sequence, position]. A showing of 0 is background, 1 the first time a phrase appears, 2
        and more its repetitions: those are the tokens that the past gives away.
        """
        if n < 1:
            raise BadArgument(f"cannot sample {n} sequences: ask for at least 1.")
        pasted, showings = self._phrases(n, generator)
        return self._background(pasted, generator), showings

    def _phrases(self, n: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Phrase tokens laid out over [sequence, position], 0 where there is none, and their showings.

        Segment by segment, for all sequences at once: choose one of the sequence's phrases, write it, leave
        a gap. The last one is cut off by the end.
        """
        longest = self.phrase_length[1]
        counts = generator.integers(*self.phrases, n, endpoint=True)
        bank_shape = (n, self.phrases[1])
        lengths = generator.integers(*self.phrase_length, bank_shape, endpoint=True)
        # Different tokens, so that the one token before decides what comes next within the phrases.
        order = generator.random((n, self.vocab_size - 1)).argsort(axis=1)
        bank = 1 + order[:, : bank_shape[1] * longest].reshape(*bank_shape, longest)

        rows, offsets = np.arange(n), np.arange(longest)
        seen = np.zeros(bank_shape, np.int64)
        tokens = np.zeros((n, self.length), np.int64)
        showings = np.zeros_like(tokens)
        start = generator.integers(1, 1 + self.gap[1], n)
        while (start < self.length).any():
            chosen = (generator.random(n) * counts).astype(np.int64)
            seen[rows, chosen] += 1
            inside = offsets < lengths[rows, chosen][:, None]
            at = start[:, None] + offsets
            row, column = np.nonzero(inside & (at < self.length))
            tokens[row, at[row, column]] = bank[row, chosen[row], column]
            showings[row, at[row, column]] = seen[row, chosen[row]]
            start = start + lengths[rows, chosen] + generator.integers(*self.gap, n, endpoint=True)
        return tokens, showings

    def _background(self, pasted: Ints, generator: np.random.Generator) -> Ints:
        """Fill the cells where `pasted` is 0: position 0 with BOS, the others after the token before them."""
        n, length = pasted.shape
        opening = _cumulative(np.arange(1.0, self.vocab_size) ** -self.zipf_exponent)
        ranks = _cumulative(1 / np.arange(1.0, 1 + self.n_successors))
        first = 1 + _draw(opening, generator.random((n,)))
        rank = _draw(ranks, generator.random((n, length)))
        tokens = pasted.copy()
        for position in range(1, length):
            following = first if position == 1 else self.successors[tokens[:, position - 1], rank[:, position]]
            tokens[:, position] = np.where(pasted[:, position] > 0, pasted[:, position], following)
        return tokens


def _cumulative(weights: Floats) -> Floats:
    total: Floats = np.cumsum(weights) / np.sum(weights)
    return total


def _draw(cumulative: Floats, uniform: Floats) -> Ints:
    """Indices with the given cumulative probabilities; the minimum guards the last one against rounding."""
    index: Ints = np.minimum(np.searchsorted(cumulative, uniform, side="right"), len(cumulative) - 1)
    return index
