"""What the pretrained models look like to headscope, by commands: docs/real-models.md.

    python -m tools.real_models run             every command on every model that `make real` fetched
    python -m tools.real_models page            the page, from what they printed    (make real-models: both)
    python -m tools.real_models measure NAME    what no verb of headscope says, as JSON: layers removed, first tokens,
                                                one head ablated

What a command printed is kept in `runs/real-models`, with the processor time that it took, and not run again: remove
a file to have it made anew. Every number of the page is read from there, and whether a published claim holds is for a
line of code to decide. Not done here: claims with nulls and intervals (`headscope study`).
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch
from tools.real import ROOT, SOURCES, folder_of
from tools.real_models_page import page

import headscope as hs
from headscope.detectors import default_prompts, detect, pairs
from headscope.detectors.copying import INDUCTION
from headscope.detectors.reading import MassReading
from headscope.models.model import Model
from headscope.sweeps import Cell, evaluate

KEPT = ROOT / "runs" / "real-models"
PAGE = ROOT / "docs" / "real-models.md"
HALF = 0.5


def commands(name: str) -> dict[str, list[str]]:
    """What is run on a model, as a user writes it."""
    folder = f"real/{SOURCES[name].folder}"
    return {
        "check": ["headscope", "check", folder],
        "heads": ["headscope", "heads", folder],
        "measure": ["python", "-m", "tools.real_models", "measure", name],
    }


def run(name: str, what: str) -> None:
    """One command, its JSON kept with what it cost."""
    kept = KEPT / f"{name}-{what}.json"
    if kept.exists():
        return
    command = commands(name)[what]
    words = [str(folder_of(name)) if word.startswith("real/") else word for word in command]
    python = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "headscope.cli.main"]
    as_json = [] if what == "measure" else ["--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*python, *words[1:], *as_json], stdout=subprocess.PIPE, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = {"command": " ".join(command), "cpu_seconds": cpu_seconds, "told": json.loads(done.stdout)}
    KEPT.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(told), encoding="utf-8")
    os.replace(part, kept)
    print(f"{told['command']}: {cpu_seconds:.0f} CPU-seconds", file=sys.stderr, flush=True)


def measured(name: str, n: int) -> dict[str, Any]:
    """Layers removed, attention to the first token, and the head that writes most ablated."""
    torch.set_num_threads(1)
    model = hs.load(folder_of(name))
    return {"n": n, "removed": removed(model, n), "first_token": first_token(model, n), "ablated": ablated(model, n)}


def removed(model: Model, n: int) -> list[float]:
    """How many times as large the perplexity on prose is without each layer (its attention and its MLP)."""
    prose = hs.tasks.natural(model, n=n)
    cells = [Cell((hs.zero(("attn_out", layer)), hs.zero(("mlp_out", layer)))) for layer in range(model.n_layers)]
    table = hs.sweep(model, prose, cells, hs.measures.loss())
    clean = float(evaluate(model, prose, [hs.measures.loss()])[0].mean())
    return [math.exp(row["value"] - clean) for row in table.rows()]


def first_token(model: Model, n: int) -> dict[str, dict[str, float]]:
    """Mean attention to the first token of every head that gives it over half, by kind of prompts."""
    shown = {
        "prose": hs.tasks.natural(model, n=n),
        "random tokens, twice": hs.tasks.repeated_tokens(model, length=25, repeats=2, n=n),
        "random tokens, four times": hs.tasks.repeated_tokens(model, length=25, repeats=4, n=n),
    }
    found: dict[str, dict[str, float]] = {}
    for kind, prompts in shown.items():
        reading = MassReading([pairs.first_token(prompts)])
        model.read(prompts, [reading])
        every = {head: float(reading.mass[head.layer][0][:, head.index].mean()) for head in model.heads}
        found[kind] = {str(head): mass for head, mass in every.items() if mass > HALF}
    return found


def ablated(model: Model, n: int) -> dict[str, Any]:
    """The induction head that raises most what it attends to, mean-ablated: the losses, and what others then write.

    The mean is that over prompts in which nothing repeats.
    """
    prompts = default_prompts(model, n=n)
    before = {row["head"]: row for row in detect(model, [INDUCTION], prompts=prompts).rows()}
    head = max((row for row in before.values() if row["kind"] == INDUCTION), key=lambda row: row["copying"])["head"]
    edit = hs.mean(head, over=prompts.unrepeated)
    after = {row["head"]: row for row in detect(model, [INDUCTION], prompts=prompts, interventions=[edit]).rows()}
    others = [name for name, row in before.items() if row["named"] and name != head]
    asked = {
        "repeated": (prompts.repeated, hs.measures.loss("predictable")),
        "prose": (prompts.natural, hs.measures.loss()),
    }
    raised = {}
    for kind, (shown, loss) in asked.items():
        clean, cut = (evaluate(model, shown, [loss], edits)[0] for edits in ((), (edit,)))
        change = hs.measures.interval((cut - clean).double().numpy())
        raised[kind] = [float(each) for each in (change.mean, change.low, change.high)]
    wrote = {name: [before[name]["copying"], after[name]["copying"]] for name in others}
    return {"head": head, "raised": raised, "wrote": wrote}


def kept() -> dict[str, Mapping[str, Any]]:
    """What the commands printed, by model and kind."""
    return {
        name: {
            what: json.loads((KEPT / f"{name}-{what}.json").read_text(encoding="utf-8")) for what in commands(name)
        }
        for name in SOURCES
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "page", "measure"))
    parser.add_argument("name", nargs="?", choices=SOURCES)
    parser.add_argument("--n", type=int, default=16)
    given = parser.parse_args()
    if given.verb == "measure":
        print(json.dumps(measured(given.name, given.n)))
    elif given.verb == "page":
        PAGE.write_text(page(kept()), encoding="utf-8")
    else:
        absent = [name for name in SOURCES if not folder_of(name).is_dir()]
        if absent:
            print(f"{absent[0]} not fetched: make real", file=sys.stderr)
            return 3
        for name in SOURCES:
            for what in commands(name):
                run(name, what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
