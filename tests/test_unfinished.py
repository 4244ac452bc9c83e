"""A study that is killed goes on: nothing that was on the disk is computed again, and the result is the same."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import headscope as hs
from headscope.models.kept import Keeper, kept
from headscope.results import unfinished
from headscope.results.unfinished import Unfinished, going_on, unfinished_of
from headscope.studies import registry
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.execute import run_by_part
from headscope.sweeps.final_token import final_token_run
from headscope.sweeps.sweep import Sweep
from tests.counted import counting
from tests.test_full_disk import no_file_larger_than

MODEL = "zoo:induction-2l"
# The study in a process of its own, killed when the layers have been called so many times.
KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
import headscope as hs
from headscope.results import unfinished
from headscope.studies.registry import study
from tests.counted import counting
unfinished.PART_SECONDS = 0.0
out, most = sys.argv[1], int(sys.argv[2])
model = hs.load("zoo:induction-2l")
def stop(work):
    if work.calls >= most:
        print(work.layer_tokens, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
with counting(model, stop):
    study("heads", model=model, out=out, quick=True)
"""


def parts_of(study):
    """Tables and claims, bit for bit."""
    return [each.frame for each in study.tables.values()], [str(claim) for claim in study.claims]


def assert_same(one, other):
    for mine, theirs in zip(parts_of(one)[0], parts_of(other)[0], strict=True):
        assert mine.equals(theirs)
    assert parts_of(one)[1] == parts_of(other)[1]


@pytest.fixture(scope="module")
def whole():
    """The study in one go, and the work that it is."""
    model = hs.load(MODEL)
    with counting(model) as work:
        return registry.study("heads", model=model, quick=True), work


def test_after_kill_9_a_study_goes_on_with_the_same_result(whole, tmp_path, capfd):
    study, total = whole
    out = tmp_path / "run"
    words = [sys.executable, "-c", KILLED, str(out), str(total.calls * 2 // 3)]
    killed = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    before = int(killed.stdout.split()[-1])
    model = hs.load(MODEL)
    with counting(model) as after:
        again = registry.study("heads", model=model, out=out, quick=True)
    assert_same(study, again)
    assert not unfinished_of(out).exists()
    # Beyond what was to do are the base run of the sweep that was under way, what shared its unembedding, and
    # single passes of which nothing is kept (means, sources of patches).
    assert before + after.layer_tokens - total.layer_tokens < 0.12 * total.layer_tokens
    assert after.layer_tokens < 0.6 * total.layer_tokens


def test_what_is_finished_is_not_run_at_all(tmp_path):
    model = hs.load(MODEL)
    prompts = hs.tasks.repeated_tokens(model, length=5, repeats=2, n=6, seed=0)
    cells = hs.grid(hs.zero("z"), layers="all", heads="all").cells(model.n_layers, model.heads, prompts.longest)
    measure = hs.measures.loss("predictable")
    with going_on(tmp_path / "run"):
        first = cell_values(model, prompts, cells, measure)
    other = hs.load(MODEL)
    with going_on(tmp_path / "run") as store, counting(other) as work:
        assert cell_values(other, prompts, cells, measure).equal(first)
        assert store.taken == len(cells)
    assert not work.calls
    with going_on(tmp_path / "run"), counting(other) as work:
        cell_values(other, hs.tasks.repeated_tokens(model, length=5, repeats=2, n=6, seed=1), cells, measure)
        cell_values(other, prompts, cells, hs.measures.next_logit("predictable"))
    assert work.calls


def test_a_sweep_that_stops_in_the_middle_has_the_values_of_one_that_does_not(tmp_path, monkeypatch):
    model = hs.load("zoo:induction-2l")
    model.memory_bytes = 2**22  # several parts of the prompts
    prompts = hs.tasks.repeated_tokens(model, length=12, repeats=2, n=40, seed=0)
    cells = hs.grid(hs.zero("z"), layers="all", heads="all").cells(model.n_layers, model.heads, prompts.longest)
    measure = hs.measures.loss("predictable")
    expected = cell_values(model, prompts, cells, measure)
    monkeypatch.setattr(unfinished, "PART_SECONDS", 0.0)
    steps = 0

    def stopping(stage, done, of):
        nonlocal steps
        steps += 1
        if steps == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), going_on(tmp_path / "run"):
        cell_values(model, prompts, cells, measure, progress=stopping)
    assert steps == 12
    with going_on(tmp_path / "run") as store:
        assert cell_values(model, prompts, cells, measure).equal(expected)
        assert store.taken >= 10


def test_what_shares_an_unembedding_is_never_run_in_part():
    # Rounding depends on what runs side by side: beside one that is left, a cell that is done runs again, untold.
    model = hs.load(MODEL)
    prompts = hs.tasks.repeated_tokens(model, length=5, repeats=2, n=6, seed=0)
    cells = hs.grid(hs.zero("z"), layers="all", heads="all").cells(model.n_layers, model.heads, prompts.longest)
    sweep = Sweep(model, prompts, cells, hs.measures.loss("predictable"))
    list(run_by_part(sweep))  # whose kind of cell is checked now
    with counting(model) as whole:
        list(run_by_part(sweep))
    with counting(model) as part:
        told = [result.index for _, result in run_by_part(sweep, lambda index, rows: index == 0)]
    assert sorted(told) == list(range(1, len(cells)))
    assert part.layer_tokens == whole.layer_tokens


def test_a_torn_file_is_ignored(tmp_path):
    folder = tmp_path / "run.unfinished"
    store = Unfinished(folder)
    store.put("a", {"0": np.arange(3)})
    store.flush()
    (path,) = folder.glob("*.npz")
    path.with_name("9-000009.npz").write_bytes(path.read_bytes()[:-40])
    read = Unfinished(folder)
    assert read.take("a")["0"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:60])
    assert Unfinished(folder).take("a") is None
    read.remove()
    assert not folder.exists()


