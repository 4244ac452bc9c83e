"""Batches as tokenizers give them: masks say what is padding, and ids that only look padded are not silent."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import BatchEncoding

import headscope as hs
from headscope.errors import BadArgument, PromptError
from tests import tiny

PAD = tiny.SPECIAL["pad_token_id"]
SHORT, LONG = [0, 5, 6, 7], [0, 8, 9, 10, 11, 12]
LEFT, RIGHT = [PAD, PAD, *SHORT], [*SHORT, PAD, PAD]


@pytest.fixture(scope="module")
def model():
    return tiny.opened("gpt2")  # positions are learned: padding on the left moves them where it is taken for text


@pytest.mark.parametrize(
    ("row", "mask"), [(LEFT, [0, 0, 1, 1, 1, 1]), (RIGHT, [1, 1, 1, 1, 0, 0])], ids=["left", "right"]
)
def test_a_mask_says_what_is_padding(model, row, mask):
    ids, marks = torch.tensor([row, LONG]), torch.tensor([mask, [1] * 6])
    alone = model.run([SHORT], capture="z")
    for given, beside in (
        (ids, marks),
        (ids.tolist(), marks.bool()),
        (BatchEncoding({"input_ids": ids, "attention_mask": marks}), None),
        ({"input_ids": ids.tolist(), "attention_mask": marks.tolist()}, None),
    ):
        run = model.run(given, attention_mask=beside, capture="z")
        assert run.prompts.tokens == (tuple(SHORT), tuple(LONG))
        assert_close(run.logits[0, :4], alone.logits[0], atol=1e-5, rtol=1e-5)
        assert_close(run["z", 1][0, :4], alone["z", 1][0], atol=1e-5, rtol=1e-5)
    grown = model.generate(ids, attention_mask=marks, max_new_tokens=3).tokens
    assert grown == model.generate([SHORT, LONG], max_new_tokens=3).tokens
    assert hs.mean("0.1", over={"input_ids": ids, "attention_mask": marks}).over.lengths == (4, 6)
    assert model.run({"input_ids": SHORT, "attention_mask": [1] * 4}).prompts.tokens == (tuple(SHORT),)


def test_ids_that_look_padded_warn(model):
    for rows in ([LEFT, LONG], [RIGHT, LONG]):
        for given in (rows, torch.tensor(rows), {"input_ids": rows}):
            with pytest.warns(UserWarning, match=r"example 0 of 2 begins or ends with the padding token 94 .*mask"):
                model.run(given)
    model.run(hs.Prompts.of([LEFT]))  # whoever builds prompts says what their tokens are
    model.run([LEFT], attention_mask=[[1] * 6])
    model.run([[0, PAD, 5], [PAD]])


def test_ids_that_look_padded_warn_where_interventions_take_them(model):
    padded, masked = [LEFT, LONG], {"input_ids": [LEFT, LONG], "attention_mask": [[0, 0, 1, 1, 1, 1], [1] * 6]}
    makers = [
        lambda given: hs.mean("0.1", over=given),
        lambda given: hs.resample("0.1", over=given),
        lambda given: hs.resample("0.1", over=given, per_position=False),
        lambda given: hs.patch("0.1", source=given),
        lambda given: hs.path_patch("0.1", "1.1", source=given),
    ]
    for make in makers:
        for given in (padded, torch.tensor(padded), {"input_ids": padded}):
            model.clear_cache()
            with pytest.warns(UserWarning, match=r"example 0 of 2 begins or ends with the padding token 94 .*mask"):
                model.run([LONG[::-1], LONG], interventions=make(given))
        model.clear_cache()
        model.run([LONG[::-1], LONG], interventions=make(hs.Prompts.of(padded)))
        assert make(padded) == make(hs.Prompts.of(padded))
    for edit in (hs.mean("0.1", over=masked), hs.patch("0.1", source=masked)):
        model.run([SHORT, LONG], interventions=edit)


def test_one_token_is_padding_only_where_a_tokenizer_has_it_for_nothing_else():
    hf = tiny.build("llama")
    hs.load(hf).run([[0, 5, PAD]])
    with pytest.warns(UserWarning, match="padding token 94"):
        hs.load(hf, tokenizer=SimpleNamespace(pad_token_id=PAD)).run([[0, 5, PAD]])
    model = hs.load(hf, tokenizer=SimpleNamespace(pad_token_id=hf.config.eos_token_id))
    model.run([[0, 5, 95]])
    with pytest.warns(UserWarning, match="padding token 95"):
        model.run([[0, 5, 95, 95]])


@pytest.mark.parametrize(
    "mask", [[[1, 0, 1]], [[1, 1]], [[1, 1, 2]], [[1, 1, 1], [1, 1, 1]]], ids=["hole", "shape", "value", "rows"]
)
def test_masks_of_anything_but_padding_are_refused(model, mask):
    with pytest.raises(BadArgument, match="1 at tokens and 0 at padding"):
        model.run([[5, 6, 7]], attention_mask=mask)


def test_what_would_be_dropped_in_silence_is_refused(model):
    with pytest.raises(BadArgument, match="mapping with input_ids, position_ids"):
        model.run({"input_ids": [[1, 2]], "position_ids": [[3, 4]]})
    with pytest.raises(BadArgument, match="they hold no padding"):
        model.run(hs.Prompts.of([[1, 2]]), attention_mask=[[1, 1]])
    with pytest.raises(PromptError, match="every example needs at least one token"):
        model.run([[1, 2], [3, 4]], attention_mask=[[1, 1], [0, 0]])
