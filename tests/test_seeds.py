"""Scores of several seeds are kept by step, weights are not; what is there is not trained again."""

import dataclasses
import json

import pytest
from tools import seeds

from headscope import training
from tests.test_training import TINY


def test_seeds_are_added_one_by_one_and_leave_no_weights(tmp_path, monkeypatch):
    trained, train = [], training.train
    monkeypatch.setattr(training, "train", lambda recipe, out: trained.append(recipe.seed) or train(recipe, out))
    run = {"out": tmp_path / "out", "runs": tmp_path / "runs"}
    seeds.run(TINY, [0], **run)
    path = seeds.run(TINY, [2, 0, 1], **run)
    assert trained == [0, 2, 1]
    assert not any((tmp_path / "runs").iterdir())
    told = json.loads(path.read_text())
    assert list(told["seeds"]) == ["0", "1", "2"]
    assert told["seeds"]["1"]["step"] == [0, 4, 5, 10, 12]
    assert told["tokens_per_step"] == 96
    alone = training.history(train(dataclasses.replace(TINY, seed=1), tmp_path / "alone"))
    assert told["seeds"]["1"]["prefix_matching"] == pytest.approx([row.prefix_matching for row in alone], abs=1e-4)
    assert told["seeds"]["0"]["loss_nats"] != told["seeds"]["1"]["loss_nats"]
    # Another recipe of that name does not keep the seeds of this one.
    seeds.run(dataclasses.replace(TINY, learning_rate=0.02), [0], **run)
    assert list(json.loads(path.read_text())["seeds"]) == ["0"]


def test_clamped_means_without_induction_edges():
    recipe = seeds.followed("induction-2l", steps=100, every=25, clamped=True)
    assert (recipe.name, recipe.steps, recipe.checkpoint_steps) == ("induction-2l-no-edges", 100, ())
    assert [clamp.kind for clamp in recipe.clamped] == ["no_induction_edges"]
    assert seeds.followed("induction-2l", steps=None, every=25, clamped=False).clamped == ()
