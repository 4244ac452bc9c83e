"""The examples run as they are shown, and say what is so."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def printed(path, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


def rises(text):
    return {way.strip(): float(rise) for way, rise in re.findall(r"^  (.+?) +([+-]\d+\.\d+) \[", text, re.MULTILINE)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, monkeypatch, capsys):
    assert printed(path, monkeypatch, capsys)


def test_every_ablation_tells_a_previous_token_head_from_an_induction_head(monkeypatch, capsys):
    # The first acts through the patterns of others, the second through what it moves.
    (path,) = (path for path in EXAMPLES if path.stem == "every_ablation")
    previous = rises(printed(path, monkeypatch, capsys, "zoo:induction-2l", "0.3"))
    induction = rises(printed(path, monkeypatch, capsys, "zoo:induction-2l", "1.0"))
    assert len(previous) == 10
    assert previous["its output is zero"] > 3
    assert previous["zero, for later patterns alone"] > 3
    assert abs(previous["zero, all patterns kept"]) < 0.5
    assert induction["zero, all patterns kept"] == pytest.approx(induction["its output is zero"], abs=0.02)
    assert induction["zero, for later patterns alone"] == 0
    assert path.read_text().count("\n") < 45
