"""Pairs as prompts: roles and answers by hand in both forms, controls, and answers of several tokens."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import headscope as hs
from headscope import measures, tasks
from headscope.architectures import ToyConfig, ToyForCausalLM
from headscope.errors import BadArgument, OutOfRange, PromptError
from headscope.tasks.functions import Functions
from headscope.tasks.linear import linear, linear_pair
from headscope.tasks.pairs import PairLanguage
from headscope.tasks.prompts import Prompts
from headscope.tasks.shots import ARTICLE_PAIRS, Shots, regimes
from headscope.tasks.vocabulary import text_start

LANGUAGE = PairLanguage()


def bpe(*merges, split=None, begun=True):
    """A tokenizer of single characters and these merges, that begins a text with BOS, or not."""
    words = ["<s>", *"0123456789(), \n", *("".join(merge) for merge in merges)]
    backend = Tokenizer(models.BPE(vocab={word: k for k, word in enumerate(words)}, merges=list(merges)))
    if split is not None:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(split), "isolated")
    if begun:
        backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


def reader(tokenizer, **changed):
    """A model as a task sees it."""
    known = {"tokenizer": tokenizer, "language": None, "context": None, "bos_token_id": 0, "vocab_size": 30}
    return SimpleNamespace(**known | changed)


# " 8" begins with the space as in GPT-2; 28 and 59 are single tokens, other numbers of two digits are two.
MERGES = (("2", "8"), ("5", "9"), (" ", "8"), (")", "\n"))
TOKENIZER = bpe(*MERGES)
READER = reader(TOKENIZER)
NUMBERS = reader(None, language={"generator": "pairs", "parameters": asdict(LANGUAGE)}, context=64)


def small(y=59):
    """(28, 59) and then a query 42 about y = 2x + 3, answer 87."""
    return Shots(
        Functions(a=(1, 5), b=(0, 9), inputs=(1, 99)),
        parameters=np.array([[2, 3]]),
        x=np.array([[28]]),
        y=np.array([[y]]),
        query=np.array([42]),
    )


def test_text_roles_and_answer_by_hand():
    prompts = linear(READER, small())
    pieces = TOKENIZER.convert_ids_to_tokens(list(prompts.tokens[0]))
    assert pieces == ["<s>", "(", "28", ",", " ", "59", ")\n", "(", "4", "2", ","]
    assert {role: marked[0] for role, marked in prompts.roles.items()} == {
        "x": (2,),
        "y": (5,),
        "before_y": (4,),
        "separator": (1, 3, 4, 6, 7, 10),
        "query": (8, 9),
        "readout": (10,),
    }
    # The space goes with the 8, as it would after the comma of any line: the answer is " 8", "7".
    assert [TOKENIZER.convert_ids_to_tokens(list(answer)) for answer in prompts.answer_tokens] == [[" 8", "7"]]
    assert prompts.answers == (prompts.answer_tokens[0][0],)
    assert prompts.made_by["task"] == "linear"
    assert prompts.made_by["written"] == "text"


def test_a_shown_number_of_several_tokens_has_one_token_before_it():
    prompts = linear(READER, small(y=175))
    assert prompts.roles["y"] == ((5, 6, 7),)
    assert prompts.roles["before_y"] == ((4,),)
    # Where the tokenizer puts no BOS before a text every position is one less, although the model names one.
    bare = linear(reader(bpe(*MERGES, begun=False)), small(y=175))
    assert bare.tokens[0] == prompts.tokens[0][1:]
    assert bare.roles["y"] == ((4, 5, 6),)
    assert bare.roles["readout"] == ((len(bare.tokens[0]) - 1,),)


def test_number_token_roles_and_answer_by_hand():
    shots = replace(small(), functions=LANGUAGE, x=np.array([[4, 1]]), y=np.array([[11, 5]]), query=np.array([9]))
    prompts = linear(NUMBERS, shots)
    words = [LANGUAGE.words[token] for token in prompts.tokens[0]]
    assert words == ["<bos>", "4", ",", "11", ";", "1", ",", "5", ";", "9", ","]
    assert {role: marked[0] for role, marked in prompts.roles.items()} == {
        "x": (1, 5),
        "y": (3, 7),
        "before_y": (2, 6),
        "separator": (2, 4, 6, 8, 10),
        "query": (9,),
        "readout": (10,),
    }
    assert [LANGUAGE.words[token] for token in prompts.answers] == ["21"]
    assert prompts.answer_tokens == ((22,),)


def test_the_two_forms_say_the_same_as_the_language_itself():
    shots = Shots.draw(LANGUAGE, shots=6, n=5, noise=0.3, seed=2)
    prompts = linear(NUMBERS, shots)
    x = np.concatenate((shots.x, shots.query[:, None]), axis=1)
    y = np.concatenate((shots.y, shots.answer[:, None]), axis=1)
    assert [[*tokens, answer] for tokens, answer in zip(prompts.tokens, prompts.answers, strict=True)] == (
        LANGUAGE.write(x, y).tolist()
    )
    text = linear(READER, shots)
    for row, (tokens, whole) in enumerate(zip(text.tokens, text.answer_tokens, strict=True)):
        lines = "".join(f"({a}, {b})\n" for a, b in zip(x[row, :-1], y[row, :-1], strict=True))
        said = "".join(TOKENIZER.convert_ids_to_tokens([*tokens[1:], *whole]))
        assert said == f"{lines}({x[row, -1]}, {y[row, -1]}"


def test_the_article_is_quoted():
    shots = Shots.article([42, 15])
    assert len(ARTICLE_PAIRS) == 12
    assert (shots.true_y == shots.y).all()
    assert shots.answer.tolist() == [87, 33]
    prompts = linear(READER, shots)
    said = "".join(TOKENIZER.convert_ids_to_tokens(list(prompts.tokens[0][1:])))
    assert said.startswith("(28, 59)\n(86, 175)\n(13, 29)\n")
    assert said.endswith("(14, 31)\n(42,")
    with pytest.raises(OutOfRange, match=r"number 94: .* 0 to 86"):
        linear(NUMBERS, shots)


def test_numbers_that_have_no_tokens_of_their_own_are_refused():
    with pytest.raises(PromptError, match=r"token '\(2' holds a number together"):
        linear(reader(bpe(("(", "2"))), small())
    with pytest.raises(PromptError, match=r"token '9\)' holds a number together"):
        linear(reader(bpe(("9", ")"))), small())
    with pytest.raises(PromptError, match="fast tokenizer"):
        linear(reader(None), small())
    phrases = {"generator": "phrases", "parameters": {}}
    with pytest.raises(PromptError, match="nothing but the language 'phrases'"):
        linear(reader(TOKENIZER, language=phrases), small())
    with pytest.raises(PromptError, match="one number for each"):
        linear(READER, small(), answers=[1, 2])


def test_same_seed_same_prompts():
    same, other = (linear(NUMBERS, n=4, seed=seed) for seed in (0, 1))
    assert linear(NUMBERS, n=4, seed=0).tokens == same.tokens != other.tokens
    shots = Shots.draw(LANGUAGE, n=4)
    assert linear(NUMBERS, shots).tokens == same.tokens
    assert shots.recipe()["functions"] == Shots.draw(Functions(held_out=12), n=4).recipe()["functions"]
    json.dumps(shots.permuted(1).asking(3).recipe())  # plain data
    assert linear(READER, n=2, n_shots=3).tokens == linear(READER, n=2, n_shots=3).tokens


def test_shots_are_drawn_as_asked():
    held_out = Shots.draw(LANGUAGE, shots=19, n=40, among="held_out", seed=3)
    assert (held_out.y == held_out.true_y).all()
    listed = LANGUAGE.among("held_out").tolist()
    assert all(parameters in listed for parameters in held_out.parameters.tolist())
    for shown, query in zip(held_out.x, held_out.query, strict=True):
        assert sorted([*shown, query]) == list(range(20))
    noisy = Shots.draw(LANGUAGE, shots=19, n=200, noise=0.3, seed=3)
    assert noisy.wrong.mean() == pytest.approx(0.3 * 86 / 87, abs=0.03)
    assert (noisy.answer == LANGUAGE.values(noisy.parameters, noisy.query)).all()
    with pytest.raises(BadArgument, match="0 examples"):
        Shots.draw(LANGUAGE, n=0)
    with pytest.raises(BadArgument, match="expected"):
        replace(noisy, query=noisy.query[:3])


def test_shuffled_labels_keep_everything_but_which_label_goes_with_which_input():
    shots = Shots.draw(LANGUAGE, shots=7, n=30, noise=0.3, seed=1)
    shuffled = shots.with_shuffled_labels(seed=4)
    assert (shuffled.x == shots.x).all()
    assert (shuffled.query == shots.query).all()
    assert (shuffled.answer == shots.answer).all()
    assert (np.sort(shuffled.y) == np.sort(shots.y)).all()
    # No label keeps its place. Number the labels, so that equal ones can be told apart.
    numbered = replace(shots, y=np.tile(np.arange(7), (30, 1)))
    moved = numbered.with_shuffled_labels(seed=4).y
    assert (moved != numbered.y).all()
    assert (np.sort(moved) == np.arange(7)).all()
    assert (shots.with_shuffled_labels(seed=4).y == shuffled.y).all()
    assert (shots.with_shuffled_labels(seed=5).y != shuffled.y).any()
    assert shuffled.recipe()["changes"] == [{"how": "with_shuffled_labels", "seed": 4}]
    assert linear(NUMBERS, shuffled).roles == linear(NUMBERS, shots).roles
    with pytest.raises(BadArgument, match="at least 2"):
        Shots.draw(LANGUAGE, shots=1).with_shuffled_labels(seed=0)


def test_permuted_examples_are_the_same_pairs_in_another_order():
    shots = Shots.draw(LANGUAGE, shots=7, n=30, noise=0.3, seed=1)
    permuted = shots.permuted(seed=4)
    for one, other in ((shots, permuted),):
        pairs = [sorted(zip(*rows, strict=True)) for rows in zip(one.x, one.y, strict=True)]
        assert pairs == [sorted(zip(*rows, strict=True)) for rows in zip(other.x, other.y, strict=True)]
    assert (permuted.x != shots.x).any(1).mean() > 0.9
    assert (permuted.query == shots.query).all()
    # What an ideal observer says at the query does not depend on the order.
    exact = [measures.exact_predictive(which)[:, -1] for which in (shots, permuted)]
    assert_close(*exact)


def test_pairs_of_prompts_ask_about_the_same_function_with_and_without_context():
    shots = Shots.draw(LANGUAGE, shots=5, n=40, seed=1)
    context, bare = linear_pair(NUMBERS, shots, seed=9)
    assert context.tokens == linear(NUMBERS, shots).tokens
    assert set(bare.lengths) == {3}
    asked = np.array(bare.tokens)[:, 1] - 1
    assert (LANGUAGE.number_tokens(LANGUAGE.values(shots.parameters, asked)) == bare.answers).all()
    # What is asked without context is neither asked nor shown with it.
    assert not (asked[:, None] == np.c_[shots.x, shots.query]).any()
    assert bare.tokens == linear_pair(NUMBERS, shots, seed=9)[1].tokens != linear_pair(NUMBERS, shots, seed=8)[1]
    _, fifteen = linear_pair(NUMBERS, shots, shots.without_context().asking(15))
    assert {tokens[1] for tokens in fifteen.tokens} == {16}
    with pytest.raises(BadArgument, match="every input"):
        Shots.draw(LANGUAGE, shots=19, n=2).asking_anew(seed=0)
    with pytest.raises(BadArgument, match="3 queries of 40"):
        shots.asking([1, 2, 3])


def test_regimes_of_the_article_by_hand():
    context = Shots.article([42])
    found = regimes(context, context.without_context().asking(15))
    assert {name: numbers.tolist() for name, numbers in found.items()} == {
        "f(x_B)": [33],
        "a x_B": [30],
        "f(x_A)": [87],
        "a x_A": [84],
    }
    with pytest.raises(BadArgument, match="as many of both"):
        regimes(context, Shots.article([1, 2]))


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    config = ToyConfig(vocab_size=len(TOKENIZER), n_layers=2, d_model=16, n_heads=2, n_ctx=128, positions="rotary")
    return hs.load(ToyForCausalLM(config), tokenizer=TOKENIZER)


def test_the_probability_of_a_whole_answer_is_the_product_of_separate_runs(toy):
    shots = Shots.article([42, 15, 1, 98])
    prompts = linear(toy, shots)
    spelt = [TOKENIZER.convert_ids_to_tokens(list(answer)) for answer in prompts.answer_tokens]
    assert spelt == [[" 8", "7"], ["3", "3"], ["5"], ["1", "9", "9"]]
    answered = prompts.answered()
    together = measures.joint_probability()(toy.run(answered).logits, answered)
    for row, whole in enumerate(prompts.answer_tokens):
        alone, tokens = 1.0, list(prompts.tokens[row])
        for token in whole:
            alone *= toy.run([tokens]).logits[0, -1].softmax(-1)[token].item()
            tokens.append(token)
        assert together[row].item() == pytest.approx(alone, rel=1e-4)
    log_p = measures.joint_log_probability()(toy.run(answered).logits, answered)
    assert_close(log_p.exp(), together)
    # Positions mean what they meant: the last token is still the one before the answer.
    assert answered.where(-1).nonzero().tolist() == answered.where("readout").nonzero().tolist()
    first = measures.probability()(toy.run(prompts).logits, prompts)
    assert_close(first[2], together[2])  # 5 is a single token
    assert (first[[0, 1, 3]] > together[[0, 1, 3]]).all()


def test_other_answers_to_the_same_prompts(toy):
    shots = Shots.article([15, 15])
    usual, other = linear(toy, shots), linear(toy, shots, answers=[175, 59])
    assert other.tokens == usual.tokens
    spelt = [TOKENIZER.convert_ids_to_tokens(list(answer)) for answer in other.answer_tokens]
    assert spelt == [["1", "7", "5"], ["59"]]
    # This tokenizer joins a space with an 8 and with no other digit, so here the prompt ends before the space.
    early = linear(toy, shots, answers=[8, 8])
    assert usual.tokens[0] == (*early.tokens[0], TOKENIZER.convert_tokens_to_ids(" "))


def test_prompts_carry_whole_answers(toy):
    prompts = linear(toy, Shots.article([42, 15]))
    assert prompts.rows([1]).answer_tokens == prompts.answer_tokens[1:]
    assert prompts.recipe()["answer_tokens"] == prompts.answer_tokens
    assert "answer_tokens" not in Prompts.of([[1, 2]]).recipe()  # so that older prompts keep their hash
    single = Prompts(((1, 2), (3,)), answers=(4, 5)).answered()
    assert (single.tokens, single.roles["answering"]) == (((1, 2, 4), (3, 5)), ((1,), (0,)))
    with pytest.raises(PromptError, match="they have none"):
        Prompts.of([[1, 2]]).answered()
    with pytest.raises(PromptError, match=r"prompts.answered\(\)"):
        measures.joint_probability()(toy.run(prompts).logits, prompts)
    with pytest.raises(PromptError, match="'answer_tokens' has 1 entries for 2"):
        Prompts(((1,), (2,)), answer_tokens=((3, 4),))


@pytest.mark.parametrize("begun", [True, False])
def test_texts_begin_as_the_tokenizer_begins_them(begun):
    model = reader(bpe(*MERGES, begun=begun))
    start, length = [0] * begun, 6
    assert text_start(model) == start
    assert list(tasks.text(model, "28, 59").tokens[0][: len(start)]) == start
    windows = tasks.windows(model, "(28, 59)\n" * 8, length=length, n=2)
    assert all(len(one) == length and list(one[: len(start)]) == start for one in windows.tokens)
    assert (0 in windows.tokens[0][len(start) :]) is False


def test_what_ends_a_text_does_not_begin_it():
    """As T5's tokenizer does, whose models have no BOS; and BERT's, with a token at either end."""
    tokenizer = bpe(*MERGES, begun=False)
    tokenizer.add_special_tokens({"eos_token": "0"})
    ends = TemplateProcessing(single="$A 0", special_tokens=[("0", tokenizer.eos_token_id)])
    tokenizer._tokenizer.post_processor = ends
    assert text_start(reader(tokenizer, bos_token_id=None)) == []
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A 0", special_tokens=[("<s>", 0), ("0", tokenizer.eos_token_id)]
    )
    assert text_start(reader(tokenizer)) == [0]
