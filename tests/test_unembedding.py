"""Logits are computed where they are read, and are those of a whole pass there."""

import dataclasses
import threading

import pytest
import torch

import headscope as hs
from headscope.measures import loss, probability
from headscope.models.unembedding import read_only_at
from headscope.sweeps import evaluate
from tests import tiny
from tests.test_served import build


def counted(model) -> list[int]:
    """Rows that each call of the unembedding is given, as they come."""
    rows: list[int] = []
    model.anatomy.unembedding.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:-1].numel()))
    return rows


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "cohere", "granite", "bloom", "gpt_neo"])
def test_read_logits_are_those_of_a_whole_pass(kind):
    model = hs.load(build(kind))
    prompts = hs.Prompts.of([tuple(range(3, 15)), tuple(range(3, 10))])
    where = prompts.where(-1)
    whole = model.run(prompts, interventions=hs.zero("1.0")).logits
    some = model.logits_at(prompts, where, interventions=hs.zero("1.0"))
    torch.testing.assert_close(some[where], whole[where])


def test_only_what_measures_read_is_computed():
    model = hs.load(build("llama"))
    prompts = dataclasses.replace(hs.Prompts.of(tiny.ids()), answers=(7, 9))
    full = model.run(prompts).logits
    evaluate(model, prompts, [loss()])  # whatever it rests on is proved now
    rows = counted(model)
    own, other = probability(), loss((3, 4))
    last, early = evaluate(model, prompts, [own, other])
    assert rows == [len(prompts) * 3]
    torch.testing.assert_close(last, own(full, prompts).double())
    torch.testing.assert_close(early, other(full, prompts).double())
    rows.clear()
    evaluate(model, prompts, [loss()])  # of nearly every position: a whole pass
    assert rows == [prompts.ids.numel()]


def test_other_threads_and_later_runs_see_whole_passes():
    model = hs.load(build("llama"))
    ids, seen = tiny.ids(), []
    expected = model.run(ids).logits
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[:, -1] = True
    with read_only_at(model.anatomy.unembedding, where):
        other = threading.Thread(target=lambda: seen.append(model.run(ids).logits))
        other.start()
        other.join()
        inside = model.run(ids).logits
    assert torch.equal(seen[0], expected)
    assert torch.equal(model.run(ids).logits, expected)
    assert not inside[:, 0].any()
