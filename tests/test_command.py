"""The command: results on stdout, one sentence and exit code 2 for what a user did wrong."""

import json
import subprocess
import sys

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

import headscope as hs
from headscope.cli import heads, main
from headscope.cli.common import bytes_of
from headscope.cli.main import VERBS, build
from headscope.cli.progress import progress_bar
from headscope.errors import BadArgument, system_errors
from headscope.tables import Column, Schema
from tests import tiny

TOLD = (("head", pl.String), ("detector", pl.String), ("score", pl.Float64), ("named", pl.Boolean))


def run(*words, env=None):
    return CliRunner().invoke(build(words[0] if words else None), list(words), env=env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    tiny.build("gpt2").save_pretrained(path)
    return path


def test_every_verb_has_help():
    for verb in VERBS:
        result = run(verb, "--help")
        assert result.exit_code == 0, result.output
        assert VERBS[verb].split(":")[0][:30] in " ".join(result.output.split()) or verb == "study"


def test_models_lists_the_zoo():
    cards = json.loads(run("models", "--json").stdout)
    assert "induction-2l" in {card["name"] for card in cards}
    assert "zoo:induction-2l" in run("models").stdout


def test_heads_prints_the_table_of_any_folder(folder, tmp_path):
    out = tmp_path / "heads.csv"
    result = run("heads", str(folder), "--n", "16", "--detector", "induction,lookback:2", "--json", "--out", str(out))
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["heads"]
    assert len(rows) == 24
    assert {row["detector"] for row in rows} == {"induction", "lookback:2"}
    assert len(out.read_text().splitlines()) == 25


def test_heads_tells_each_stage_on_stderr_alone(folder):
    words = ["heads", str(folder), "--n", "16", "--detector", "induction,bos"]
    result = run(*words, "--json")
    assert json.loads(result.stdout)["heads"]
    stages = [
        f"opening {folder} ...",
        "reading attention on natural prompts ...",
        "reading attention on repeated prompts ...",
        "reading attention on prompts in which nothing repeats ...",
        "reading what heads write ...",
        "bounding scores ...",
    ]
    assert result.stderr.splitlines() == stages
    assert run(*words).stdout.startswith("head")
    narrow = run(*words, "--json", env={"COLUMNS": "20"})
    assert narrow.stderr.splitlines() == stages  # a line of a log is a line
    assert run(*words, "--quiet", "--json").stderr == ""
    check = run("check", str(folder), "--json")
    assert check.stderr.splitlines() == [f"opening {folder} ...", f"checking {folder} ..."]
    assert json.loads(check.stdout)["passed"]


def test_what_is_left_of_a_stage_of_heads_is_estimated(folder):
    heard = []
    model = hs.load(folder)
    hs.detect(model, "bos", n=16, progress=lambda *said: heard.append(said))
    read = [said for said in heard if said[0] == "reading attention on natural prompts"]
    assert [done for _, done, _ in read] == [0, 16, 32, 48]  # three layers of 16 prompts
    assert {of for *_, of in read} == {48}
    model.memory_bytes = 1
    heard.clear()
    hs.detect(model, "bos", n=16, progress=lambda *said: heard.append(said))
    assert [done for stage, done, _ in heard if "natural" in stage] == list(range(49))


def test_check_tells_what_holds_and_what_is_refused(folder):
    told = json.loads(run("check", str(folder), "--json").stdout)
    assert told["passed"]
    assert told["refused"] == []
    assert {"logits_identical", "generation"} <= {check["name"] for check in told["checks"] if check["passed"]}
    shown = run("check", str(folder))
    assert shown.exit_code == 0
    assert "Everything that this model has is served." in shown.stdout


def test_heads_for_people_names_the_shipped_models_heads():
    result = run("heads", "zoo:induction-2l", "--n", "16")
    assert result.exit_code == 0, result.output
    starred = [line for line in result.stdout.splitlines() if "*" in line]
    assert any(line.startswith("1.") for line in starred)
    assert "matched null" in result.stderr


def test_heads_for_people_stay_few_where_nearly_all_are_named(monkeypatch):
    # As in SmolLM2, where 246 of 270 heads are named, most of them as resting on the first token.
    schema = Schema("heads", tuple(Column(n, t, n) for n, t in TOLD))
    rows = [(f"{i // 9}.{i % 9}", kind, 1 - i / 100, i < 80) for i in range(90) for kind in ("induction", "bos")]
    table = schema.table([dict(zip(("head", "detector", "score", "named"), row, strict=True)) for row in rows])
    names = [f"{i // 9}.{i % 9}" for i in range(90)]
    shown, why = heads._shown(table, ["induction", "bos"], names)
    assert shown == set(names[:32])
    assert "below the 32 highest" in why
    monkeypatch.setattr(heads, "MOST_ROWS", 80)
    assert heads._shown(table, ["induction", "bos"], names) == (set(names[:80]), "named by nothing")
    assert heads._shown(table, ["induction", "bos"], names[:70]) == (set(names[:70]), "")


def test_study_writes_a_report_and_prints_json(folder, tmp_path):
    out = tmp_path / "run"
    result = run("study", "heads", "--model", str(folder), "--quick", "--json", "--quiet", "--out", str(out))
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["report"] == str(out / "report.html")
    assert (out / "report.html").is_file()
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["heads", "zoo:none"], "no zoo model named 'none'"),
        (["heads", "MODEL", "--detector", "inducton"], "did you mean 'induction'"),
        (["heads", "MODEL", "--n", "15"], "at least 16"),
        (["heads", "MODEL", "--seed", "-1"], "seed -1"),
        (["heads", "MODEL", "--gap", "500"], "smaller --gap"),
        (["heads", "MODEL", "--detector", "lookback:64"], "context of"),
        (["heads", "MODEL", "--out", "UNDERFILE"], "cannot write"),
        (["study", "heads", "--model", "MODEL", "--out", "UNDERFILE"], "cannot write"),
        (["study", "heads", "--model", "nowhere", "--followed", "0", "--out", "OUT"], "followed=0"),
        (["heads", "MODEL", "--memory", "lots"], "cannot read the size 'lots'"),
        (["heads", "MODEL", "--device", "gpu"], "write cpu, cuda"),
        (["heads", "MODEL", "--dtype", "int4"], "write auto, float32"),
        (["heads", "MODEL", "--text", "nowhere.txt"], "cannot read the text file"),
        (["heads", "MODEL", "--out", "table.xlsx"], ".parquet or .csv"),
        (["study", "heads", "--model", "MODEL", "--n", "15", "--out", "OUT"], "at least 16"),
        (
            ["study", "heads", "--model", "MODEL", "--text", "nowhere.txt", "--out", "OUT"],
            "cannot read the text file",
        ),
        (["study", "heads", "--model", "MODEL", "--out", "FULL"], "not a run of headscope"),
        (["train", "induction-4l", "--out", "OUT"], "did you mean 'induction-"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(folder, tmp_path, words, sentence):
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    under = str(full / "notes.txt" / "x.csv")
    places = {"UNDERFILE": under, "MODEL": str(folder), "OUT": str(tmp_path / "out"), "FULL": str(full)}
    result = run(*[places.get(word, word) for word in words])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) <= 1 + sum(line.endswith("...") for line in lines), result.stderr
    assert sentence in lines[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_explicit_options_win_over_quick_and_are_recorded(folder, tmp_path):
    out = tmp_path / "run"
    words = ["--model", str(folder), "--quick", "--n", "17", "--dtype", "float32", "--device", "cpu"]
    result = run("study", "heads", *words, "--quiet", "--out", str(out))
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["n"] == 17
    assert manifest["settings"]["followed"] == 2
    assert "--device cpu --dtype float32 --n 17" in manifest["command"]


def test_an_interruption_and_a_full_disk_are_no_tracebacks(folder, monkeypatch, capsys):
    def interrupted(verb):
        raise KeyboardInterrupt

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heads, "detect", full)
    result = run("heads", str(folder), "--n", "16")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    monkeypatch.setattr(main, "build", interrupted)
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 130
    assert capsys.readouterr().err == "headscope: interrupted.\n"


