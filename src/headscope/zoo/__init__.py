"""Trained models that ship with headscope: each a folder with weights, config, tokenizer and card.

They load like any model (`headscope.load("zoo:NAME")`, or `from_pretrained(zoo.path(NAME))` once
`headscope.architectures` is imported). The card says what a model is for, the recipe and command that made
it, and which generator writes the text it knows. Some ship with checkpoints of their training: `steps(NAME)` lists
them, `headscope.load("zoo:NAME", revision="step-700")` opens one.
"""

import json
from pathlib import Path
from typing import Any

from headscope.errors import UnknownName
from headscope.zoo.checkpoints import checkpoints_in

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the models that ship, in alphabetical order."""
    return sorted(card.parent.name for card in _FOLDER.glob("*/card.json"))


def path(name: str) -> Path:
    """The folder of the model of that name.

    Raises:
        UnknownName: if there is none; the message lists those that ship.
    """
    if name not in names():
        raise UnknownName.among("zoo model", name, names())
    return _FOLDER / name


def card(name: str) -> dict[str, Any]:
    """What is known of the model of that name: the contents of its `card.json`.

    Raises:
        UnknownName: if there is none.
    """
    contents: dict[str, Any] = json.loads((path(name) / "card.json").read_text(encoding="utf-8"))
    return contents


def steps(name: str) -> tuple[int, ...]:
    """The steps of training at which that model can be opened; the last is the model itself.

    Raises:
        UnknownName: if there is none of that name.
    """
    return tuple(checkpoints_in(path(name)))


def seeds(recipe: str) -> dict[str, dict[str, list[float]]]:
    """Scores over training by seed: lists by name, one number for each entry of "step"; empty where none ship."""
    path = _FOLDER / "seeds" / f"{recipe}.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found: dict[str, dict[str, list[float]]] = kept.get("seeds", {})
    return found


def standing(model: str) -> str:
    """How far a model can stand for others, by its card, as a sentence of a report; empty unless it is "zoo:NAME"."""
    if not model.startswith("zoo:"):
        return ""
    told = card(model.removeprefix("zoo:"))
    said = f"The card of this model says: {told.get('purpose', 'nothing')}"
    layers = " and ".join(map(str, told.get("recipe", {}).get("carried_at") or ()))
    if not layers:
        return f"{said} It is a small model of one synthetic task, not a large language model."
    return (
        f"{said} That its final token's residual stream carries the function before layers {layers} is so by "
        "construction. It shows that a study finds what is there, not that other models have it."
    )
