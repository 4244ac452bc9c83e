"""A disk that fills up under every verb that writes: what is kept, and what to do next, in one sentence.

The limit is the system's own on the size of a file, so that writes fail where they really happen.
"""

import resource
from contextlib import contextmanager

import polars as pl
import pytest
from typer.testing import CliRunner

import headscope as hs
from headscope import training
from headscope.cli.main import build
from headscope.results.files import write_file, writing
from headscope.training import catalogue
from headscope.training.state import saved_stage
from headscope.training.tokenizer import word_tokenizer
from tests.test_training import TINY, assert_same_weights, finished  # noqa: F401  (a fixture)


@contextmanager
def no_file_larger_than(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 2_000, 5_000, 12_000])
def test_training_goes_on_where_a_full_disk_stopped_it(finished, tmp_path, size):  # noqa: F811
    whole, folder = finished[0], tmp_path / "run"
    with no_file_larger_than(size), pytest.raises((hs.errors.Partial, hs.errors.Unwritable)) as caught:
        training.train(TINY, folder)
    said = str(caught.value)
    assert said.startswith("cannot ")
    assert "File too large" in said
    assert "again" in said
    assert not list(folder.glob("*.part"))
    assert_same_weights(training.train(TINY, folder), whole)


def test_a_disk_that_stays_full_takes_nothing_from_an_unfinished_run(finished, tmp_path):  # noqa: F811
    whole, folder = finished[0], tmp_path / "run"

    def at_five(row):
        if row.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(TINY, folder, progress=at_five)
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 10, "tok')  # as a full disk leaves it
    for size in (0, 50):
        with (
            no_file_larger_than(size),
            pytest.raises(hs.errors.Partial, match="What was finished is kept; make room"),
        ):
            training.train(TINY, folder)
    assert saved_stage(folder).step == 5
    assert [row.step for row in training.history(folder)] == [0, 4, 5]
    assert_same_weights(training.train(TINY, folder), whole)
    assert [row.step for row in training.history(folder)] == [0, 4, 5, 10, 12]


def test_an_export_that_fails_leaves_what_was_there(finished, tmp_path):  # noqa: F811
    run, target = finished[0], tmp_path / "model"
    for _ in range(2):
        with (
            no_file_larger_than(1_500),
            pytest.raises(hs.errors.Unwritable, match="Make room there and run again") as e,
        ):
            training.export(run, target)
        assert f"The run in {str(run)!r} is as it was." in str(e.value)
        assert not list(target.iterdir())
    training.export(run, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with no_file_larger_than(1_500), pytest.raises(hs.errors.Unwritable):
        training.export(run, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_the_command_says_what_to_do_next(tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue._RECIPES, TINY.name, TINY)
    with no_file_larger_than(12_000):
        result = CliRunner().invoke(build("train"), ["train", TINY.name, "--out", str(tmp_path / "run"), "--quiet"])
    assert result.exit_code == 5, result.stderr
    assert result.stderr.count("\n") == 1
    assert "What was finished is kept; make room and run the same command again to go on." in result.stderr


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_cannot_be_written_is_one_sentence(tmp_path, suffix):
    frame, place = pl.DataFrame({"n": list(range(100_000))}), tmp_path / f"heads{suffix}"
    write = frame.write_csv if suffix == ".csv" else frame.write_parquet
    with no_file_larger_than(1_000), pytest.raises(hs.errors.Unwritable, match="Make room there and run again"):
        write_file(place, write)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_cannot_be_written_is_one_sentence(tmp_path):
    with no_file_larger_than(100), pytest.raises(hs.errors.Unwritable, match="File too large"), writing(tmp_path):
        word_tokenizer(TINY.data.words, 24).save_pretrained(tmp_path)