def test_a_disk_that_fills_up_while_a_study_runs_costs_nothing(folder, monkeypatch, tmp_path):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headscope.results.folder._fill", full)
    words = ["--model", str(folder), "--quick", "--n", "17", "--out", str(tmp_path / "run"), "--quiet"]
    result = run("study", "heads", *words, "--json")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("headscope: cannot write")
    assert result.stderr.count("\n") == 1
    told = json.loads(result.stdout)
    assert told["claims"]
    assert told["report"] is None
    assert "Report:" not in (shown := run("study", "heads", *words)).stdout
    assert told["question"] in shown.stdout


def test_a_full_disk_is_an_error_of_the_system_whoever_tells_of_it(monkeypatch, tmp_path):
    def full(self, path):
        raise pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    table = Schema("numbers", (Column("n", pl.Int64, "a number"),)).table([{"n": 1}])
    with pytest.raises(OSError, match="No space left") as caught:
        table.write_parquet(tmp_path / "numbers.parquet")
    assert caught.value.errno == 28
    with pytest.raises(pl.exceptions.ComputeError, match="what"), system_errors():
        raise pl.exceptions.ComputeError("what is not of the system")


def test_a_short_text_is_told(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("ba be bi bo bu " * 100)
    result = run("heads", "zoo:induction-2l", "--n", "20", "--text", str(text), "--detector", "bos")
    assert result.exit_code == 0, result.output
    assert "natural prompts of 64 tokens, not 20" in result.stderr
    text.write_text("ba be bi bo bu " * 20)
    result = run("heads", "zoo:induction-2l", "--n", "20", "--text", str(text), "--detector", "bos")
    assert result.exit_code == 2
    assert "longer text" in result.stderr


def test_usage_errors_leave_with_2():
    assert run("heads").exit_code == 2
    assert run("study", "nothing").exit_code == 2
    done = subprocess.run([sys.executable, "-m", "headscope.cli.main", "fly"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command" in done.stderr


def test_sizes_are_read():
    assert bytes_of("1.5kb") == 1536
    with pytest.raises(BadArgument, match="for example 512MB"):
        bytes_of("-1GB")


def test_a_stage_is_told_as_it_begins_and_what_is_left_of_it_by_its_pace(monkeypatch, capsys):
    # 10 of 30 cells were there before; 2 more take 50 seconds, so the other 18 take 450.
    clock = [0.0]
    monkeypatch.setattr("headscope.cli.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("headscope.cli.progress.stderr", Console(stderr=True, force_terminal=False))
    with progress_bar(False) as tell:
        for seconds, done in ((0, 10), (1, 10), (25, 10), (30, 11), (50, 12), (51, 13), (500, 30)):
            clock[0] = float(seconds)
            tell("cells", done, 30)
        tell("figures", 0, 1)
    assert capsys.readouterr().err.splitlines() == [
        "cells ...",
        "cells: 10 of 30",
        "cells: 12 of 30, about 8 min left",
        "figures ...",
    ]


def test_a_terminal_shows_what_is_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("headscope.cli.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("headscope.cli.progress.stderr", Console(stderr=True, force_terminal=True, width=100))
    with progress_bar(False) as tell:
        tell("cells", 0, 4)
        clock[0] = 20.0
        tell("cells", 2, 4)
    assert "2/4" in (shown := capsys.readouterr().err)
    assert "about 20 s left" in shown
