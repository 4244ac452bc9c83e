"""The card of a trained model: what it is, how it was made, what it reached, and how to make it again.

In: a recipe and the milestones of its run. Out: `card.json` for programs and `README.md` for people, the
second written from the first, so that no number stands in prose that is not in the record.
"""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from headscope.training.definition import Recipe
from headscope.training.evaluation import Evaluation

_HISTORY = ("step", "loss_nats", "icl_nats", "prefix_matching", "previous_token", "second_copy_nats")
_MEANINGS = {
    "loss_nats": "loss on held-out text, nats per token",
    "icl_nats": "loss late in the context minus loss early in it, nats; negative: the past helps",
    "first_copy_nats": "loss on random tokens shown for the first time, nats",
    "second_copy_nats": "loss on the same tokens shown again, nats",
    "prefix_matching": "attention of the best induction head to what followed before, 0 to 1",
    "previous_token": "attention of the best previous-token head to the token before, 0 to 1",
}


def make_card(recipe: Recipe, history: Sequence[Evaluation], config: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a finished run as plain JSON data; `config` is the architecture as it was built."""
    last = history[-1]
    plain = recipe.to_json()
    parameters = dict(plain["data"])
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
        "metrics": {name: round(getattr(last, name), 4) for name in _MEANINGS}
        | {name: getattr(last, name) for name in ("prefix_matching_head", "previous_token_head")},
        "history": [{name: round(getattr(row, name), 4) for name in _HISTORY} for row in history],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "command": f"headscope train {recipe.name} --out runs/train/{recipe.name}",
        "license": "Apache-2.0",
    }


def readme(card: Mapping[str, Any]) -> str:
    """The card as a page for people, in Markdown."""
    metrics, recipe, prompts = card["metrics"], card["recipe"], card["prompts"]
    heads = {name: metrics.get(f"{name}_head", "") for name in _MEANINGS}
    reached = [
        (f"{name} ({heads[name]})" if heads[name] else name, metrics[name], meaning)
        for name, meaning in _MEANINGS.items()
    ]
    return "\n".join(
        [
            f"# {card['name']}",
            "",
            card["purpose"],
            "",
            "This page is written from `card.json`.",
            "",
            "## What it reached",
            "",
            *_table(("metric", "value", "meaning"), reached),
            "",
            f"After {card['tokens_seen']:,} tokens in {card['steps']:,} steps, {card['cpu_seconds']} "
            f"CPU-seconds. One seed: nothing is claimed beyond this model. {card['selection']}".strip(),
            "",
            "## How it came about",
            "",
            *_table(_HISTORY, [tuple(row[name] for name in _HISTORY) for row in _thinned(card["history"])]),
            "",
            "## How to make it again",
            "",
            f"    {card['command']}",
            "",
            f"Recipe `{card['recipe_digest']}`, seed {card['seed']}, batches of {recipe['batch_size']}, "
            f"with {_listed(card['versions'])}. The same versions on the same kind of machine give the same "
            "weights; others differ in the last bits, and training amplifies them.",
            "",
            "## What it is",
            "",
            *_table(("architecture", "value"), sorted(card["architecture"].items())),
            "",
            f"It has only ever seen the language of `headscope.tasks.{prompts['generator']}`, with:",
            "",
            *_table(("parameter", "value"), sorted(prompts["parameters"].items())),
            "",
            f"Licence: {card['license']}. The text is generated: no data of anyone went into the weights.",
            "",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def _thinned(rows: Sequence[Any], at_most: int = 16) -> Sequence[Any]:
    """Evenly chosen rows, the last one always among them."""
    stride = -(-len(rows) // at_most)
    return rows[::-1][::stride][::-1]


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
