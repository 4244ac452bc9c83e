"""A finished run as a folder that ships: weights, config, tokenizer, card.

In: the folder of `train`. Out: a folder that `AutoModelForCausalLM` and `AutoTokenizer` load as it stands,
with `card.json` and a `README.md` made from it. Weights are kept in float32: half precision would move the
logits, and these files are small.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headscope.architectures import ToyConfig
from headscope.errors import BadArgument, OutputExists, Unwritable
from headscope.training.card import make_card, readme
from headscope.training.loop import RECIPE_FILE, history, recipe_in

CARD_FILE, README_FILE = "card.json", "README.md"


def export(run: str | Path, folder: str | Path) -> Path:
    """Copy the last checkpoint of the run in `run` to `folder`, with its card; returns `folder`.

    Raises:
        BadArgument: if the run is not finished.
        OutputExists: if the folder holds something that is not a model exported before.
        Unwritable: if it cannot be written; the folder is as it was, and the run too.
    """
    source, target = Path(run), Path(folder)
    if not (source / RECIPE_FILE).exists():
        raise BadArgument(f"cannot export {run}: it holds no run of headscope train. Pass the folder of one.")
    recipe, rows = recipe_in(source), history(source)
    taken = rows[-1].step if rows else 0
    if taken < recipe.steps:
        raise BadArgument(
            f"cannot export {run}: {taken} of {recipe.steps} steps are done. Finish it with the same command."
        )
    if target.exists() and any(target.iterdir()) and not (target / CARD_FILE).exists():
        raise OutputExists(f"cannot export to {target}: it holds other files. Pass an empty or new folder.")
    last = source / f"step-{recipe.steps}"
    card = make_card(recipe, rows, ToyConfig.from_pretrained(last).choices())
    try:
        _fill(target, last, card)
    except OSError as error:
        raise Unwritable.because(target, error, f"The run in {str(run)!r} is as it was.") from error
    return target


def _fill(target: Path, last: Path, card: Mapping[str, Any]) -> None:
    """Write everything into a hidden folder within the target, then move it to its places, the card first."""
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".headscope-", dir=target, ignore_cleanup_errors=True) as hidden:
        fresh = Path(hidden)
        (fresh / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        (fresh / README_FILE).write_text(readme(card), encoding="utf-8")
        for file in last.iterdir():
            shutil.copyfile(file, fresh / file.name)
        for file in sorted(fresh.iterdir(), key=lambda file: file.name != CARD_FILE):
            os.replace(file, target / file.name)
