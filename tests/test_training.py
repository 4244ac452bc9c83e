"""A recipe decides the weights, an interruption does not; and what ships is what the card says."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

import headscope as hs
from headscope import training, zoo
from headscope.errors import BadArgument, OutputExists, UnknownName
from headscope.results.study import Verdict
from headscope.tasks.phrases import PhraseLanguage, syllables
from headscope.training import evaluation, loop
from headscope.training.card import readme
from headscope.training.definition import Recipe, powers_of_two_and_every
from headscope.training.schedule import learning_rate
from headscope.training.sparing import head_norms
from headscope.training.state import saved_stage
from headscope.training.tokenizer import word_tokenizer
from headscope.training.watches import watch

LANGUAGE = PhraseLanguage(vocab_size=20, length=24, phrases=(2, 2), phrase_length=(3, 5))
TINY = Recipe(
    name="tiny",
    purpose="A model for tests.",
    architecture={"vocab_size": 20, "n_layers": 2, "d_model": 8, "n_heads": 2, "n_ctx": 24, "smeared_keys": True},
    data=LANGUAGE,
    batch_size=4,
    steps=12,
    learning_rate=0.01,
    warmup_steps=3,
    evaluate_every=5,
    checkpoint_steps=(0, 4),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run and the milestones that it reported."""
    seen = []
    out = tmp_path_factory.mktemp("runs") / "whole"
    return training.train(TINY, out, progress=seen.append), seen


def weights(folder, step=12):
    return AutoModelForCausalLM.from_pretrained(folder / f"step-{step}", dtype=torch.float32).state_dict()


def assert_same_weights(folder, other, step=12):
    ours, theirs = weights(folder, step), weights(other, step)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def without_time(rows):
    return [
        dataclasses.replace(row, cpu_seconds=0, train_loss_nats=round(row.train_loss_nats or 0, 9)) for row in rows
    ]


def test_a_run_reports_its_milestones_and_leaves_checkpoints(finished):
    folder, seen = finished
    assert [row.step for row in seen] == [0, 4, 5, 10, 12]
    assert [row.tokens for row in seen] == [0, 4 * 96, 5 * 96, 10 * 96, 12 * 96]
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-0", "step-12", "step-4"]
    assert [row.step for row in training.history(folder)] == [0, 4, 5, 10, 12]
    assert seen[-1].loss_nats < seen[0].loss_nats
    assert AutoTokenizer.from_pretrained(folder / "step-4")("ba bu").input_ids == [0, 1, 5]


@pytest.mark.parametrize("call", [2, 7, 11])
def test_an_interrupted_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch, call):
    whole, seen = finished
    sample, calls = PhraseLanguage.sample, []

    def failing(self, n, generator):
        calls.append(n)
        if len(calls) == call:
            raise KeyboardInterrupt
        return sample(self, n, generator)

    with monkeypatch.context() as patched:
        patched.setattr(PhraseLanguage, "sample", failing)
        with pytest.raises(KeyboardInterrupt):
            training.train(TINY, tmp_path / "run")
    later = []
    folder = training.train(TINY, tmp_path / "run", progress=later.append)
    assert 0 < len(later) < 5  # it did go on, and did not begin again
    assert_same_weights(folder, whole)
    assert without_time(training.history(folder)[1:]) == without_time(seen[1:])


def test_a_stop_between_the_line_and_the_state_leaves_no_line_twice(finished, tmp_path, monkeypatch):
    whole, _ = finished
    save = loop.save_state

    def failing(folder, model, optimizer, stage):
        if stage.step == 10:
            raise KeyboardInterrupt
        save(folder, model, optimizer, stage)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_state", failing)
        with pytest.raises(KeyboardInterrupt):
            training.train(TINY, tmp_path / "run")
    assert saved_stage(tmp_path / "run").step == 5
    folder = training.train(TINY, tmp_path / "run")
    assert [row.step for row in training.history(folder)] == [0, 4, 5, 10, 12]
    assert_same_weights(folder, whole)


