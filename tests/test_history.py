"""The checkpoints of a model in training: found, opened in float32, and gone again where they were fetched."""

import dataclasses
import json
import shutil
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import headscope as hs
from headscope import training, zoo
from headscope.cli import models as models_verb
from headscope.errors import BadArgument, BrokenWeights, ModelNotFound, UnknownName
from headscope.models import history
from headscope.models.history import history_of
from headscope.training.watches import watch
from tests.test_training import TINY

TOKENS = [[0, 3, 4, 5, 3, 4]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return training.train(TINY, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def shipped(run, tmp_path_factory):
    """The run as it ships: the last weights, and those of step 4 in half precision."""
    return training.export(run, tmp_path_factory.mktemp("zoo") / "tiny", history=[4])


def logits(model):
    return model.run(TOKENS, capture=["logits"])["logits"]


def test_a_folder_of_training_is_a_history(run):
    found = history_of(run)
    assert found.steps == (0, 4, 12)
    assert [found.tokens(step) for step in found.steps] == [0, 4 * 96, 12 * 96]
    model = found.open(4)
    assert torch.equal(logits(model), logits(hs.load(run / "step-4")))
    assert torch.equal(logits(model), logits(hs.load(run, revision="step-4")))
    assert not torch.equal(logits(model), logits(found.open(12)))
    assert model.language["generator"] == "phrases"
    assert model.language["parameters"]["vocab_size"] == 20
    assert history_of(run, steps=[12, 0]).steps == (0, 12)


def test_what_ships_is_the_last_weights_and_earlier_ones_in_half_precision(run, shipped):
    found = history_of(shipped)
    assert found.steps == (4, 12)
    assert found.tokens(4) == 4 * 96
    assert torch.equal(logits(found.open(12)), logits(hs.load(run / "step-12")))
    early, whole = found.open(4), hs.load(run / "step-4")
    assert early.dtype == torch.float32
    assert 0 < (logits(early) - logits(whole)).abs().max() < 5e-3
    half = {name: value.half().float() for name, value in whole.hf.state_dict().items()}
    assert all(torch.equal(value, half[name]) for name, value in early.hf.state_dict().items())
    assert early.tokenizer("ba bu").input_ids == [0, 1, 5]
    assert early.language == hs.load(shipped).language
    # Identities tell the steps apart and stay the same from one opening to the next.
    assert early.identity == found.open(4).identity != found.open(12).identity


def test_steps_that_are_not_kept_are_refused_by_those_that_are(run, shipped, tmp_path):
    for call in (lambda: hs.load(run, revision="step-5"), lambda: hs.load(run, revision="main")):
        with pytest.raises(UnknownName, match="Known: step-0, step-4, step-12"):
            call()
    with pytest.raises(UnknownName, match="Known: 0, 4, 12"):
        history_of(run, steps=[0, 7])
    with pytest.raises(UnknownName, match="Known: 4, 12"):
        history_of(shipped).open(0)
    with pytest.raises(UnknownName, match="Known: step-10000"):
        hs.load("zoo:linear-4l", revision="step-1")
    with pytest.raises(ModelNotFound, match="holds no checkpoints"):
        history_of(tmp_path)
    with pytest.raises(ModelNotFound, match="without checkpoints"):
        hs.load(run / "step-4", revision="step-4")


def test_a_history_is_added_to_what_ships_and_leaves_it_as_it_is(run, tmp_path):
    folder = training.export(run, tmp_path / "tiny")
    before = (folder / "model.safetensors").read_bytes()
    seen_otherwise = dataclasses.replace(TINY, checkpoint_steps=(0, 3, 9))
    again = training.train(seen_otherwise, tmp_path / "again")
    assert training.add_history(again, folder, [0, 3]) == 0  # the same recipe, the same machine, the same bits
    assert history_of(folder).steps == (0, 3, 12)
    assert (folder / "model.safetensors").read_bytes() == before
    card = json.loads((folder / "card.json").read_text())
    assert card["checkpoints"] == [0, 3]
    assert 'revision="step-3"' in (folder / "README.md").read_text()
    other = training.train(dataclasses.replace(TINY, seed=1), tmp_path / "other")
    with pytest.raises(BadArgument, match="another recipe"):
        training.add_history(other, folder, [0])
    for step in (5, 12):
        with pytest.raises(BadArgument, match=f"step {step} of .* as history"):
            training.export(run, tmp_path / "new", history=[step])
    assert not (tmp_path / "new").exists()


def test_the_zoo_names_its_steps(capsys):
    assert zoo.steps("linear-4l") == (10_000,)
    models_verb.run(json=True)
    listed = {card["name"]: card["checkpoints"] for card in json.loads(capsys.readouterr().out)}
    assert listed == {name: list(zoo.steps(name)) for name in zoo.names()}


def test_what_ships_with_a_history_is_small_and_follows_the_run_that_its_card_tells_of():
    """Loss on the probes of the card, half-way through each: in half precision it is that of the card's row."""
    folders = [zoo.path(name) for name in zoo.names() if len(zoo.steps(name)) > 1]
    assert len(folders) >= 4
    assert sum(file.stat().st_size for folder in folders for file in folder.glob("history/*")) < 10e6
    for folder in folders:
        card, recipe, found = zoo.card(folder.name), training.recipe(folder.name), history_of(f"zoo:{folder.name}")
        assert list(found.steps) == [*card["checkpoints"], card["steps"]]
        gaps = {after - before for before, after in pairwise(found.steps)}
        assert len(gaps) == 1  # an even grid, which does not give a change away
        told = {row["step"]: row for row in card["history"]}
        shared = [step for step in found.steps if step in told]
        probes = watch(recipe.data).probes(recipe.data, recipe.seed)
        step = shared[len(shared) // 2]
        measured = watch(recipe.data).measure(found.open(step).hf, probes)
        assert measured["loss_nats"] == pytest.approx(told[step]["loss_nats"], abs=2e-3)
        assert found.tokens(step) == step * recipe.batch_size * recipe.data.length


def test_a_file_of_weights_that_is_cut_off_is_refused(shipped, tmp_path):
    folder = shutil.copytree(shipped, tmp_path / "tiny")
    file = folder / "history" / "step-4.safetensors"
    kept = load_file(file)
    kept.pop("lm_head.weight")
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(BrokenWeights, match=r"lm_head\.weight"):
        hs.load(folder, revision="step-4")


class Hub:
    """Branches of a model, and a cache that holds what was opened."""

    def __init__(self, monkeypatch, branches, cached=()):
        self.kept, self.opened = set(cached), []
        refs = SimpleNamespace(branches=[SimpleNamespace(name=name) for name in branches], tags=[])
        monkeypatch.setattr(history, "HfApi", lambda: SimpleNamespace(list_repo_refs=lambda name: refs))
        monkeypatch.setattr(history, "_fetched", lambda name: set(self.kept))
        monkeypatch.setattr(history, "_remove", lambda name, commits: self.kept.difference_update(commits))
        monkeypatch.setattr(history, "load", self.load)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def load(self, name, revision, **options):
        self.kept.add(revision)
        self.opened.append((name, revision, options["dtype"]))
        return revision


@pytest.mark.parametrize(
    ("name", "branches", "steps", "tokens"),
    [
        ("EleutherAI/pythia-70m", ["main", "step1000", "step512", "step0"], (0, 512, 1000), 1000 * 2**21),
        ("other/model", ["main", "step-1000", "step-20", "step-20-eval"], (20, 1000), None),
        (
            "allenai/OLMo-2-0425-1B",
            ["main", "stage1-step1000-tokens3B", "stage2-ingredient1-step1000-tokens3B"],
            (1000,),
            3 * 10**9,
        ),
    ],
)
def test_branches_on_a_hub_are_steps(monkeypatch, name, branches, steps, tokens):
    hub = Hub(monkeypatch, branches)
    found = history_of(name)
    assert found.steps == steps
    assert found.tokens(1000) == tokens
    found.open(1000)
    assert hub.opened == [
        (name, next(each for each in branches if "step-1000" in each or "step1000" in each), "float32")
    ]


def test_what_was_fetched_is_removed_and_what_was_there_stays(monkeypatch):
    hub = Hub(monkeypatch, ["step1", "step2"], cached={"step1"})
    for step in (1, 2):
        history_of("a/b").open(step)
    assert hub.kept == {"step1"}
    history_of("a/b", keep=True).open(2)
    assert hub.kept == {"step1", "step2"}


def test_a_model_without_such_branches_is_refused(monkeypatch):
    Hub(monkeypatch, ["main", "steps"])
    with pytest.raises(ModelNotFound, match="none of its branches"):
        history_of("a/b")


def test_commits_leave_the_cache_of_the_hub_but_not_what_they_share(monkeypatch, tmp_path):
    """The layout of the hub's own cache: blobs, snapshots that point to them, names of branches."""
    root = tmp_path / "models--a--b"
    for commit, files in (("1" * 40, {"shared": "s", "one": "x"}), ("2" * 40, {"shared": "s", "two": "y"})):
        (root / "snapshots" / commit).mkdir(parents=True)
        (root / "blobs").mkdir(exist_ok=True)
        for name, blob in files.items():
            (root / "blobs" / blob).write_text(blob)
            (root / "snapshots" / commit / name).symlink_to(root / "blobs" / blob)
    (root / "refs").mkdir()
    for branch, commit in (("step1", "1" * 40), ("step2", "2" * 40)):
        (root / "refs" / branch).write_text(commit)
    scan = history.scan_cache_dir
    monkeypatch.setattr(history, "scan_cache_dir", lambda: scan(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert history_of("a/b").steps == (1, 2)
    assert history._fetched("a/b") == {"1" * 40, "2" * 40}
    history._remove("a/b", {"2" * 40})
    assert history._fetched("a/b") == {"1" * 40}
    assert sorted(path.name for path in (root / "blobs").iterdir()) == ["s", "x"]
    assert history._fetched("a/c") == set()
