"""What it takes to run a result again: model, prompts, settings, versions, machine, command."""

import dataclasses
import datetime
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headscope.hashing import digest
from headscope.models.certificate import versions
from headscope.models.checks import PROPERTIES
from headscope.models.model import Model
from headscope.tasks.prompts import Prompts


def provenance(model: Model, study: str, config: Any, *prompts: Prompts) -> dict[str, Any]:
    """A flat record of plain values; `config` is the study's frozen configuration."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        **circumstances(model),
        "prompts": [{**shown.made_by, "hash": digest(shown)} for shown in prompts],
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()},
        "seed": settings.get("seed"),
        "command": command([model.name], study, config),
    }


def circumstances(model: Model) -> dict[str, Any]:
    """Model, certificate, device, versions and date: what every record says."""
    return {
        "model": model.name,
        "identity": model.identity,
        "architecture": f"{model.config.model_type}, {model.n_layers} layers, {len(model.heads)} heads",
        "certificate": _certified(model),
        "tokenizer": _tokenizer(model.tokenizer),
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": {**versions(), "python": platform.python_version()},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _tokenizer(tokenizer: Any) -> str:
    """What tells a tokenizer from another: its kind, and a hash of what it does."""
    if tokenizer is None:
        return "none"
    fast = getattr(tokenizer, "backend_tokenizer", None)
    told = fast.to_str() if fast is not None else sorted(tokenizer.get_vocab().items())
    return f"{type(tokenizer).__name__} {digest(told)}"


def _certified(model: Model) -> dict[str, Any]:
    """The certificate in short: which properties hold, fail, or were not asked for so far; what is refused."""
    if model.proofs is None:
        return {"made": False}
    told = model.proofs.made.to_json()
    words = {True: "holds", False: "fails", None: "does not apply"}
    proved = {check["name"]: words[check["passed"]] for check in told["checks"]}
    return {
        "properties": {each.name.replace("_", " "): proved.get(each.name, "not asked for") for each in PROPERTIES},
        "refused": [f"{refusal['site']} {refusal['layers']}: {refusal['reason']}" for refusal in told["refused"]]
        or "nothing",
    }


def command(
    models: Sequence[str], study: str, config: Any, options: Mapping[str, object] = MappingProxyType({})
) -> str:
    """The command line that does this again: every option and setting that is not at its default.

    `options` are those with which the model was loaded; "auto" and None are the defaults of all of them.

    >>> command(["zoo:induction-2l"], "heads", dataclasses.make_dataclass("C", [])())
    'headscope study heads --model zoo:induction-2l'
    """
    given = {field: getattr(config, field.name) for field in dataclasses.fields(config)}
    changed = {field.name: value for field, value in given.items() if value != field.default}
    named = [word for name in models for word in ("--model", name)]
    return command_line(["headscope", "study", study, *named], {**options, **changed})


def command_line(words: Sequence[str], options: Mapping[str, object]) -> str:
    """Words and options as one types them; those that are None, False or "auto" are left out.

    >>> command_line(["headscope", "heads"], {"gap": 0, "trust_remote_code": True, "dtype": "auto"})
    'headscope heads --gap 0 --trust-remote-code'
    """
    parts = list(words)
    for name, value in options.items():
        if value is not None and value is not False and value != "auto":
            parts += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(parts)
