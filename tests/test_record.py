"""A sweep survives what happens to its process: kills, a full disk, a second process, another command."""

import ast
import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import headscope as hs
from headscope.hashing import digest
from headscope.results import collect, record
from headscope.results.collect import sweep_batches
from headscope.results.runs import runs_in
from headscope.sweeps.sweep import Sweep
from tests import tiny

SLOW = """
import sys, time
import headscope as hs
from headscope.results import record
from tests import tiny
record.PART_SECONDS = 0.0
seen = record.Record.add
def slowly(self, *args):
    time.sleep(0.01)
    seen(self, *args)
record.Record.add = slowly
model = tiny.opened("llama")
source = tiny.ids(6, 8, seed=2)
cells = hs.grid(hs.patch("resid_pre", source=source), layers="all", positions="all")
print("go", flush=True)
hs.sweep(model, tiny.ids(6, 8), cells, hs.measures.loss(), out=sys.argv[1])
"""


@pytest.fixture(scope="module")
def llama():
    return tiny.opened("llama")


def asked(llama):
    cells = hs.grid(hs.patch("resid_pre", source=tiny.ids(6, 8, seed=2)), layers="all", positions="all")
    return llama, tiny.ids(6, 8), cells, hs.measures.loss()


def test_a_finished_sweep_is_not_run_again(llama, tmp_path, monkeypatch):
    first = hs.sweep(*asked(llama), out=tmp_path / "run")
    assert set(first.frame["path"]) == {"resumed"}
    monkeypatch.setattr(
        "headscope.results.collect.run_by_part", lambda sweep, _: pytest.fail("run again") if sweep.cells else ()
    )
    again = hs.sweep(*asked(llama), out=tmp_path / "run")
    assert set(again.frame["path"]) == {"record"}
    assert_frame_equal(first.frame.drop("path"), again.frame.drop("path"), abs_tol=0)
    kept = pl.read_parquet(tmp_path / "run" / "sweep.parquet")
    assert_frame_equal(kept, again.frame)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["headscope"] == "sweep"
    assert manifest["identity"] == llama.identity
    assert manifest["cells"] == 24
    assert [run.state for run in runs_in(tmp_path)] == ["complete"]


def test_another_grid_takes_what_is_there(llama, tmp_path):
    model, ids, cells, measure = asked(llama)
    part = hs.grid(cells.template, layers=[1], positions=[2, 5])
    hs.sweep(model, ids, part, measure, out=tmp_path)
    table = hs.sweep(model, ids, cells, measure, out=tmp_path)
    taken = table.frame.filter(pl.col("path") == "record")
    assert taken.select("layer", "position").rows() == [(1, 2), (1, 5)]
    assert_frame_equal(
        table.frame.drop("path"), hs.sweep(model, ids, cells, measure).frame.drop("path"), abs_tol=1e-6
    )


def test_ten_kills_at_random_moments_leave_the_same_table(llama, tmp_path):
    whole = hs.sweep(*asked(llama)).frame.drop("path")
    folder, rng = tmp_path / "run", random.Random(0)
    lost = done = 0
    for _ in range(10):
        with started(folder) as process:
            time.sleep(rng.uniform(0.02, 0.25))
            process.send_signal(signal.SIGKILL)
        before, done = done, finished(folder)
        assert done >= before, "finished cells are lost"
        lost += done < 24
    assert lost, "no kill came before the end: the test shows nothing"
    table = hs.sweep(*asked(llama), out=folder)
    assert_frame_equal(table.frame.drop("path"), whole, abs_tol=1e-6)
    assert set(table.frame["path"]) <= {"record", "resumed", "full pass"}
    assert not [path for path in folder.rglob(".headscope-*") if path.name != record.LOCK]


KILLED = """
import os, signal, sys
from headscope.results import record
from tests.test_record import in_17_parts
record.PART_SECONDS = 0.0
told = []
def progress(*at):
    told.append(at)
    if len(told) == 200:
        print(told, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
in_17_parts(out=sys.argv[1], progress=progress)
"""


def in_17_parts(**how):
    """A sweep of 24 cells whose memory holds one prompt at a time, under an edit that differs by prompt."""
    model = tiny.opened("llama")
    model.memory_bytes = 1
    cells = hs.grid(hs.patch("resid_pre", source=tiny.ids(17, 8, seed=2)), layers="all", positions="all")
    with model.editing(hs.patch(("mlp_out", 1), source=tiny.ids(17, 8, seed=3), positions=[2])):
        return hs.sweep(model, tiny.ids(17, 8), cells, hs.measures.loss(), **how)


