"""Training on the language of pairs: what is learnt from, what is watched, how a model starts, what is dropped."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from headscope import load, patch, tasks, training
from headscope.errors import BadArgument
from headscope.tasks.pairs import PairLanguage
from headscope.training import loop, pair_evaluation
from headscope.training.card import readme
from headscope.training.carrying import carried_loss_nats, entering
from headscope.training.definition import Recipe
from headscope.training.dropping import attention_dropped
from headscope.training.initialising import circles, initialise

LANGUAGE = PairLanguage(a=(1, 2), b=(0, 4), inputs=(0, 5), held_out=2, shots=5, noise=0.2)
TINY = Recipe(
    name="tiny-pairs",
    purpose="A model for tests.",
    architecture={
        "vocab_size": LANGUAGE.vocab_size,
        "n_layers": 2,
        "d_model": 12,
        "n_heads": 2,
        "d_mlp": 16,
        "n_ctx": LANGUAGE.length,
        "positions": "rotary",
        "norm": "rmsnorm",
    },
    data=LANGUAGE,
    batch_size=4,
    steps=8,
    learning_rate=0.01,
    warmup_steps=2,
    evaluate_every=3,
    checkpoint_steps=(0,),
    attention_drop=0.25,
    carried_at=(1,),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    return training.train(TINY, out)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "step-8", dtype=torch.float32).state_dict()


@pytest.mark.parametrize("call", [2, 5, 8])
def test_an_interrupted_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch, call):
    labels, calls = PairLanguage.labels, []

    def failing(self, tokens):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return labels(self, tokens)

    with monkeypatch.context() as patched:
        patched.setattr(PairLanguage, "labels", failing)
        with pytest.raises(KeyboardInterrupt):
            training.train(TINY, tmp_path / "run")
    later = []
    folder = training.train(TINY, tmp_path / "run", progress=later.append)
    assert 0 < len(later) < 4
    ours, theirs = weights(folder), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    one, other = training.history(folder), training.history(finished)
    assert [row.step for row in one] == [0, 3, 6, 8]
    assert [row.p_correct_by_shot for row in one] == [row.p_correct_by_shot for row in other]


def test_the_loss_is_about_y_tokens_alone():
    model = loop.untrained(TINY)
    tokens = torch.from_numpy(LANGUAGE.sample(3, np.random.default_rng(0)))
    log_p = model(tokens).logits.log_softmax(-1)
    by_hand = -torch.stack([log_p[:, at - 1].gather(1, tokens[:, [at]]) for at in (3, 7, 11, 15, 19)]).mean()
    labels = torch.from_numpy(LANGUAGE.labels(tokens.numpy()))
    assert_close(model(tokens, labels=labels).loss, by_hand)


def test_a_recipe_of_pairs_survives_json_and_dropping_is_in_its_hash_only_where_used():
    plain = json.loads(json.dumps(TINY.to_json()))
    assert plain["data"]["generator"] == "pairs"
    assert Recipe.from_json(plain) == TINY
    assert Recipe.from_json(plain).digest() == TINY.digest()
    whole = dataclasses.replace(TINY, attention_drop=0.0)
    assert "attention_drop" not in whole.to_json()
    assert whole.digest() != TINY.digest()
    assert dataclasses.replace(TINY, carried_at=()).digest() != TINY.digest()
    assert "carried_at" not in dataclasses.replace(TINY, carried_at=()).to_json()
    with pytest.raises(BadArgument, match="attention_drop=1"):
        dataclasses.replace(TINY, attention_drop=1)
    for layer in (0, 2):
        with pytest.raises(BadArgument, match="expected layers 1 to 1"):
            dataclasses.replace(TINY, carried_at=(layer,))
    with pytest.raises(BadArgument, match="hidden functions to carry"):
        dataclasses.replace(training.recipe("induction-2l"), carried_at=(1,))


def test_dropped_attention_is_nothing_for_some_examples_and_more_for_the_others():
    model = loop.untrained(TINY)
    tokens = torch.from_numpy(LANGUAGE.sample(4, np.random.default_rng(0)))

    class Drawn:
        def random(self, shape):
            assert shape == (2, 4)  # [layer, example]
            return np.array([[0.1, 0.9, 0.9, 0.9], [0.9, 0.9, 0.1, 0.9]])

    layer, added = model.model.layers[0], []
    hook = layer.self_attn.register_forward_hook(lambda module, given, out: added.append(out[0]))
    model(tokens)
    hook.remove()
    with attention_dropped(model, 0.5, 4, Drawn()):
        streams = model(tokens, output_hidden_states=True).hidden_states
    # Example 0 has lost the first layer's attention, the others have it at twice its size.
    scale = tensor([0.0, 2.0, 2.0, 2.0])[:, None, None]
    after = streams[0] + scale * added[0]
    assert_close(streams[1], after + layer.mlp(layer.post_attention_layernorm(after)))
    # Outside the context, and for a share of 0, the model is itself.
    whole = loop.untrained(TINY)(tokens).logits
    assert torch.equal(model(tokens).logits, whole)
    with attention_dropped(model, 0.0, 4, Drawn()):
        assert torch.equal(model(tokens).logits, whole)


def test_the_carried_loss_is_that_of_patched_prompts_without_context():
    model = loop.untrained(TINY)
    tokens, parameters = LANGUAGE.sample_with_functions(3, np.random.default_rng(0))
    with entering(model.model.layers[1]) as seen:
        model(torch.from_numpy(tokens))
    carried = carried_loss_nats(model, LANGUAGE, 1, seen[0], parameters, np.random.default_rng(7))
    # The same draws, and each prompt without context patched alone from the run of its sequence.
    generator = np.random.default_rng(7)
    shots = generator.random((3, 5)).argsort(axis=1)[:, :4]
    x = LANGUAGE.draw_inputs(3, 4, generator)
    y = LANGUAGE.shown_values(parameters, x, 0.2, generator)
    opened, losses = load(model), []
    for row, column in np.ndindex(3, 4):
        source = opened.run([tokens[row].tolist()], capture=["resid_pre"])
        at = 2 + 4 * int(shots[row, column])
        handed = patch(("resid_pre", 1), source=source, positions={at: 2})
        bare = [[0, int(x[row, column]) + 1, LANGUAGE.comma]]
        log_p = opened.run(bare, interventions=[handed]).logits[0, -1].log_softmax(-1)
        losses.append(-log_p[int(y[row, column]) + 1].item())
    assert carried.item() == pytest.approx(np.mean(losses), rel=1e-5)
    # It teaches what stands before the layer as well.
    (gradient,) = torch.autograd.grad(carried, seen[0])
    assert gradient.abs().sum() > 0
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_numbers_start_on_circles():
    model = loop.untrained(TINY)
    embedding = model.model.embed_tokens.weight
    known = circles(np.arange(LANGUAGE.n_numbers), 12)
    assert_close(embedding[1 : 1 + LANGUAGE.n_numbers], known * 0.3)
    assert_close(model.lm_head.weight[1 : 1 + LANGUAGE.n_numbers], known * 0.1)
    # The first circle has a circumference of 2: even numbers at (1, 0), odd ones at (-1, 0).
    assert_close(known[:4, 0], tensor([1.0, -1.0, 1.0, -1.0]))
    # With room for all of them, the number itself comes last, from -1 to 1, and the rest is left to learn.
    wide = circles(np.arange(10), 64)
    assert_close(wide[:4, 4:6], tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))  # of 4
    assert wide.shape == (10, 27)
    assert_close(wide[:, -1], torch.arange(10) / 5 - 1)
    phrases = loop.untrained(training.recipe("induction-2l"))
    before = phrases.model.embed_tokens.weight.clone()
    initialise(phrases, training.recipe("induction-2l").data)
    assert torch.equal(phrases.model.embed_tokens.weight, before)


class Sure(torch.nn.Module):
    """Says the right number of every shot with probability .75, and all other tokens equally otherwise."""

    def __init__(self, right):
        super().__init__()
        self.right = right

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, LANGUAGE.vocab_size)
        odds = 0.75 / (0.25 / (LANGUAGE.vocab_size - 1))
        for row in range(len(tokens)):
            for shot in range(5):
                logits[row, 2 + 4 * shot, self.right[row, shot]] = np.log(odds)
        return type("Out", (), {"logits": logits})


def test_what_is_watched_is_read_where_a_y_is_due():
    probes = pair_evaluation.PairProbes.of(LANGUAGE, seed=3)
    held_out = [list(f) for f in LANGUAGE.among("held_out")]
    assert len(held_out) == 2
    # Shown y are right ones, but for a fifth of them.
    shown = probes.held_out[:, 3::4]
    assert 0.7 < (shown == probes.right).double().mean() < 0.95
    measured = pair_evaluation.measure(
        Sure(probes.right), dataclasses.replace(probes, trained=probes.held_out, trained_right=probes.right)
    )
    assert measured["p_correct_by_shot"] == pytest.approx([0.75] * 5)
    assert measured["p_correct"] == measured["p_correct_trained"] == pytest.approx(0.75)
    assert measured["top1_correct"] == 1.0
    assert measured["p_exact_by_shot"][0] < measured["p_exact_by_shot"][-1] == measured["p_correct_exact"]
    right = (shown == probes.right).double().mean().item()
    rest = 0.25 / (LANGUAGE.vocab_size - 1)
    assert measured["loss_nats"] == pytest.approx(-right * np.log(0.75) - (1 - right) * np.log(rest))
    assert measured["kl_nats"] > 0


def test_the_exact_posterior_diverges_from_itself_by_nothing():
    probes = pair_evaluation.PairProbes.of(LANGUAGE, seed=3)

    class Ideal(torch.nn.Module):
        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, LANGUAGE.vocab_size, dtype=torch.float64)
            logits[:, 2::4] = probes.exact.clamp(min=-1e9)
            return type("Out", (), {"logits": logits})

    measured = pair_evaluation.measure(Ideal(), probes)
    assert measured["kl_nats"] == pytest.approx(0, abs=1e-12)
    assert measured["p_correct_by_shot"] == pytest.approx(measured["p_exact_by_shot"])


def test_export_makes_a_model_of_number_tokens_with_a_card(finished, tmp_path):
    folder = training.export(finished, tmp_path / "tiny-pairs")
    card = json.loads((folder / "card.json").read_text())
    assert card["prompts"]["generator"] == "pairs"
    assert [len(curve) for curve in card["curves"].values()] == [5, 5]
    assert (folder / "README.md").read_text() == readme(card)
    assert "| shots before | p_correct_by_shot | p_exact_by_shot |" in readme(card)
    assert AutoTokenizer.from_pretrained(folder)("3 , 7 ;").input_ids == [0, 4, 16, 8, 17]
    model = load(folder)
    prompts = tasks.linear(model, n_shots=4, n=3)
    assert model.run(prompts).logits.shape == (3, 19, LANGUAGE.vocab_size)
    spoken = tasks.natural(model, length=64, n=2)
    assert set(spoken.lengths) == {20}
    assert (LANGUAGE.sample(2, np.random.default_rng(0)) == spoken.ids.numpy()).all()
