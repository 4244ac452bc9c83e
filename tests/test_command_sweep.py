"""`headscope sweep` and `headscope runs`: any grid from the command line, resumable, refused in one sentence."""

import json

import polars as pl
import pytest

from headscope.cli.sweep_parts import axis
from headscope.errors import BadArgument
from tests import tiny
from tests.test_command import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    tiny.build("gpt2").save_pretrained(path)
    return str(path)


def test_every_head_is_cut_and_kept(folder, tmp_path):
    out = tmp_path / "run"
    words = ("sweep", folder, "--heads", "all", "--n", "6", "--length", "6", "--out", str(out), "--json", "-q")
    first = run(*words)
    assert first.exit_code == 0, first.output
    rows = json.loads(first.stdout)["sweep"]
    assert [(row["layer"], row["head"]) for row in rows] == [(i, f"{i}.{h}") for i in range(3) for h in range(4)]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    again = json.loads(run(*words).stdout)["sweep"]
    assert {row["path"] for row in again} == {"record"}
    assert [row["value"] for row in again] == [row["value"] for row in rows]
    assert pl.read_parquet(out / "sweep.parquet").height == 12
    assert json.loads((out / "sweep.json").read_text())[0]["name"] == "layer"
    listed = json.loads(run("runs", str(tmp_path), "--json").stdout)
    assert [(one["kind"], one["state"]) for one in listed] == [("sweep", "complete")]
    assert "complete" in run("runs", str(tmp_path)).stdout


def test_an_interval_that_is_undefined_says_so(folder):
    shown = run("sweep", folder, "--heads", "all", "--n", "3", "--length", "6", "-q").stdout
    assert shown.count("undefined: fewer than 5 prompts") == 12


@pytest.mark.parametrize("do", ["zero", "mean", "resample", "to_bos"])
@pytest.mark.parametrize("prompts", ["repeated", "pairs", "natural"])
def test_every_deed_works_on_every_kind_of_prompts(folder, do, prompts):
    found = run(
        "sweep", folder, "--do", do, "--prompts", prompts, "--layers", "1", "--heads", "0,2-3", "--n", "6", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert [row["head"] for row in json.loads(found.stdout)["sweep"]] == ["1.0", "1.2", "1.3"]


def test_a_patch_over_layers_and_positions(folder):
    found = run(
        "sweep", folder, "--do", "patch", "--at", "resid_pre", "--positions", "all", "--prompts", "pairs", "--n", "6",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "logit_difference" in found.stdout


def test_prompts_come_from_a_file(folder, tmp_path):
    shown = [
        {"tokens": [0, 5, 6, 7], "answer": 9, "foil": 3, "roles": {"subject": [1, -2], "verb": -1}},
        {"tokens": [0, 8, 6, 7], "answer": 2, "foil": 4, "roles": {"subject": [1]}},
    ] * 3
    clean, other = tmp_path / "clean.json", tmp_path / "other.json"
    clean.write_text(json.dumps(shown))
    other.write_text(json.dumps([{**one, "tokens": [0, 9, 9, 9]} for one in shown]))
    words = ["sweep", folder, "--prompts", str(clean), "--measure", "logit_difference", "--json"]
    found = run(*words, "--do", "patch", "--at", "resid_post", "--positions", "1", "--reference", str(other))
    assert found.exit_code == 0, found.output
    assert [row["layer"] for row in json.loads(found.stdout)["sweep"]] == [0, 1, 2]
    refused = run(*words, "--do", "patch", "--at", "resid_post")
    assert refused.exit_code == 2
    assert "--reference" in refused.output


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("{}", "no list of examples"),
        ("[{}]", "example 0: it must be an object with either"),
        ('[{"tokens": [1.5]}]', "no list of whole numbers"),
        ('[{"tokens": [1], "role": {}}]', "it has 'role'"),
        ('[{"tokens": [1, 2], "roles": {"a": [5]}}]', "the role 'a' has positions"),
        ('[{"tokens": [1, 2], "answer": 3}, {"tokens": [1, 2]}]', "example 1: its answer None is not one token"),
        ('[{"text": "hello"}]', "loaded without a tokenizer"),
        ("[", "it is no JSON"),
    ],
)
def test_a_bad_file_is_one_sentence(folder, tmp_path, wrong, words):
    path = tmp_path / "prompts.json"
    path.write_text(wrong)
    found = run("sweep", folder, "--prompts", str(path))
    assert found.exit_code == 2
    assert words in " ".join(found.output.split())
    assert "Traceback" not in found.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--do", "zap"], "no intervention named 'zap'"),
        (["--measure", "los"], "did you mean 'loss'"),
        (["--layers", "0-"], "cannot read --layers"),
        (["--layers", "9"], "there is no layer 9"),
        (["--prompts", "poems"], "no kind of prompts named 'poems'"),
        (["--n", "0"], "at least 1"),
        (["--at", "resid_prae"], "did you mean 'resid_pre'"),
    ],
)
def test_bad_options_are_one_sentence(folder, tmp_path, words, told):
    found = run("sweep", folder, *words, "--out", str(tmp_path / "out"))
    assert found.exit_code == 2, found.output
    assert told in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_runs_nothing(folder, tmp_path):
    found = run("sweep", folder, "--heads", "all", "--n", "6", "--dry-run", "--out", str(tmp_path / "x"))
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("12 cells on 6 prompts")
    assert not (tmp_path / "x").exists()
    told = json.loads(run("sweep", folder, "--heads", "all", "--n", "6", "--dry-run", "--json").stdout)
    assert 0.3 < told["share"] < 1


def test_axes_are_numbers_and_spans():
    assert axis("all", "--layers") == "all"
    assert axis("3, 0,5-6", "--layers") == [3, 0, 5, 6]
    for odd in ("", "a", "3-1", "-1"):
        with pytest.raises(BadArgument, match="cannot read --heads"):
            axis(odd, "--heads")


def test_runs_of_nothing(tmp_path):
    assert "No runs" in run("runs", str(tmp_path)).stdout
    missing = run("runs", str(tmp_path / "nowhere"))
    assert missing.exit_code == 2
    assert "no such folder" in missing.output
