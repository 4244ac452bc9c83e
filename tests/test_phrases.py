"""The language of phrases holds what its description says, and nothing that would give the game away."""

from itertools import pairwise

import numpy as np
import pytest

from headscope.errors import BadArgument
from headscope.tasks.phrases import PhraseLanguage, syllables

LANGUAGE = PhraseLanguage(vocab_size=50, length=60)


def sample(n=200, seed=0, language=LANGUAGE):
    return language.sample_with_showings(n, np.random.default_rng(seed))


def runs(showings):
    """(start, end) of each stretch of one showing in one sequence."""
    edges = np.flatnonzero(np.diff(showings, prepend=-1, append=-1))
    return [(start, end) for start, end in pairwise(edges) if showings[start] > 0]


def test_sequences_begin_with_bos_and_hold_no_other():
    tokens, _ = sample()
    assert tokens.dtype == np.int64
    assert tokens.shape == (200, 60)
    assert (tokens[:, 0] == 0).all()
    assert tokens[:, 1:].min() == 1
    assert tokens.max() == 49


def test_background_follows_the_successors_of_the_language_more_often_the_likelier_ones():
    tokens, showings = sample(2000)
    background = (showings[:, 2:] == 0) & (tokens[:, 1:-1] > 0)
    before, after = tokens[:, 1:-1][background], tokens[:, 2:][background]
    matches = LANGUAGE.successors[before] == after[:, None]
    assert matches.any(1).all()
    # Where the eight successors are different tokens, rank r has probability (1/r) / (1 + 1/2 + ... + 1/8).
    distinct = np.array([len(set(row)) == 8 for row in LANGUAGE.successors])[before]
    shares = matches[distinct].mean(0)
    expected = (1 / np.arange(1, 9)) / (1 / np.arange(1, 9)).sum()
    assert np.abs(shares - expected).max() < 0.02


def test_the_first_token_follows_zipf():
    tokens, showings = sample(20_000)
    first = tokens[showings[:, 1] == 0, 1]
    ratio = (first == 1).sum() / (first == 16).sum()
    assert ratio == pytest.approx(16**0.7, rel=0.2)


def test_later_showings_repeat_a_phrase_of_the_same_sequence():
    tokens, showings = sample()
    for row, shown in zip(tokens, showings, strict=True):
        seen = {}
        for start, end in runs(shown):
            phrase, count = tuple(row[start:end]), shown[start]
            cut_off = end == 60
            if count == 1:
                assert cut_off or 5 <= len(phrase) <= 12
                seen.setdefault(phrase, 1)
            else:
                assert any(known[: len(phrase)] == phrase and (cut_off or known == phrase) for known in seen)
        assert 1 <= len(seen) <= 4
        spoken = [token for phrase in seen for token in phrase]
        assert len(set(spoken)) == len(spoken)
    assert showings.max() > 3
    assert (showings > 1).mean() > 0.2


def test_phrases_are_new_in_every_sequence():
    tokens, showings = sample()
    first = [tuple(row[slice(*runs(shown)[0])]) for row, shown in zip(tokens, showings, strict=True)]
    assert len(set(first)) == len(first)


def test_gaps_between_showings_have_one_to_eight_tokens():
    _, showings = sample()
    gaps = [b - a for row in showings for (_, a), (b, _) in pairwise(runs(row))]
    assert (min(gaps), max(gaps)) == (1, 8)


def test_the_generator_decides_the_sequences_and_the_seed_the_language():
    assert (sample(seed=3)[0] == sample(seed=3)[0]).all()
    assert (sample(seed=3)[0] != sample(seed=4)[0]).any()
    other = PhraseLanguage(vocab_size=50, length=60, seed=5)
    assert (other.successors != LANGUAGE.successors).any()
    assert (PhraseLanguage(vocab_size=50, length=9).successors == LANGUAGE.successors).all()


def test_syllables_are_different_words_without_spaces():
    names = syllables(811)
    assert names[:3] == ["<bos>", "ba", "be"]
    assert len(set(names)) == 811
    assert all(name == name.strip() and " " not in name for name in names)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: syllables(812),
        lambda: syllables(1),
        lambda: LANGUAGE.sample(0, np.random.default_rng(0)),
        lambda: PhraseLanguage(vocab_size=8),
        lambda: PhraseLanguage(vocab_size=48),
        lambda: PhraseLanguage(length=1),
        lambda: PhraseLanguage(gap=(3, 2)),
        lambda: PhraseLanguage(phrases=(0, 2)),
    ],
)
def test_sizes_that_make_no_language_are_refused(refused):
    with pytest.raises(BadArgument, match="cannot"):
        refused()