def test_a_kill_among_17_parts_of_the_prompts_loses_no_finished_part_of_a_cell(tmp_path, monkeypatch):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    told = ast.literal_eval(killed.stdout.decode())
    assert told[0] == ("cells", 0, 24)
    assert [done for _, done, _ in told] == [pairs // 17 for pairs in range(200)], "progress stands still"
    finished = pairs_in(tmp_path)
    assert len(finished) == 199
    assert [run.state for run in runs_in(tmp_path)] == ["0 of 24 cells and some prompts of 24 more"]
    run, again = collect.run_by_part, []

    def watched(sweep, done):
        for rows, result in run(sweep, done):
            again.append((digest(result.cell), rows.start))
            yield rows, result

    monkeypatch.setattr("headscope.results.collect.run_by_part", watched)
    table = in_17_parts(out=tmp_path)
    assert len(again) == 24 * 17 - 199
    assert not finished & set(again), "finished parts of cells are run again"
    assert len(pairs_in(tmp_path)) == 24 * 17
    assert_frame_equal(table.frame.drop("path"), in_17_parts().frame.drop("path"), abs_tol=1e-6)


def test_parts_of_the_prompts_have_the_values_of_all_of_them_at_once(llama):
    model, prompts = tiny.opened("llama"), tiny.ids(17, 8)
    cells = hs.grid(hs.patch("resid_pre", source=tiny.ids(17, 8, seed=2)), layers="all", positions="all")
    with model.editing(hs.patch(("mlp_out", 1), source=tiny.ids(17, 8, seed=3), positions=[2])):
        whole = hs.sweep(model, prompts, cells, hs.measures.loss())
    assert_frame_equal(in_17_parts().frame, whole.frame, abs_tol=1e-6)


def pairs_in(folder):
    parts = pl.concat(map(pl.read_parquet, (folder / "parts").glob("[0-9]*.parquet")))
    return set(parts.select("cell", "example").rows())


def started(folder):
    """A process that sweeps slowly into the folder; leaving the block waits for its end."""
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"go\n"
    return process


def finished(folder):
    parts = list((folder / "parts").glob("[0-9]*.parquet"))
    return pl.concat(map(pl.read_parquet, parts))["cell"].n_unique() if parts else 0


def test_a_full_disk_leaves_what_is_done_and_says_how_to_go_on(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "PART_SECONDS", 0.0)
    write, count = record._write, []

    def full(path, fill):
        count.append(path)
        # In the words of polars, which has no OSError for it.
        said = pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")
        failing = path.suffix == ".parquet" and len(count) > 8
        return write(path, Mock(side_effect=said) if failing else fill)

    monkeypatch.setattr(record, "_write", full)
    with pytest.raises(hs.errors.Partial, match=r"No space left.*run the same command again") as caught:
        hs.sweep(*asked(llama), out=tmp_path)
    assert caught.value.exit_code == 5
    assert 0 < finished(tmp_path) < 24
    assert [run.state for run in runs_in(tmp_path)] == [f"{finished(tmp_path)} of 24 cells"]
    monkeypatch.setattr(record, "_write", write)
    table = hs.sweep(*asked(llama), out=tmp_path)
    assert_frame_equal(table.frame.drop("path"), hs.sweep(*asked(llama)).frame.drop("path"), abs_tol=1e-6)


def test_an_exception_keeps_what_is_done(llama, tmp_path):
    def stop(stage, done, of):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hs.sweep(*asked(llama), out=tmp_path, progress=stop)
    assert finished(tmp_path) == 5


def test_a_second_process_is_refused(llama, tmp_path):
    with started(tmp_path) as process:
        deadline = time.monotonic() + 20
        while not (tmp_path / "manifest.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGSTOP)  # it holds the folder, whatever the load of the machine
        try:
            with pytest.raises(hs.errors.OutputExists, match="another process is working on it"):
                hs.sweep(*asked(llama), out=tmp_path)
        finally:
            os.kill(process.pid, signal.SIGCONT)
    assert process.returncode == 0
    assert len(hs.sweep(*asked(llama), out=tmp_path)) == 24


def test_what_is_not_this_sweep_is_refused(llama, tmp_path):
    model, ids, cells, measure = asked(llama)
    hs.sweep(model, ids, cells, measure, out=tmp_path / "run")
    for other, words in (
        ((tiny.opened("llama", seed=4), ids, cells, measure), "other identity"),
        ((model, tiny.ids(6, 8, seed=9), cells, measure), "other prompts"),
        ((model, ids, cells, hs.measures.loss([3, 4])), "other measure"),
    ):
        with pytest.raises(hs.errors.OutputExists, match=words):
            hs.sweep(*other, out=tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(hs.errors.OutputExists, match="holds something else"):
        hs.sweep(model, ids, cells, measure, out=tmp_path / "mine")
    with pytest.raises(hs.errors.OutputExists, match="it is a file"):
        hs.sweep(model, ids, cells, measure, out=tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_prompts_are_added_until_the_interval_is_narrow(llama, tmp_path):
    cells = hs.grid(hs.zero("z"), layers="all", heads="all").cells(3, llama.heads, 8)

    measure = hs.measures.loss()

    def batch(number):
        return Sweep(llama, hs.Prompts.of(tiny.ids(8, 8, seed=50 + number)), cells, measure)

    one = sweep_batches(batch)
    widest = ((one.frame["high"] - one.frame["low"]) / 2).max()
    wanted = widest / 2
    table = sweep_batches(batch, precision=wanted, out=tmp_path)
    assert ((table.frame["high"] - table.frame["low"]) / 2).max() <= wanted
    assert table.frame["prompts"].n_unique() == 1
    assert table.frame["prompts"][0] >= 16
    again = sweep_batches(batch, precision=wanted, out=tmp_path)
    assert_frame_equal(again.frame.drop("path"), table.frame.drop("path"), abs_tol=0)
    assert len(json.loads((tmp_path / "manifest.json").read_text())["prompts"]) == table.frame["prompts"][0] / 8
    with pytest.raises(hs.errors.BadArgument, match="no others than these"):
        sweep_batches(lambda _: batch(0), precision=wanted)
    with pytest.raises(hs.errors.BadArgument, match="above 0"):
        sweep_batches(batch, precision=0.0)


def test_a_part_that_cannot_be_written_leaves_no_trace(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with contextlib.suppress(OSError):
        record._write(tmp_path / "a.parquet", fail)
    assert list(tmp_path.iterdir()) == []


def test_without_file_locks_a_record_is_refused_and_a_table_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("headscope.results.record.fcntl", None)
    model, cells = tiny.opened("gpt2"), hs.grid(hs.zero("z"), layers=[0], heads=[0])
    assert len(hs.sweep(model, tiny.ids(), cells, hs.measures.loss()))
    with pytest.raises(hs.errors.Unwritable, match="Leave out --out"):
        hs.sweep(model, tiny.ids(), cells, hs.measures.loss(), out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
