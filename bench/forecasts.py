"""How well studies and sweeps are forecast: seconds and counts told before, and those really spent.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python bench/forecasts.py [ROW ...] [--out docs/forecasts.md]

A row is STUDY@MODEL, with settings after it by commas (bayes@zoo:linear-4l,n=60), sweep@MODEL, or gate@MODEL: what
stops a study of pairs on a model that does not do the task. Seconds are CPU-seconds of the process, on one thread.
Counts are tokens through all layers and through the unembedding, by hooks. Rows are appended to what is in the table
already; one of the same name takes its place.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.counted import counting

import headscope as hs
from headscope.measures import loss
from headscope.studies.bayes.problems import BayesSettings
from headscope.studies.context import Context
from headscope.studies.gate import gate_stage, pairs_gate
from headscope.studies.registry import entry
from headscope.sweeps import forecast
from headscope.sweeps.cell_values import cell_values
from headscope.sweeps.cost import cost_of

ROWS = (
    "heads@zoo:induction-2l",
    "heads@zoo:induction-3l",
    "bayes@zoo:linear-4l",
    "bayes@zoo:linear-8l",
    "redundancy@zoo:linear-4l",
    "vectors@zoo:linear-4l",
    "sweep@zoo:linear-8l",
)
HEAD = "| what | seconds told | CPU-seconds spent | told / spent | token-passes, same | unembedded, same |"


@dataclass(frozen=True)
class Told:
    """What was told before: seconds, token-passes, unembedded tokens (NaN where none was)."""

    seconds: float
    token_passes: float
    unembedded: float


def measured(row: str) -> str:
    """One row of the table."""
    what, _, rest = row.partition("@")
    source, *settings = rest.split(",")
    given = {name: int(value) if value.isdigit() else value for name, value in (s.split("=") for s in settings)}
    model = hs.load(source)
    assert model.certificate
    cost_of(model)
    told, run = {"sweep": _sweep, "gate": _gate}.get(what, _study)(what, model, given)
    with counting(model) as work:
        began = time.process_time()
        run()
        spent = time.process_time() - began
    parts = source.split("/")
    name = row.replace(source, parts[-1])
    ratios = (told.seconds / spent, told.token_passes / work.token_passes, told.unembedded / max(1, work.unembedded))
    return f"| {name} | {told.seconds:.1f} | {spent:.1f} | " + " | ".join(f"{each:.2f}" for each in ratios) + " |"


def _study(what: str, model: hs.Model, given: dict[str, Any]) -> tuple[Told, Any]:
    plan = entry(what)
    settings = plan.settings(**given).quick()
    before = plan.forecast(settings, model)
    passes, unembedded = (sum(getattr(s, name) for s in before.stages) for name in ("token_passes", "unembedded"))
    return Told(before.seconds, passes, unembedded), lambda: plan.run(settings, model)


def _gate(what: str, model: hs.Model, given: dict[str, Any]) -> tuple[Told, Any]:
    settings = BayesSettings(**given)
    stage = gate_stage(settings, model)
    told = Told(stage.seconds(cost_of(model)), stage.token_passes, stage.unembedded)
    return told, lambda: pairs_gate(Context(settings, (model,)))


def _sweep(what: str, model: hs.Model, given: dict[str, Any]) -> tuple[Told, Any]:
    size = {"length": 12, "repeats": 2, "n": 64, "seed": 0, **given}
    prompts, measure = hs.tasks.repeated_tokens(model, **size), loss("predictable")
    heads: Any = "all" if len(model.heads) < 100 else [0, 1, 2]
    cells = hs.grid(hs.zero("z"), layers="all", heads=heads).cells(model.n_layers, model.heads, prompts.longest)
    before = forecast(model, prompts, cells, measure)
    nothing = float("nan")
    return Told(before.seconds, nothing, nothing), lambda: cell_values(model, prompts, cells, measure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=ROWS)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines: dict[str, str] = {}
    if chosen.out is not None and chosen.out.exists():
        kept = [line for line in chosen.out.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
        lines = {line.split("|")[1].strip(): line for line in kept[1:]}
    for row in chosen.rows:
        line = measured(row)
        print(line, flush=True)
        lines[line.split("|")[1].strip()] = line
        if chosen.out is not None:
            page = ["# Forecasts, told and spent", "", "By `python bench/forecasts.py --out docs/forecasts.md`.", ""]
            table = [HEAD, "|" + "---|" * 6, *lines.values()]
            chosen.out.write_text("\n".join([*page, *table]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
