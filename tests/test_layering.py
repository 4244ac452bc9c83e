"""Data flows one way: each package imports only from those that stand before it. And few names are public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import headscope as hs

PACKAGE = Path(hs.__file__).parent
# The order of the data flow; a package may import from any that stands before it, and from itself.
ORDER = [
    ["errors"],
    ["vocabulary"],
    ["hashing"],
    ["tables"],
    ["zoo"],  # data, with a file that finds it
    ["tasks"],
    ["architectures"],
    ["models"],
    ["interventions"],
    ["measures"],
    ["detectors"],
    ["training"],
    ["sweeps"],
    ["results"],
    ["figures"],
    ["evidence"],
    ["report"],
    ["studies"],
    ["explorer"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """The parts of headscope that a module imports, `from headscope import x` included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "headscope":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("headscope.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = part_of(path)
    assert own in RANK, f"{own} has no place in the order"
    tree = ast.parse(path.read_text())
    wrong = {name for name in imported(tree) if RANK.get(name, -1) > RANK[own]}
    assert not wrong, f"{own} imports {wrong}, which stand after it"


def test_every_folder_has_its_place():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_are_short_and_explain_themselves(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module starts by saying what goes in and what comes out"
    assert text.count("\n") <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno <= 60, f"{node.name} does not fit a screen"
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inner or part_of(path) == "cli", f"{node.name} imports inside"


def test_public_names_are_few_and_known():
    assert sorted(hs.__all__) == [
        "Head",
        "Model",
        "Prompts",
        "Run",
        "Study",
        "add",
        "detect",
        "errors",
        "fixed_offset",
        "freeze_pattern",
        "grid",
        "interventions",
        "knock_out",
        "load",
        "mean",
        "measures",
        "patch",
        "path_patch",
        "resample",
        "set_pattern",
        "study",
        "sweep",
        "tasks",
        "to_bos",
        "top_heads",
        "zero",
    ]
    assert all(hasattr(hs, name) for name in hs.__all__)
    assert set(hs._HOME) == set(hs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'zeroo'"):
        hs.zeroo  # noqa: B018


def test_the_package_and_its_help_load_no_model_library():
    code = "import sys, headscope, headscope.cli.main as m; m.build(None); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
