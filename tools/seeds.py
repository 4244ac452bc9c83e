"""Training repeated with other seeds, for intervals: scores by step are kept, weights are not.

    python -m tools.seeds RECIPE [--seeds 0 1 2 3 4] [--steps N] [--every 25] [--clamped] [--out DIR] [--runs DIR]

One seed at a time, on one thread; stopped anywhere, the same command goes on. `--clamped` knocks the induction edges
out from the beginning, in every layer but the first. What differs between seeds is how the model starts and which
text it reads; the language is the same. Scores are those of `headscope.training.evaluation`, on fixed probes of the
seed. The file is `src/headscope/zoo/seeds/RECIPE.json`, or `RECIPE-no-edges.json`:

    {"recipe": ..., "seeds": {"0": {"step": [0, 25, ...], "prefix_matching": [...], ...}, ...}}
"""

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from headscope import training, zoo
from headscope.training import Recipe
from headscope.training.clamping import Clamp

OUT = Path(zoo.__file__).parent / "seeds"
RUNS = Path("runs/seeds")
KEPT = (
    "step",
    "loss_nats",
    "icl_nats",
    "first_copy_nats",
    "second_copy_nats",
    "prefix_matching",
    "prefix_matching_null",
    "previous_token",
    "first_token",
)
NO_EDGES = "no-edges"


def followed(name: str, *, steps: int | None, every: int, clamped: bool) -> Recipe:
    """The recipe that all seeds follow, without checkpoints."""
    recipe = training.recipe(name)
    if clamped:
        recipe = replace(recipe, name=f"{name}-{NO_EDGES}", clamped=(Clamp("no_induction_edges"),))
    return replace(recipe, steps=steps or recipe.steps, evaluate_every=every, checkpoint_steps=())


def scores(recipe: Recipe, seed: int, runs: Path) -> dict[str, list[float]]:
    """What was measured with this seed, by name, one number per milestone; the run itself is removed."""
    folder = training.train(replace(recipe, seed=seed), runs / f"{recipe.name}-{seed}")
    rows = training.history(folder)
    shutil.rmtree(folder)
    return {name: [round(getattr(row, name), 4) for row in rows] for name in KEPT}


def run(recipe: Recipe, seeds: Sequence[int], *, out: Path, runs: Path) -> Path:
    """Add to the file of a recipe the seeds that it lacks; a file of another recipe is begun anew."""
    path = out / f"{recipe.name}.json"
    plain = recipe.to_json()
    plain.pop("seed")
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = kept.get("seeds", {}) if kept.get("recipe") == plain else {}
    out.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        if str(seed) in known:
            continue
        known[str(seed)] = scores(recipe, seed, runs)
        told = {
            "recipe": plain,
            "tokens_per_step": recipe.batch_size * recipe.data.length,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "seeds": dict(sorted(known.items(), key=lambda item: int(item[0]))),
        }
        path.write_text(json.dumps(told) + "\n", encoding="utf-8")
        last = {name: values[-1] for name, values in known[str(seed)].items()}
        print(f"{recipe.name}, seed {seed}: {last}", flush=True)
    return path


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=None, help="default: those of the recipe")
    parser.add_argument("--every", type=int, default=25, help="steps between two evaluations")
    parser.add_argument("--clamped", action="store_true", help="knock the induction edges out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where unfinished runs stand")
    given = parser.parse_args(words)
    recipe = followed(given.recipe, steps=given.steps, every=given.every, clamped=given.clamped)
    print(run(recipe, given.seeds, out=given.out, runs=given.runs))


if __name__ == "__main__":
    main()
