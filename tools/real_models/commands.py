"""What is run on each model, as a user writes it, and what it printed, kept with the processor time that it took.

In: the name of a model. Out: `runs/real-models/NAME-WHAT.json`, one file for each command. What is kept is not run
again: remove a file to have it made anew. A study that was stopped goes on from what it left beside its folder, and
its processor time is the sum over all runs that ended by themselves or by an error. One thread.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools.real import ROOT, SOURCES, folder_of
from tools.real_models import kinds, layers, objects, repair

from headscope.models.model import Model

PLACE = "runs/real-models"
KEPT = ROOT / PLACE
BUDGET = ["--budget", "15m"]
# Verbs of this package: from a model and what the model's commands before have left.
VERBS: dict[str, Callable[[Model, str], dict[str, Any]]] = {
    "measure": lambda model, name: layers.measured(model),
    "kinds": lambda model, name: kinds.costs(model, heads_of(name), read=READ[name]),
    "repair": lambda model, name: repair.repaired(model, read=READ[name]),
    "objects": lambda model, name: objects.recovered(model, keep_prompts=KEPT / f"{name}-prompts.json"),
}
READ = {"smollm2": 24, "gemma": 8}  # predicted tokens read in a prompt: one costs Gemma's 262,144 logits
_ADD_ONE = ["--a", "1..1", "--b", "1..1", "--inputs", "1..8"]
# The article's function; its own twelve pairs (--article) have one list of examples.
_ARTICLES = ["--a", "2..2", "--b", "3..3", "--inputs", "1..99"]
# Studies by the words that follow "headscope study NAME --model ...".
STUDIES: dict[str, tuple[str, list[str]]] = {
    "redundancy": ("redundancy", _ADD_ONE),
    "redundancy-past-tense": ("redundancy", ["--task", "past_tense"]),
    "redundancy-article": ("redundancy", _ARTICLES),
    "vectors": ("vectors", _ADD_ONE),
    "vectors-past-tense": ("vectors", ["--task", "past_tense"]),
    "vectors-article": ("vectors", _ARTICLES),
    "bayes-article": ("bayes", _ARTICLES),
    "heads-study": ("heads", []),
}


def commands(name: str) -> dict[str, list[str]]:
    """What is run on a model, as a user writes it, in an order in which each finds what it needs."""
    folder = f"real/{SOURCES[name].folder}"
    prompts = f"{PLACE}/{name}-prompts.json"
    return {
        "check": ["headscope", "check", folder],
        "heads": ["headscope", "heads", folder],
        **{verb: ["python", "-m", "tools.real_models", verb, name] for verb in VERBS},
        "top": ["headscope", "top", folder, "--k", "5", "--prompts", prompts, "--measure", "logit_difference"],
        **{
            what: ["headscope", "study", study, "--model", folder, *words, *BUDGET, "--out", f"{PLACE}/{name}-{what}"]
            for what, (study, words) in STUDIES.items()
        },
    }


def run(name: str, what: str) -> None:
    """One command, its JSON kept with what it cost."""
    kept, spent = KEPT / f"{name}-{what}.json", KEPT / f"{name}-{what}.seconds"
    if kept.exists():
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    command = commands(name)[what]
    before = float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
    began = _children_seconds()
    try:
        printed = _printed(name, command, as_json=what not in VERBS and what not in STUDIES)
    finally:
        seconds = before + _children_seconds() - began
        spent.write_text(str(seconds), encoding="utf-8")
    told = json.loads((KEPT / f"{name}-{what}" / "study.json").read_text("utf-8")) if what in STUDIES else None
    told = json.loads(printed) if told is None else without_tables(told)
    part = kept.with_suffix(".part")
    part.write_text(
        json.dumps({"command": " ".join(command), "cpu_seconds": seconds, "told": told}), encoding="utf-8"
    )
    os.replace(part, kept)
    spent.unlink()
    print(f"{' '.join(command)}: {seconds:.0f} CPU-seconds", file=sys.stderr, flush=True)


def without_tables(told: Mapping[str, Any]) -> dict[str, Any]:
    """A study's JSON without what its own folder keeps and the page does not show."""
    return {key: value for key, value in told.items() if key not in ("tables", "terms")}


def kept() -> dict[str, dict[str, Mapping[str, Any]]]:
    """What the commands printed, by model and kind; of one that has not been run, the command alone."""
    return {name: {what: _kept(name, what) for what in commands(name)} for name in SOURCES}


def heads_of(name: str) -> list[Mapping[str, Any]]:
    """The rows that `headscope heads` printed.

    Raises:
        SystemExit: if it was not run before.
    """
    told = _kept(name, "heads")
    if "told" not in told:
        raise SystemExit(
            f"cannot say what kinds of heads cost: first run {told['command']} (python -m {__package__} run)"
        )
    return list(told["told"]["heads"])


def _kept(name: str, what: str) -> Mapping[str, Any]:
    path: Path = KEPT / f"{name}-{what}.json"
    if not path.exists():
        return {"command": " ".join(commands(name)[what])}
    told: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told


def _printed(name: str, command: list[str], *, as_json: bool) -> bytes:
    words = [str(folder_of(name)) if word.startswith("real/") else word for word in command]
    python = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "headscope.cli.main"]
    full = [*python, *words[1:], *["--json"] * as_json]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(full, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environment).stdout


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
