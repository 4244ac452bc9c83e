"""The README's example runs as it stands, and its map names what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs(capsys):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "torch.Size([101, 101])" in printed
    assert "zero 1.3" in printed


def test_the_example_of_a_claim_runs_and_says_what_the_page_says(capsys):
    page = (ROOT / "docs" / "evidence.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    exec(compile(example, "docs/evidence.md", "exec"), {})
    stated = re.search(r"# (supported [^.]*\.\d+ \[[^]]*\])", example)[1]
    assert stated in capsys.readouterr().out


def test_the_map_is_complete():
    listed = set(re.findall(r"^  ([a-z]+(?:/|\.py)) ", README, re.MULTILINE))
    package = ROOT / "src" / "headscope"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert listed == folders | modules