def test_a_full_disk_keeps_the_study_going(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "PART_SECONDS", 0.0)
    model = hs.load(MODEL)
    warned = pytest.warns(UserWarning, match="the study goes on")
    with going_on(tmp_path / "run"), no_file_larger_than(100), warned as said:
        values = [kept("test", model, [k], lambda: [torch.zeros(1000)]) for k in range(3)]
    assert len(values) == 3
    assert len(said) == 1  # once


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    out = tmp_path / "run"
    other = unfinished_of(out)
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    with pytest.raises(hs.errors.OutputExists, match="it holds something else"):
        registry.study("heads", model=MODEL, out=out, quick=True)
    assert (other / "letter.txt").read_text() == "mine"


def test_removal_leaves_what_is_not_ours(tmp_path):
    store = Unfinished(tmp_path / "run.unfinished")
    store.put("a", {"0": np.arange(3)})
    store.flush()
    (store.folder / "letter.txt").write_text("mine")
    store.remove()
    assert [path.name for path in store.folder.iterdir()] == ["letter.txt"]


def test_runs_that_end_in_the_same_token_are_told_apart():
    model = hs.load(MODEL)
    # Their final tokens are alike, what came before is not.
    one, other = (hs.Prompts.of([[1, first, 7], [1, first + 1, 8]]) for first in (2, 4))
    ours, theirs = (
        hs.patch(("resid_pre", 1), source=final_token_run(model, each), positions={-1: -1}) for each in (one, other)
    )
    assert ours != theirs


def test_interventions_around_and_versions_are_part_of_a_name(tmp_path, monkeypatch):
    model = hs.load(MODEL)
    with going_on(tmp_path / "run"):
        Keeper("test", model).put([torch.ones(1)])
    with going_on(tmp_path / "run"):
        assert Keeper("test", model).take()[0].tolist() == [1.0]
        assert Keeper("other", model).take() is None
        with model.editing(hs.zero("0.0")):
            assert Keeper("test", model).take() is None
        monkeypatch.setattr("headscope.models.kept.versions", lambda: {"headscope": "0"})
        assert Keeper("test", model).take() is None
    with nullcontext():
        assert not Keeper("test", model).keeps
