"""Word pairs and single functions: lists and files, the telling token, and the study on a tiny model of text."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import headscope as hs
from headscope.errors import BadArgument, PromptError, UnknownName
from headscope.interventions import mean, zero
from headscope.measures.candidates import most_likely, probability_of
from headscope.studies.redundancy.experiment import RedundancySettings
from headscope.sweeps import final_token
from headscope.sweeps.cell_values import cell_values, values_of
from headscope.sweeps.final_token import final_token_run, final_token_runs
from headscope.sweeps.grid import Cell
from headscope.tasks.functions import Functions
from headscope.tasks.linear import linear
from headscope.tasks.shots import Shots
from headscope.tasks.source_and_target import CONTROLS, EXAMPLES, PLAIN, SourceAndTarget, TransferPrompts, readable_by
from headscope.tasks.telling import told_apart
from headscope.tasks.words import LISTS, WordPairs
from headscope.vocabulary import Head
from tests import pair_models

VERBS = [("go", "went"), ("walk", "walked"), ("see", "saw"), ("sit", "sat"), ("run", "ran"), ("do", "did")]
PAIRS = [*VERBS, ("eat", "ate"), ("win", "won"), ("fly", "flew"), ("get", "got"), ("try", "tried"), ("put", "put")]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    """A random Llama that has a token for most words with the space before them, and letters for the rest."""
    whole = [f" {word}" for pair in PAIRS for word in pair if word not in ("walked", "saw")]
    letters = [*"abcdefghijklmnopqrstuvwxyz ->\n"]
    vocabulary, merges = dict.fromkeys(["<s>", *letters]), []
    for word in [*whole, " s"]:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                merges.append((word[: end - 1], word[end - 1]))
                vocabulary[word[:end]] = None
    backend = Tokenizer(models.BPE(vocab={word: k for k, word in enumerate(vocabulary)}, merges=merges))
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path_factory.mktemp("words")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hs.load(str(folder))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> hs.Model:
    return pair_models.of_text(tmp_path_factory.mktemp("text"))


def said(model: hs.Model, tokens: Iterable[int]) -> str:
    return "".join(model.tokenizer.decode([token]) for token in tokens)


# Lists


@pytest.mark.parametrize("name", LISTS)
def test_our_lists_are_tasks(name: str) -> None:
    pairs = WordPairs.named(name)
    assert len(pairs.outputs) >= 60
    given = [(pairs.text(x), pairs.text(y)) for x, y in enumerate(pairs.outputs)]
    assert all(x != y for x, y in given)
    shots = Shots.draw(pairs, shots=10, n=20, spare=1)
    assert all(len(set(row)) == 11 for row in shots.inputs.tolist())
    assert (shots.y == shots.true_y).all()
    assert not (shots.asking_anew(0).query[:, None] == shots.inputs).any()
    assert (np.sort(shots.with_shuffled_labels(0).y) == np.sort(shots.y)).all()


def test_words_are_controlled_and_written_as_numbers_are(words: hs.Model) -> None:
    pairs = WordPairs.of("past", PAIRS)
    shots = Shots.draw(pairs, shots=2, n=3, seed=1)
    prompts = linear(words, shots)
    for row in range(3):
        shown = [f"{pairs.text(x)} -> {pairs.text(y)}\n" for x, y in zip(shots.x[row], shots.y[row], strict=True)]
        asked = f"{pairs.text(shots.query[row])} ->"
        answer = f" {pairs.text(shots.answer[row])}"
        assert said(words, prompts.tokens[row][1:]) == "".join(shown) + asked
        assert said(words, prompts.answer_tokens[row]) == answer
        labels = said(words, [prompts.tokens[row][at] for at in prompts.roles["y"][row]])
        assert labels.split() == [pairs.text(y) for y in shots.y[row]]
    copied = pairs.values(pairs.others[0], np.arange(len(pairs.words)))
    assert copied.tolist() == list(range(len(pairs.words)))


def test_few_inputs_come_again_and_leave_two_that_are_not_shown() -> None:
    shots = Shots.draw(Functions(a=(1, 1), b=(1, 1), inputs=(1, 8)), shots=12, n=30, spare=1)
    assert all(sorted(np.bincount(row, minlength=9)[1:].tolist()) == [0, 0, 2, 2, 2, 2, 2, 2] for row in shots.x)
    other = shots.asking_anew(3).query
    assert all(len({*row, query, new}) == 8 for row, query, new in zip(shots.x, shots.query, other, strict=True))
    with pytest.raises(BadArgument, match="use more inputs"):
        Shots.draw(Functions(a=(1, 1), inputs=(1, 2)), shots=3, n=2, spare=1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "input,output\n" + "".join(f"x{i},y{i}\n" for i in range(9)) + "x3,z\n", "line 11: the input 'x3'"),
        ("a.csv", "".join(f"x{i},y{i}\n" for i in range(9)) + "one\n", "line 10: expected two words"),
        ("a.tsv", "".join(f"x{i}\ty{i}\n" for i in range(9)) + "a\t\n", "line 10: '' is no word"),
        ("a.tsv", "".join(f"x{i}\ty{i}\n" for i in range(9)) + "a\tb\x1bc\n", "is no word of 1 to 80 printable"),
        ("a.csv", 'a,"b\n', "line 1: "),
        ("a.csv", "a,b\n", "it has 1, expected 8"),
        ("a.json", json.dumps([{"input": "a", "output": 3}]), "entry 1: expected two words"),
        ("a.json", json.dumps([{"input": "a", "output": "b", "more": "c"}]), "entry 1: expected two words"),
        ("a.json", "{", "it is no JSON"),
        ("a.json", "[" * 100_000, "it is no JSON"),
        ("a.json", '{"input": "a"}', "no list of pairs"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptError) as refused:
        WordPairs.read(tmp_path / name)
    assert said in str(refused.value)


def test_files_of_both_kinds_hold_the_same_pairs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"input": x, "output": y} for x, y in PAIRS]))
    (tmp_path / "b.csv").write_text("input,output\n" + "".join(f"{x}, {y}\n" for x, y in PAIRS))
    (tmp_path / "c.txt").write_text("".join(f"{x}\t{y}\n" for x, y in PAIRS))
    found = [WordPairs.read(tmp_path / name) for name in ("a.json", "b.csv", "c.txt")]
    assert all(each.words == found[0].words and each.outputs == found[0].outputs for each in found)
    assert found[1].single == "b"


def test_settings_that_name_two_tasks_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for settings in (
        {"task": "plural", "a": "1..2"},
        {"task": "plural", "article": True},
        {"task": "a", "pairs": "b"},
    ):
        with pytest.raises(BadArgument, match="together"):
            RedundancySettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="past_tense"):
        RedundancySettings(task="future")
    with pytest.raises(PromptError, match="cannot read"):
        RedundancySettings(pairs=str(tmp_path / "none.json"))


def test_a_model_of_number_tokens_refuses_words(tmp_path: Path) -> None:
    model = pair_models.of_number_tokens(tmp_path)
    with pytest.raises(PromptError, match="tokens for numbers alone"):
        linear(model, Shots.draw(WordPairs.named("plural"), shots=2, n=2))


# The telling token


def test_what_candidates_share_is_forced_and_the_next_token_is_asked(text: hs.Model) -> None:
    # 31, 35 and 37 share a space and a 3; 8 begins one token earlier, since this tokenizer joins it with the space.
    shots = Shots.article().rows([0, 0])
    plain = linear(text, shots, answers=[31, 31])
    alike = told_apart(text, shots, {"a": np.array([31, 31]), "b": np.array([35, 8]), "c": np.array([37, 35])})
    assert alike.clear.tolist() == [True, False]
    assert [said(text, tokens) for tokens in alike.forced] == ["3", ""]
    assert said(text, alike.first.tokens[0]).endswith("(42, 3")
    assert [said(text, each.answers[:1]) for each in alike.prompts.values()] == ["1", "5", "7"]
    assert len({each.tokens for each in alike.prompts.values()}) == 1
    assert alike.first.roles["readout"][0] == (alike.first.lengths[0] - 1,)
    assert alike.first.roles["y"] == plain.roles["y"]
    eight = told_apart(text, shots.rows([0]), {"a": np.array([31]), "b": np.array([8])})
    assert eight.clear.tolist() == [True]
    assert [said(text, each.answers[:1]) for each in eight.prompts.values()] == [" ", " 8"]
    # 3 is where 31 begins: it has no token of its own.
    assert told_apart(text, shots.rows([0]), {"a": np.array([31]), "b": np.array([3])}).clear.tolist() == [False]


def test_number_tokens_tell_at_once(tmp_path: Path) -> None:
    model = pair_models.of_number_tokens(tmp_path)
    shots = Shots.draw(pair_models.LANGUAGE, shots=3, n=4)
    told = told_apart(model, shots, {"a": shots.answer, "b": shots.answer + 1})
    assert told.first.tokens == linear(model, shots).tokens
    assert told.first.answer_tokens == linear(model, shots).answer_tokens


def test_problems_of_words_tell_four_answers_apart_and_share_inputs_with_controls(words: hs.Model) -> None:
    pairs = WordPairs.of("past", PAIRS)
    source = Shots.draw(pairs, shots=4, n=400, spare=1)
    problems = SourceAndTarget.of(source, wanted=60, seed=0, readable=readable_by(words))
    assert problems.answers == PLAIN
    asked = [pairs.text(x) for x in (*problems.target.query, *problems.source.query)]
    assert not {"put", "walk"} & set(asked)  # one is its own past, the other is told from it by a later token
    assert (problems.other.x == problems.source.x).all()
    assert (problems.other.y == problems.other.x).all()
    assert not problems.even_slope.any()
    prompts = TransferPrompts.of(words, problems)
    assert len(set(prompts.source.lengths)) == 1
    for row in range(5):
        told = {name: said(words, [tokens[row]]).strip() for name, tokens in prompts.tokens.items()}
        for whose, query in (("target", problems.target.query[row]), ("source", problems.source.query[row])):
            x, y = next(pair for pair in PAIRS if pair[0] == pairs.text(query))
            assert x.startswith(told[f"{whose} x"])
            assert y.startswith(told[f"f({whose} x)"])
    assert set(prompts.sources) == {EXAMPLES, *CONTROLS}


# Reading several tokens at one place; the final token alone


def test_several_measures_cost_one_sweep_and_are_what_each_gives_alone(words: hs.Model) -> None:
    shots = Shots.draw(WordPairs.of("past", PAIRS), shots=3, n=5)
    prompts = linear(words, shots)
    cells = [Cell((zero(head),), layer=head.layer) for head in words.heads]
    measures = [probability_of([7, 8, 9, 10, 11]), probability_of([1] * 5), most_likely(), most_likely([3, 4])]
    together = values_of(words, prompts, cells, measures)
    for measure, values in zip(measures, together, strict=True):
        assert torch.allclose(values, cell_values(words, prompts, cells, measure), atol=1e-6)
    logits = words.run(prompts, interventions=[zero(words.heads[5])]).logits
    ends = torch.tensor(prompts.lengths) - 1
    at = logits[torch.arange(5), ends]
    assert together[0, 5].tolist() == pytest.approx(at.softmax(-1)[range(5), [7, 8, 9, 10, 11]].tolist(), rel=1e-4)
    assert together[2, 5].tolist() == at.argmax(-1).tolist()
    assert together[3, 5].tolist() == (3 + at[:, [3, 4]].argmax(-1)).tolist()


def test_the_final_token_alone_is_what_a_full_pass_makes_it(words: hs.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prompts = hs.Prompts.of(rng.integers(1, words.vocab_size, (5, 9)).tolist())
    heads = (Head(0, 1), Head(1, 2))
    of_one = mean([heads[1]], over=prompts, per_position=True, positions=-1)
    sets = [[], [zero(heads[:1], -1)], [zero(heads, -1)], [of_one]]
    passes: list[int] = []
    full = final_token.final_token_run
    monkeypatch.setattr(final_token, "final_token_run", lambda *args: passes.append(1) or full(*args))
    resumed = final_token_runs(words, prompts, sets)
    assert len(passes) == 1  # the check
    for edits, run in zip(sets, resumed, strict=True):
        expected = final_token_run(words, prompts, edits)
        for site, values in expected.captured.items():
            assert torch.allclose(run.captured[site], values, atol=1e-5)
    assert not torch.allclose(resumed[0]["resid_post", 2], resumed[2]["resid_post", 2], atol=1e-3)
    for beyond in ([[], [zero(heads)]], [[], [zero(heads, 3)]]):  # other positions too: full passes
        passes.clear()
        runs = final_token_runs(words, prompts, beyond)
        assert len(passes) == 2
        assert torch.equal(runs[1]["resid_post", 2], full(words, prompts, beyond[1])["resid_post", 2])


# The study


def test_the_study_runs_on_words_and_says_what_it_is_about(words: hs.Model, tmp_path: Path) -> None:
    (tmp_path / "past.csv").write_text("".join(f"{x},{y}\n" for x, y in PAIRS))
    found = hs.study(
        "redundancy", model=words, quick=True, pairs=str(tmp_path / "past.csv"), n=10, shots=4, force=True
    )
    assert all(claim.statement.startswith("On past alone, ") for claim in found.claims)
    assert {row.over for claim in found.claims for row in claim.evidence} <= {"prompts of past", "heads", ""}
    assert "parity" not in {claim.name for claim in found.claims}
    assert "parity" not in found.tables
    notes = " ".join(found.notes)
    assert "Answers are words: slope, parity, numbers near the answer and any number are not asked." in notes
    assert "known without labels" in " ".join(found.details)
    answers = {row["answer"] for row in found.tables["transfer"].rows()}
    assert answers == {*PLAIN, "unpatched"}
    assert "first_near_copied" not in found.tables["ablations"].frame.columns


def test_a_single_function_has_copying_as_its_other_and_no_slopes(text: hs.Model) -> None:
    settings = {"a": "1..1", "b": "1..1", "inputs": "1..8"}
    found = hs.study("redundancy", model=text, quick=True, n=10, force=True, **settings)
    assert all(claim.statement.startswith("On y = x + 1 alone, ") for claim in found.claims)
    assert "a · target x" not in {row["answer"] for row in found.tables["transfer"].rows()}
    functions = Functions(a=(1, 1), b=(1, 1), inputs=(1, 8))
    assert functions.others.tolist() == [[1, 0]]
    assert Functions(a=(1, 1), b=(0, 0)).others.tolist() == [[1, 1]]
    assert (functions.single, Functions(a=(2, 2), b=(3, 3)).single, Functions().single) == (
        "y = x + 1",
        "y = 2x + 3",
        "",
    )