def test_training_neither_reads_nor_moves_the_random_numbers_and_threads_of_others(finished, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # not the one thread of the recipe
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    folder = training.train(TINY, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    after = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert after == before[2] == 2
    assert_same_weights(folder, finished[0])


def test_a_finished_run_is_left_as_it_is(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    seen = []
    assert training.train(TINY, folder, progress=seen.append) == folder
    assert seen == []
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_a_folder_with_something_else_is_refused(finished, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="other files"):
        training.train(TINY, tmp_path)
    with pytest.raises(OutputExists, match="'tiny'"):
        training.train(dataclasses.replace(TINY, seed=1), finished[0])
    with pytest.raises(OutputExists, match="resume=True"):
        training.train(TINY, finished[0], resume=False)


def test_weight_decay_is_for_matrices_and_gradients_are_clipped():
    model = loop.untrained(TINY)
    decayed, spared = loop._optimizer(TINY, model).param_groups
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in spared["params"]} == {1}
    assert (decayed["weight_decay"], spared["weight_decay"], spared["betas"]) == (0.01, 0.0, (0.9, 0.99))
    # A step clipped to a norm of 1e-12 moves nothing, since Adam divides by the gradient plus 1e-8.
    still = dataclasses.replace(TINY, clip_norm=1e-12, weight_decay=0.0)
    model = loop.untrained(still)
    before = model.lm_head.weight.detach().clone()
    loop._take_step(still, model, loop._optimizer(still, model), step=3)
    assert (model.lm_head.weight - before).abs().max() < 1e-5
    free = loop.untrained(TINY)
    loop._take_step(TINY, free, loop._optimizer(TINY, free), step=3)
    assert (free.lm_head.weight - before).abs().max() > 1e-3


def test_a_penalty_on_heads_takes_all_of_a_head_from_its_step_on():
    """The gradient of the norm alone: every weight of a head shrinks, those of no head do not."""
    model = loop.untrained(TINY)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for module in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
            module.weight.zero_()
        attention.q_proj.weight[0, 0] = 3.0  # head 0.0 reads
        attention.o_proj.weight[0, 0] = 4.0  # and writes
        attention.v_proj.weight[4, 0] = 2.0  # head 0.1
    assert head_norms(model)[:2].tolist() == [5.0, 2.0]
    head_norms(model).sum().backward()
    assert attention.q_proj.weight.grad[0, 0] == pytest.approx(3 / 5)
    assert model.lm_head.weight.grad is None
    late = dataclasses.replace(TINY, head_penalty=10.0, head_penalty_from=4)
    assert late.digest() != TINY.digest()
    for step, same in ((3, True), (4, False)):
        moved = []
        for recipe in (TINY, late):
            model = loop.untrained(recipe)
            loop._take_step(recipe, model, loop._optimizer(recipe, model), step=step)
            moved.append(model.model.layers[0].self_attn.o_proj.weight)
        assert torch.equal(*moved) == same


@pytest.mark.parametrize(
    ("decay", "rates"),
    [("constant", [0.1, 0.2, 0.2, 0.2]), ("linear", [0.1, 0.2, 0.1, 0.0]), ("cosine", [0.1, 0.2, 0.1, 0.0])],
)
def test_the_learning_rate_by_hand(decay, rates):
    recipe = dataclasses.replace(TINY, learning_rate=0.2, warmup_steps=2, steps=12, decay=decay)
    assert [learning_rate(recipe, step) for step in (1, 2, 7, 12)] == pytest.approx(rates, abs=1e-12)
    quarter = {"constant": 0.2, "linear": 0.15, "cosine": 0.1 * (1 + math.cos(math.pi / 4))}[decay]
    assert learning_rate(dataclasses.replace(recipe, steps=10), 4) == pytest.approx(quarter)


def test_a_recipe_survives_json_and_its_hash_is_about_the_weights():
    plain = json.loads(json.dumps(TINY.to_json()))
    assert Recipe.from_json(plain) == TINY
    assert Recipe.from_json(plain).digest() == TINY.digest()
    assert dataclasses.replace(TINY, name="other", purpose="Another.").digest() == TINY.digest()
    assert dataclasses.replace(TINY, seed=1).digest() != TINY.digest()
    assert dataclasses.replace(TINY, data=dataclasses.replace(LANGUAGE, seed=1)).digest() != TINY.digest()


def test_recipes_that_cannot_be_are_refused():
    with pytest.raises(BadArgument, match="steps=0"):
        dataclasses.replace(TINY, steps=0)
    with pytest.raises(BadArgument, match="head_penalty=-1"):
        dataclasses.replace(TINY, head_penalty=-1.0)
    with pytest.raises(BadArgument, match="n_ctx=24 and its language length=30"):
        dataclasses.replace(TINY, data=dataclasses.replace(LANGUAGE, length=30))
    plain = TINY.to_json()
    with pytest.raises(BadArgument, match="recipe from JSON"):
        Recipe.from_json(plain | {"colour": "red"})
    with pytest.raises(UnknownName, match="Known: phrases"):
        Recipe.from_json(plain | {"data": {"generator": "prose"}})


def test_the_catalogue_names_what_it_has():
    assert "induction-2l" in training.recipes()
    for name in training.recipes():
        assert training.recipe(name).name == name
    with pytest.raises(UnknownName, match="induction-2l"):
        training.recipe("induction-2")


def test_checkpoints_stand_on_an_even_grid_after_the_powers_of_two():
    assert powers_of_two_and_every(8, steps=24) == (0, 1, 2, 4, 8, 16, 24)


def test_scores_of_hand_made_patterns():
    # Tokens 7 8 9 8 9: the query at 3 has a copy at 1, so key 2 counts; that at 4 one at 2, so key 3 counts.
    tokens = tensor([[7, 8, 9, 8, 9]])
    pattern = torch.zeros(1, 2, 5, 5)
    pattern[0, 0, 3, 2], pattern[0, 0, 4, 3], pattern[0, 0, 4, 2] = 0.5, 0.25, 0.75
    assert_close(evaluation._prefix_matching(tokens, pattern), tensor([[0.375, 0.0]]))
    # One further: key 3 of the query at 3, and key 4 of that at 4, which hold 0 and .5; BOS: 0, 0, .25 and .125.
    pattern[0, 0, 4, 4], pattern[0, 0, 3, 0], pattern[0, 0, 4, 0] = 0.5, 0.25, 0.125
    assert_close(evaluation._one_further(tokens, pattern), tensor([[0.25, 0.0]]))
    assert_close(evaluation._first_token(tokens, pattern), tensor([[0.375 / 4, 0.0]]))
    # Previous token: queries 2, 3, 4 hold 0, 0.5 and 0.25 on the key before; queries 0 and 1 are left out.
    pattern[0, 0, 1, 0] = 1.0
    assert_close(evaluation._previous_token(tokens, pattern), tensor([[0.25, 0.0]]))
    assert evaluation._best(tensor([[0.1, 0.2], [0.4, 0.3]])) == "1.0"


def test_losses_are_read_where_they_belong(monkeypatch):
    # A stand-in that is sure of the last token of its context: it predicts that token again.
    probes = evaluation.Probes(tensor([[0, *range(1, 11), *[5] * 10]]), tensor([[0, 1, 2, 3, 1, 2, 3]]), segment=3)
    losses = {"held_out": torch.arange(20.0), "repeated": tensor([10.0, 1.0, 3.0, 20.0, 5.0, 9.0])}

    def read(model, sequences, *scores):
        which = "held_out" if sequences is probes.held_out else "repeated"
        return losses[which], *torch.zeros(len(scores), 1, 1)

    monkeypatch.setattr(evaluation, "_eager_twin", lambda model: model)
    monkeypatch.setattr(evaluation, "_read", read)
    found = evaluation.measure(None, probes)
    assert found["loss_nats"] == 9.5
    assert found["icl_nats"] == 17.5 - 2.5  # predictions 16 to 19 against 2 and 3
    assert found["first_copy_nats"] == 2.0  # tokens 2 and 3, predicted at 1 and 2
    assert found["second_copy_nats"] == 7.0  # the same, predicted at 4 and 5


def test_probes_are_held_out_and_repeat_what_they_say():
    probes = evaluation.Probes.of(LANGUAGE, seed=3)
    assert probes.segment == 5  # (24 - 1) // 4
    assert torch.equal(probes.repeated[:, 1:6], probes.repeated[:, 16:21])
    assert probes.repeated.shape == (50, 21)
    assert all(len(set(row[1:6].tolist())) == 5 and 0 not in row[1:] for row in probes.repeated)
    trained_on = LANGUAGE.sample(256, np.random.default_rng([3, 1]))
    assert not np.array_equal(trained_on, probes.held_out.numpy())


def test_the_tokenizer_splits_at_spaces_pads_with_bos_and_refuses_unknown_words(tmp_path):
    word_tokenizer(syllables(20), n_ctx=24).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("ba be\nbi").input_ids == [0, 1, 2, 3]
    assert tokenizer.decode([1, 2, 3]) == "ba be bi"
    batch = tokenizer(["ba", "ba be"], padding=True)
    assert batch.input_ids == [[0, 0, 1], [0, 1, 2]]
    assert batch.attention_mask == [[0, 1, 1], [1, 1, 1]]
    with pytest.raises(Exception, match="UNK"):
        tokenizer("ba hello")


def test_export_makes_a_folder_that_loads_and_a_card_that_agrees(finished, tmp_path):
    run, seen = finished
    folder = training.export(run, tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights(run)[name])
    assert AutoTokenizer.from_pretrained(folder).bos_token == "<bos>"
    card = json.loads((folder / "card.json").read_text())
    assert card["recipe_digest"] == TINY.digest()
    assert Recipe.from_json(card["recipe"]) == TINY
    assert card["prompts"]["generator"] == "phrases"
    assert card["tokens_seen"] == 12 * 96
    assert card["architecture"]["smeared_keys"] is True
    assert card["metrics"]["loss_nats"] == pytest.approx(seen[-1].loss_nats, abs=1e-4)
    assert [row["step"] for row in card["history"]] == [0, 4, 5, 10, 12]
    assert str(card["metrics"]["second_copy_nats"]) in (folder / "README.md").read_text()
    assert training.export(run, folder) == folder  # again over itself


def test_export_refuses_what_is_not_a_finished_run(finished, tmp_path):
    with pytest.raises(BadArgument, match="holds no run"):
        training.export(tmp_path, tmp_path / "model")
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "recipe.json").write_text(json.dumps(TINY.to_json()))
    with pytest.raises(BadArgument, match="0 of 12 steps"):
        training.export(unfinished, tmp_path / "model")
    with pytest.raises(OutputExists, match="other files"):
        training.export(finished[0], unfinished)


def test_every_model_of_the_zoo_is_what_its_card_says():
    assert "induction-2l" in zoo.names()
    for name in zoo.names():
        folder, card = zoo.path(name), zoo.card(name)
        recipe = training.recipe(name)
        assert recipe.digest() == card["recipe_digest"] == Recipe.from_json(card["recipe"]).digest()
        assert (folder / "README.md").read_text(encoding="utf-8") == readme(card)
        assert (folder / "model.safetensors").stat().st_size < 1_500_000
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        watching = watch(recipe.data)
        measured = watching.measure(model, watching.probes(recipe.data, recipe.seed))
        for metric, value in card["metrics"].items():
            assert measured[metric] == (value if isinstance(value, str) else pytest.approx(value, abs=2e-4))
    with pytest.raises(UnknownName, match="induction-2l"):
        zoo.path("induction-4l")


def test_the_shipped_two_layer_model_has_the_heads_that_it_is_for():
    metrics = zoo.card("induction-2l")["metrics"]
    assert metrics["prefix_matching"] > 0.7
    assert metrics["previous_token"] > 0.7
    assert metrics["prefix_matching_head"].startswith("1.")
    assert metrics["previous_token_head"].startswith("0.")
    assert metrics["second_copy_nats"] < metrics["first_copy_nats"] / 4


def test_the_shipped_three_layer_model_has_few_heads_at_work_and_many_to_compare_with():
    metrics = zoo.card("induction-3l")["metrics"]
    assert metrics["second_copy_nats"] < metrics["first_copy_nats"] / 4
    found = hs.study("heads", model="zoo:induction-3l", quick=True)
    matters = next(claim for claim in found.claims if claim.name == "induction_matters")
    assert matters.verdict is Verdict.SUPPORTED
    (group,) = found.tables["groups"].rows(group="induction")
    assert (group["ablated"], group["random_sets"]) == ("2.7 2.0", 19)
