"""A finished run as a folder that ships: weights, config, tokenizer, card, and earlier weights if they are asked for.

In: the folder of `train`. Out: a folder that `AutoModelForCausalLM` and `AutoTokenizer` load as it stands,
with `card.json` and a `README.md` made from it. The last weights are kept in float32: half precision would move the
logits, and these files are small. Earlier ones (`zoo.checkpoints` reads them) are for seeing how a model came to be,
and half precision is enough for that.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from headscope.architectures import ToyConfig
from headscope.errors import BadArgument, OutputExists, Unwritable
from headscope.training.card import make_card, readme
from headscope.training.definition import Recipe
from headscope.training.loop import RECIPE_FILE, recipe_in
from headscope.training.loop import history as milestones
from headscope.zoo.checkpoints import HISTORY, checkpoints_in

CARD_FILE, README_FILE, WEIGHTS_FILE = "card.json", "README.md", "model.safetensors"


def export(run: str | Path, folder: str | Path, *, history: Sequence[int] = ()) -> Path:
    """Copy the last checkpoint of the run in `run` to `folder`, with its card; returns `folder`.

    Weights of the steps `history` are kept beside it in half precision.

    Raises:
        BadArgument: if the run is not finished, or has no checkpoints at those steps.
        OutputExists: if the folder holds something that is not a model exported before.
        Unwritable: if it cannot be written; the folder is as it was, and the run too.
    """
    source, target = Path(run), Path(folder)
    recipe = _finished(source, history)
    if target.exists() and any(target.iterdir()) and not (target / CARD_FILE).exists():
        raise OutputExists(f"cannot export to {target}: it holds other files. Pass an empty or new folder.")
    last = source / f"step-{recipe.steps}"
    card = make_card(recipe, milestones(source), ToyConfig.from_pretrained(last).choices(), history)
    try:
        _fill(target, last, card)
        _keep(source, target, history)
    except OSError as error:
        raise Unwritable.because(target, error, f"The run in {str(run)!r} is as it was.") from error
    return target


def add_history(run: str | Path, folder: str | Path, history: Sequence[int]) -> float:
    """Put weights of the steps `history` of a run beside a model that was exported from another run of its recipe.

    The model itself stays as it is. Returns by how much its weights differ from the last ones of this run at most: 0
    on the machine that it was trained on; elsewhere training amplifies the last bits.

    Raises:
        BadArgument: if the run is not finished, follows another recipe, or has no checkpoints at those steps.
        Unwritable: if it cannot be written.
    """
    source, target = Path(run), Path(folder)
    recipe = _finished(source, history)
    card = json.loads((target / CARD_FILE).read_text(encoding="utf-8"))
    if _weights_only(Recipe.from_json(card["recipe"])) != _weights_only(recipe):
        raise BadArgument(
            f"cannot put the history of {run} beside {folder}: it follows another recipe than that of the card. "
            "Train by the same recipe."
        )
    ours, theirs = (load_file(each / WEIGHTS_FILE) for each in (source / f"step-{recipe.steps}", target))
    try:
        _keep(source, target, history)
        _write_card(target, card | {"checkpoints": sorted(history)})
    except OSError as error:
        raise Unwritable.because(target, error) from error
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def _finished(run: Path, history: Sequence[int]) -> Recipe:
    """The recipe of a run that is done and has checkpoints at these steps."""
    if not (run / RECIPE_FILE).exists():
        raise BadArgument(f"cannot export {run}: it holds no run of headscope train. Pass the folder of one.")
    recipe, rows = recipe_in(run), milestones(run)
    taken = rows[-1].step if rows else 0
    if taken < recipe.steps:
        raise BadArgument(
            f"cannot export {run}: {taken} of {recipe.steps} steps are done. Finish it with the same command."
        )
    missing = sorted(set(history) - set(checkpoints_in(run)) | set(history) & {recipe.steps})
    if missing:
        raise BadArgument(
            f"cannot export step {missing[0]} of {run} as history: expected steps before the last at which it "
            f"keeps a checkpoint ({', '.join(map(str, checkpoints_in(run)))})."
        )
    return recipe


def _weights_only(recipe: Recipe) -> str:
    """The hash of what decides the weights, without when the run is looked at."""
    return replace(recipe, checkpoint_steps=(), evaluate_every=1).digest()


def _keep(run: Path, target: Path, history: Sequence[int]) -> None:
    """Weights of earlier steps in half precision."""
    if not history:
        return
    shutil.rmtree(target / HISTORY, ignore_errors=True)
    (target / HISTORY).mkdir()
    for step in history:
        weights = load_file(run / f"step-{step}" / WEIGHTS_FILE)
        half = {name: value.to(torch.float16) for name, value in weights.items()}
        save_file(half, target / HISTORY / f"step-{step}.safetensors", metadata={"format": "pt"})


def _write_card(folder: Path, card: Mapping[str, Any]) -> None:
    (folder / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / README_FILE).write_text(readme(card), encoding="utf-8")


def _fill(target: Path, last: Path, card: Mapping[str, Any]) -> None:
    """Write everything into a hidden folder within the target, then move it to its places, the card first."""
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".headscope-", dir=target, ignore_cleanup_errors=True) as hidden:
        fresh = Path(hidden)
        _write_card(fresh, card)
        for file in last.iterdir():
            shutil.copyfile(file, fresh / file.name)
        for file in sorted(fresh.iterdir(), key=lambda file: file.name != CARD_FILE):
            os.replace(file, target / file.name)
