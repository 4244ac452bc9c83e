"""Checkpoints of one model on this machine: a folder as training leaves it, or one that ships with its history.

In: a folder. Out: for every step that is kept, where its model is. `headscope train` and transformers' Trainer write
sub-folders (`step-700`, `checkpoint-700`), each a whole model. A model that ships keeps earlier weights in half
precision as `history/step-700.safetensors`; its configuration and tokenizer stand once, beside the last weights.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headscope.errors import ModelNotFound, UnknownName

HISTORY = "history"
_FOLDER = re.compile(r"(?:step|checkpoint)-(\d+)")


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """The folder or file of weights of every step that is kept in `folder`, in order of steps."""
    found = {int(told[1]): place for place in folder.glob("*-*") if (told := _whole_model(place))}
    for place in folder.glob(f"{HISTORY}/*.safetensors"):
        if told := _FOLDER.fullmatch(place.stem):
            found[int(told[1])] = place
    last = card_in(folder).get("steps")
    if last is not None and (folder / "config.json").is_file():
        found[last] = folder
    return dict(sorted(found.items()))


def checkpoint(folder: Path, revision: str, name: str) -> Path:
    """The folder or file of weights of the step that `revision` ("step-700") names.

    Raises:
        ModelNotFound: if no checkpoints are kept in `folder`.
        UnknownName: if that one is not; the message lists those that are.
    """
    known = checkpoints_in(folder)
    if not known:
        raise ModelNotFound(
            f"cannot open {name!r} at {revision!r}: it is a folder here, without checkpoints (sub-folders step-N). "
            "Leave the revision out, or give the folder that training wrote."
        )
    told = _FOLDER.fullmatch(revision)
    if told is None or int(told[1]) not in known:
        raise UnknownName.among(f"checkpoint of {name}", revision, [f"step-{step}" for step in known])
    return known[int(told[1])]


def tokens_per_step(folder: Path) -> int | None:
    """Tokens of one step of training, where a card or a recipe of ours says it; None elsewhere."""
    card, recipe = card_in(folder), folder / "recipe.json"
    if card.get("steps"):
        return int(card["tokens_seen"]) // int(card["steps"])
    if not recipe.is_file():
        return None
    told = json.loads(recipe.read_text(encoding="utf-8"))
    return int(told["batch_size"]) * int(told["architecture"]["n_ctx"])


def card_in(folder: Path) -> Mapping[str, Any]:
    """The card of a model that ships, or of one that was exported; empty where there is none."""
    path = folder / "card.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return told if isinstance(told, dict) else {}


def _whole_model(place: Path) -> re.Match[str] | None:
    return _FOLDER.fullmatch(place.name) if (place / "config.json").is_file() else None
