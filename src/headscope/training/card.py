"""The card of a trained model: what it is, how it was made, what it reached, and how to make it again.

In: a recipe and the milestones of its run. Out: `card.json` for programs and `README.md` for people, the
second written from the first, so that no number stands in prose that is not in the record.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import transformers

from headscope.tasks.language import name_of
from headscope.training.definition import Recipe
from headscope.training.milestone import Milestone
from headscope.training.watches import WATCHES


def make_card(
    recipe: Recipe, history: Sequence[Milestone], config: Mapping[str, Any], checkpoints: Sequence[int] = ()
) -> dict[str, Any]:
    """The record of a finished run as plain JSON data.

    `config` is the architecture as it was built, `checkpoints` the steps whose weights ship as well.
    """
    last, watch = history[-1], WATCHES[name_of(recipe.data)]
    plain = recipe.to_json()
    parameters = dict(plain["data"])
    curves = {name: [round(value, 4) for value in getattr(last, name)] for name in watch.curves}
    return {
        "name": recipe.name,
        "purpose": recipe.purpose,
        "selection": recipe.selection,
        "architecture": dict(config),
        "recipe": plain,
        "recipe_digest": recipe.digest(),
        "prompts": {"generator": parameters.pop("generator"), "parameters": parameters},
        "seed": recipe.seed,
        "steps": last.step,
        "tokens_seen": last.tokens,
        "cpu_seconds": round(last.cpu_seconds),
        "metrics": {name: round(getattr(last, name), 4) for name in watch.meanings}
        | {name: getattr(last, name) for name in watch.heads},
        **({"curves": curves} if curves else {}),
        "history": [{name: round(getattr(row, name), 4) for name in watch.history} for row in history],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        **({"checkpoints": sorted(checkpoints)} if checkpoints else {}),
        "command": f"headscope train {recipe.name} --out runs/train/{recipe.name}",
        "license": "Apache-2.0",
    }


def readme(card: Mapping[str, Any]) -> str:
    """The card as a page for people, in Markdown."""
    metrics, recipe, prompts = card["metrics"], card["recipe"], card["prompts"]
    watch = WATCHES[prompts["generator"]]
    heads = {name: f" ({metrics[f'{name}_head']})" for name in watch.meanings if f"{name}_head" in metrics}
    reached = [(name + heads.get(name, ""), metrics[name], meaning) for name, meaning in watch.meanings.items()]
    curves = card.get("curves", {})
    shots = [(k, *row) for k, row in enumerate(zip(*curves.values(), strict=True))]
    # At most 16 evenly chosen milestones, the last one always among them.
    milestones = card["history"][::-1][:: -(-len(card["history"]) // 16)][::-1]
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return markdown_page(
        f"# {card['name']}",
        card["purpose"],
        "This page is written from `card.json`.",
        "## What it reached",
        markdown_table(("metric", "value", "meaning"), reached),
        markdown_table(("shots before", *curves), shots) if shots else "",
        f"After {card['tokens_seen']:,} tokens in {card['steps']:,} steps, {card['cpu_seconds']} "
        f"CPU-seconds. One seed: nothing is claimed beyond this model. {card['selection']}".strip(),
        "## How it came about",
        markdown_table(watch.history, [tuple(row.values()) for row in milestones]),
        _told_of_checkpoints(card),
        "## How to make it again",
        f"    {card['command']}",
        f"Recipe `{card['recipe_digest']}`, seed {card['seed']}, batches of {recipe['batch_size']}, "
        f"with {versions}. The same versions on the same kind of machine give the same "
        "weights; others differ in the last bits, and training amplifies them.",
        "## What it is",
        markdown_table(("architecture", "value"), sorted(card["architecture"].items())),
        f"It has only ever seen the language of `headscope.tasks.{prompts['generator']}`, with:",
        markdown_table(("parameter", "value"), sorted(prompts["parameters"].items())),
        f"Licence: {card['license']}. The text is generated: no data of anyone went into the weights.",
    )


def _told_of_checkpoints(card: Mapping[str, Any]) -> str:
    """Which earlier weights ship, and how to open them; empty where none do."""
    steps = card.get("checkpoints", ())
    if not steps:
        return ""
    return (
        f"Weights of steps {', '.join(map(str, steps))} are kept in half precision: "
        f'`headscope.load("zoo:{card["name"]}", revision="step-{steps[-1]}")`.'
    )


def markdown_page(*blocks: str) -> str:
    """Headings, paragraphs and tables with an empty line between them; empty ones are left out."""
    return "\n\n".join(filter(None, blocks)) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
