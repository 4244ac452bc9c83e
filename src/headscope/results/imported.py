"""A published state dict as a folder that opens like any model: weights, config, tokenizer, card.

    DIR/config.json, model.safetensors    a toy of ours (headscope.architectures) with the same logits
    DIR/tokenizer.json ...                where one was given
    DIR/card.json, README.md              from which file, which choices, and where each comes from

In: the file, and what a person states of it. Out: the folder, complete or not there at all. Nothing is
downloaded, and nothing that is in the file is run. What a state dict is read as stands in
`headscope.architectures.lens`.
"""

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from headscope.architectures import ToyForCausalLM
from headscope.architectures.lens import LensFile, Setting, Stated, read, to_toy
from headscope.architectures.lens.settings import NOTHING
from headscope.architectures.saving import save_quietly
from headscope.errors import BadArgument, ModelNotFound
from headscope.models.certificate import versions
from headscope.results.files import write_json
from headscope.results.folder import Kind, check_free, place_folder
from headscope.results.provenance import command_line
from headscope.training.card import markdown_page, markdown_table

CARD = "card.json"
IMPORTED = Kind(
    "model",
    CARD,
    re.compile(
        r"card\.json|README\.md|config\.json|generation_config\.json|model[^/]*\.safetensors(\.index\.json)?"
        r"|(tokenizer|special_tokens|added_tokens|vocab|merges|spiece|sentencepiece|chat_template)[^/]*"
    ),
)
# True of every model of this architecture, and in no tensor: a file without a config is taken so.
_TAKEN = "causal attention, scores divided by sqrt(d_head), attention before the MLP, no soft caps"

_REORDERED = (
    "Rotary pairs were adjacent there and are halves here: the dimensions of each head's queries and keys are "
    "reordered, which changes no score. "
)


def import_model(
    file: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    stated: Stated = NOTHING,
) -> dict[str, Any]:
    """Write the model of a state dict in TransformerLens' naming to the folder `out`; returns its card.

    `file` is of torch.save or safetensors; `config` its HookedTransformerConfig as JSON (without one, the
    config.json beside the file, if there is one); `tokenizer` a local folder. An earlier import in `out` is
    replaced. Afterwards `headscope.load(out)` opens it.

    Raises:
        ModelNotFound, UnsafeWeights, BrokenWeights, UnservedModel: if the file cannot be read as such a model.
        BadArgument, UnknownName: if something that changes logits is not known, or is stated wrongly.
        OutputExists, Unwritable: if the folder cannot be written.
    """
    source, target = Path(file), Path(out)
    check_free(target, IMPORTED)
    given = None if tokenizer is None else str(tokenizer)
    words = None if given is None else _tokenizer(Path(given))
    opened = read(source, None if config is None else Path(config))
    model, settings = to_toy(opened, stated)
    if words is not None:
        _check_words(words, model.config.vocab_size, str(given))
        if model.config.bos_token_id is None:
            model.config.bos_token_id = words.bos_token_id
    options = {"out": target, "config": opened.config_path, "tokenizer": given, **asdict(stated)}
    command = command_line(["headscope", "import", str(source)], options)
    card = _card(opened, model, settings, given, command)
    place_folder(target, IMPORTED, lambda folder: _fill(folder, model, words, card))
    return card


def _fill(folder: Path, model: ToyForCausalLM, tokenizer: Any, card: Mapping[str, Any]) -> None:
    save_quietly(model, folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(_page(card), encoding="utf-8")
    write_json(folder / CARD, card)


def _tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise ModelNotFound(
            f"cannot read a tokenizer from {str(folder)!r}: it is no folder here. Give a local folder with a "
            "tokenizer.json (nothing is downloaded)."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a tokenizer's file raises when it is none
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelNotFound(f"cannot read a tokenizer from {str(folder)!r}: {first}.") from error


def _check_words(tokenizer: Any, vocab_size: int, folder: str) -> None:
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last >= vocab_size:
        raise BadArgument(
            f"cannot use the tokenizer of {folder!r}: it has token ids up to {last}, and the model has "
            f"{vocab_size} tokens. Give the tokenizer that the model was trained with."
        )


def _card(
    opened: LensFile, model: ToyForCausalLM, settings: Mapping[str, Setting], tokenizer: str | None, command: str
) -> dict[str, Any]:
    """The record of an import as plain JSON data."""
    source, place = Path(opened.name), opened.config_path
    return {
        "headscope": "import",
        "name": source.stem,
        "source": {"file": str(source), "sha256": _sha256(source), "bytes": source.stat().st_size},
        "config": None if place is None else {"file": str(place), "sha256": _sha256(place)},
        "architecture": model.config.choices(),
        "settings": {name: asdict(setting) for name, setting in settings.items()},
        "taken_for_granted": _TAKEN if opened.config is None else None,
        "tokenizer": tokenizer,
        "tokenizer_named_by_config": opened.told.get("tokenizer_name"),
        "command": command,
        "versions": {**versions(), "python": platform.python_version()},
    }


def _page(card: Mapping[str, Any]) -> str:
    """The card as a page for people, in Markdown."""
    source, config, named = card["source"], card["config"], card["tokenizer_named_by_config"]
    words = (
        f"The tokenizer is that of `{card['tokenizer']}`."
        if card["tokenizer"]
        else "There is no tokenizer: prompts are token ids." + (f" The config names `{named}`." if named else "")
    )
    granted = card["taken_for_granted"]
    reordered = card["settings"].get("rotary_pairs", {}).get("value") == "adjacent"
    where = [
        f"- file: `{source['file']}`, {source['bytes']:,} bytes, sha256 `{source['sha256']}`",
        f"- config: `{config['file']}`, sha256 `{config['sha256']}`" if config else "- config: none",
        *([f"- taken for granted without one: {granted}"] if granted else []),
    ]
    choices = [(name, known["value"], known["known_from"]) for name, known in card["settings"].items()]
    return markdown_page(
        f"# {card['name']}",
        "A state dict in TransformerLens' naming, written as a model that headscope and transformers open. "
        "Weights are as in the file, in float32; nothing is folded or centred. "
        f"{_REORDERED if reordered else ''}Its licence is that of the file.",
        "This page is written from `card.json`.",
        "\n".join(where),
        words,
        "## What it is",
        markdown_table(("architecture", "value"), sorted(card["architecture"].items())),
        markdown_table(("choice", "value", "known from"), choices),
        "## How to make it again",
        f"    {card['command']}",
        f"With {', '.join(f'{name} {number}' for name, number in card['versions'].items())}.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
