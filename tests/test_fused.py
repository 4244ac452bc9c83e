"""Activations in one kernel: the same values, and gone once a sweep is done."""

import copy
import threading

import torch
from torch.testing import assert_close
from transformers.activations import FastGELUActivation, NewGELUActivation

import headscope as hs
from headscope.models.fused import fused
from headscope.models.replay import Replay, replaced
from tests import tiny


def test_one_kernel_gives_what_the_steps_give() -> None:
    hf = torch.nn.ModuleList([NewGELUActivation(), FastGELUActivation(), torch.nn.ReLU(), torch.nn.Linear(1, 1)])
    x = torch.linspace(-6, 6, 1001)
    pairs = fused(hf)
    assert [type(module) for module, _ in pairs] == [NewGELUActivation, FastGELUActivation]
    for module, instead in pairs:
        assert_close(instead(x), module(x), rtol=1e-6, atol=1e-6)


def test_half_precision_keeps_its_own_steps() -> None:
    assert not fused(torch.nn.ModuleList([NewGELUActivation(), torch.nn.Linear(1, 1)]).bfloat16())


def test_a_sweep_leaves_the_model_as_it_was() -> None:
    model = tiny.opened("gpt2")
    before = copy.deepcopy({name: set(vars(m)) for name, m in model.hf.named_modules()})
    hs.sweep(model, tiny.ids(), hs.grid(hs.zero("z"), layers="all", heads="all"), hs.measures.loss())
    assert {name: set(vars(m)) for name, m in model.hf.named_modules()} == before


def test_other_threads_and_other_models_are_not_held_up() -> None:
    models = [tiny.opened("gpt2"), tiny.opened("gpt2")]
    replays = [Replay(model.hf, model.anatomy) for model in models]
    own = replays[0]._fused[0][0]
    found = []

    def other() -> None:
        with replaced(models[1].hf, []):
            found.append(own(torch.ones(1)))

    with replaced(models[0].hf, [(own, lambda x: x * 0)]):
        assert float(own(torch.ones(1))) == 0
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(timeout=20)
    assert float(found[0]) > 0.8
