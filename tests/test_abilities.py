"""Copying, translation, pattern matching: prompts in which every judged token has a counterpart, and their study."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headscope as hs
from headscope.detectors import above_null
from headscope.detectors.counterparts import counterpart_attention
from headscope.errors import PromptError
from headscope.results.study import Verdict
from headscope.studies.abilities import experiment, plan
from headscope.studies.abilities.experiment import AbilitiesSettings
from headscope.studies.abilities.without_induction import ABLATED, EDGES, lost_without
from headscope.studies.context import Context
from headscope.studies.head_sets import apart
from headscope.tasks.counterparts import BEHAVIOURS, LITERAL, PATTERN, PREDICTING, TRANSLATION, counterparts
from headscope.vocabulary import Head
from tests import planted
from tests.counted import counting
from tests.test_forecast import near, proved

LISTS = Path(hs.tasks.__file__).parent / "lists"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    """A random Llama with one token for every word of the lists, and for every sign."""
    splitter = pre_tokenizers.Whitespace()
    texts = [(LISTS / name).read_text(encoding="utf-8") for name in ("parallel.txt", "categories.txt")]
    said = " ".join([*texts, "English French German 0 1 2 3 . :"])
    words = dict.fromkeys(["<s>", "<unk>", *(word for word, _ in splitter.pre_tokenize_str(said))])
    backend = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = splitter
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    return hs.load(str(folder))


def told(model, prompts, row):
    """What is judged in a row, by its counterpart, in words."""
    words = [model.tokenizer.decode([token]) for token in prompts.tokens[row]]
    slots = range(sum(role.startswith("query") for role in prompts.roles))
    roles = [[prompts.roles[f"{role} {slot}"][row] for slot in slots] for role in ("query", "analogue", "beside")]
    return [
        (words[query[0] + 1], [words[at] for at in analogue], [words[at] for at in beside])
        for query, analogue, beside in zip(*roles, strict=True)
        if query
    ]


def aligned():
    """English word -> its translations, from the list itself."""
    rows = (line.split("\t")[-1].split() for line in (LISTS / "parallel.txt").read_text("utf-8").splitlines())
    return {triple.split("=")[0]: triple.split("=")[1:] for row in rows for triple in row}


def test_the_list_aligns_words_that_stand_in_their_phrases():
    for line in (LISTS / "parallel.txt").read_text("utf-8").splitlines():
        _, *phrases, words = line.split("\t")
        for triple in words.split():
            for phrase, word in zip(phrases, triple.split("="), strict=True):
                assert phrase.split().count(word) == 1, (phrase, word)


def test_every_translated_word_has_its_original_as_counterpart(reader):
    made = counterparts(reader, TRANSLATION, n=12, clauses=2)
    pairs, shared = aligned(), 0
    for row in range(12):
        for word, (original,), beside in told(reader, made.matched, row):
            assert word in pairs[original]
            assert original not in beside
            shared += 1
    assert shared == 12 * 10  # five words a clause, none of which stands in the original
    # One half has both languages.
    assert {
        reader.tokenizer.decode(made.rows(slice(0, None, 2)).matched.ids[row]).count("French") for row in range(6)
    } == {0, 1}


def test_the_null_has_other_words_of_the_same_kind_before_the_same_tokens(reader):
    made = counterparts(reader, TRANSLATION, n=4, clauses=1)
    kinds = {}
    for line in (LISTS / "parallel.txt").read_text("utf-8").splitlines():
        kind, *_, words = line.split("\t")
        kinds |= {triple.split("=")[0]: (kind, place) for place, triple in enumerate(words.split())}
    for row in range(4):
        pairs = zip(told(reader, made.matched, row), told(reader, made.null, row), strict=True)
        for (word, (original,), _), (same, (other,), _) in pairs:
            assert word == same
            assert other != original
            assert kinds[other] == kinds[original]


def test_a_copied_word_is_none_that_the_null_has(reader):
    made = counterparts(reader, LITERAL, n=6, clauses=2)
    for row in range(6):
        judged = told(reader, made.matched, row)
        assert len(judged) == 10
        assert all(word == copy for word, (copy,), _ in judged)
        second = made.null.roles["query 0"][row][0]
        assert not {word for word, _, _ in judged} & set(
            reader.tokenizer.decode(made.null.tokens[row][:second]).split()
        )


def test_a_word_that_begins_like_its_original_is_not_judged(reader):
    # With one token for house, maison and Haus the translation of "house" could be copied.
    words = reader.tokenizer.get_vocab()
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.normalizer = normalizers.Sequence([normalizers.Replace(word, "house") for word in ("maison", "Haus")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
    told_of = SimpleNamespace(tokenizer=tokenizer, language=None, context=None, bos_token_id=0, vocab_size=len(words))
    made = counterparts(told_of, TRANSLATION, n=40, clauses=1)
    for row, tokens in enumerate(made.matched.tokens):
        assert len(made.matched.roles[PREDICTING][row]) == 5 - (words["house"] in tokens)
        assert len(made.null.roles[PREDICTING][row]) == len(made.matched.roles[PREDICTING][row])
    assert any(words["house"] in tokens for tokens in made.matched.tokens)


def test_lines_of_the_same_kinds_have_the_same_number(reader):
    made = counterparts(reader, PATTERN, n=6)
    for row in range(6):
        for prompts in (made.matched, made.null):
            judged = told(reader, prompts, row)
            assert sorted(label for label, _, _ in judged) == ["0", "1", "2", "3"]
            assert all(
                same == [label] * 2 and label not in others and len(others) == 6 for label, same, others in judged
            )
        lines = [reader.tokenizer.decode(prompts.tokens[row]) for prompts in (made.matched, made.null)]
        assert sorted(lines[0].split()) == sorted(lines[1].split())
        assert lines[0] != lines[1]


def test_a_model_of_a_language_of_its_own_is_asked_to_copy_alone():
    model = hs.load("zoo:induction-2l")
    assert counterparts(model, LITERAL, n=2).matched.made_by["written"] == "random tokens"
    for behaviour in (TRANSLATION, PATTERN):
        with pytest.raises(PromptError, match="reads no text"):
            counterparts(model, behaviour, n=2)


def test_a_tokenizer_that_drops_words_is_not_asked_in_text():
    # It has the numbers and nothing else: of lines these would be left alone.
    backend = Tokenizer(models.BPE(vocab={sign: k for k, sign in enumerate(("<s>", *"0123456789:\n "))}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    digits = SimpleNamespace(tokenizer=tokenizer, language=None, context=None, bos_token_id=0, vocab_size=14)
    with pytest.raises(PromptError, match="no tokens for some of the words"):
        counterparts(digits, PATTERN, n=2)
    assert counterparts(digits, LITERAL, n=2, length=30).matched.made_by["length"] == 6  # of 13 ordinary tokens


def test_attention_to_the_counterpart_is_that_of_the_planted_head():
    # Head 1.0 attends from a token to what followed its copy, and has nothing to attend to in the null.
    circuit = planted.induction_circuit()
    above = above_null(counterpart_attention(circuit, counterparts(circuit, LITERAL, n=16, length=8)))
    means = dict(zip((head for _, head in above.cells), above.mean.tolist(), strict=True))
    assert means.pop("1.0") > 0.9
    assert all(abs(mean) < 0.05 for mean in means.values())


def planted_context(**more):
    circuit = planted.induction_circuit(copies=2, uneven=0.1)
    return Context(AbilitiesSettings(n=16, length=8, random_sets=19, **more), (circuit,))


def test_edges_of_the_planted_heads_carry_all_that_they_add():
    ctx = planted_context()
    assert set(ctx.once(experiment.induction_heads)) == {Head(1, 0), Head(1, 1)}
    gain, lost = ctx.once(experiment.gains)[LITERAL].mean[0], ctx.once(lost_without)
    assert gain > 1.0
    for done in (ABLATED, EDGES):
        assert float(lost[LITERAL, done].damage.mean()) == pytest.approx(gain, rel=0.05)
        assert abs(lost[LITERAL, done].means).max() < 0.05 * gain


def test_random_sets_are_drawn_as_near_to_the_picked_heads_as_enough_are_left():
    model = SimpleNamespace(heads=[Head(layer, index) for layer in range(6) for index in range(8)])
    ends = [Head(2, 0), Head(4, 0)]  # 14 others in their layers, of which 8 are needed
    tested = [Head(4, index) for index in range(1, 8)]  # with these 7, and 15 with layer 3
    for more, kept in (([], {0, 1, 3, 5}), (tested, {0, 1, 5}), ([*tested, *model.heads[24:32]], set())):
        assert {head.layer for head in apart(model, ends, more) - set(more)} == kept


def test_the_study_finds_copying_and_says_what_was_not_asked():
    found = hs.study("abilities", model="zoo:induction-3l", quick=True)
    verdicts = {claim.name: claim.verdict for claim in found.claims}
    assert len(verdicts) == 9
    asked = [name for name in verdicts if LITERAL in name]
    assert {verdicts[name] for name in asked} == {Verdict.SUPPORTED}
    others = [claim for claim in found.claims if claim.name not in asked]
    assert all(
        claim.verdict is Verdict.UNDETERMINED and "this model reads no text" in claim.because for claim in others
    )
    assert any("Translation was not asked" in note for note in found.notes)


def test_random_weights_that_read_text_do_nothing(reader):
    found = hs.study("abilities", model=reader, quick=True, seed=1)
    assert [row["behaviour"] for row in found.tables["behaviours"].rows()] == list(BEHAVIOURS)
    assert all(claim.verdict is Verdict.UNDETERMINED for claim in found.claims)


def test_the_study_does_what_its_stages_say():
    model, settings = proved("zoo:induction-3l"), AbilitiesSettings().quick()
    stages = plan.PLAN.stages(settings, model)
    with counting(model) as work:
        plan.PLAN.run(settings, model)
    assert near(work.token_passes, sum(each.token_passes for each in stages), 1.6)
