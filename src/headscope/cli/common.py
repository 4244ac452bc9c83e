"""What all verbs share: options, errors as one sentence with an exit code. Progress is in cli.progress.

Results go to stdout, everything else to stderr; with `--json` stdout is one JSON value. Nothing moves on
the screen where stderr is no terminal.
"""

import dataclasses
import functools
import inspect
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
import transformers
import typer
from rich.console import Console

from headscope.errors import FULL, BadArgument, HeadscopeError, OutOfMemory
from headscope.models.loading import load
from headscope.models.model import Model
from headscope.vocabulary import Progress, silent

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False)

ModelName = Annotated[str, typer.Argument(help="zoo:NAME, a folder, a GGUF file, or a Hub id.", metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Suppress progress and warnings.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
# Below this a second thread mostly waits for the first, and on a busy machine makes it several times slower.
SMALL_PARAMETERS = 5_000_000


def option(default: Any, help: str) -> Any:
    """A field that a verb has as an option."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Opening:
    """How a model is opened; every verb that opens one has these options."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.")
    dtype: str = option("auto", "auto, float32, float16 or bfloat16.")
    memory: str | None = option(
        None,
        "How much memory one batch may take, for example 2GB (default: a quarter of what is free, on a "
        "CPU at most 1GB).",
    )
    revision: str | None = option(None, "Branch, tag or commit on the hub.")
    trust_remote_code: bool = option(False, "Run code that comes with the model. Read it first.")


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|[kmgt]i?b?|b)", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Turn what a user did wrong into one sentence on stderr and an exit code."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every product
        try:
            verb(*args, **kwargs)
            return
        except KeyboardInterrupt:
            said, code = "interrupted.", 130
        except (MemoryError, torch.OutOfMemoryError):
            said = "out of memory. Pass a smaller --memory, fewer prompts (--n), or another --device."
            code = OutOfMemory.exit_code
        except HeadscopeError as error:
            said, code = str(error), error.exit_code
        except BrokenPipeError:
            # The reader of stdout went away (head, less); that is no error of ours.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(0) from None
        except OSError as error:
            # A disk that fills up, a folder that is taken away: nothing that we could have known before.
            where = f" {str(error.filename)!r}" if error.filename else ""
            again = " Make room and run the same command again." if error.errno in FULL else ""
            said = f"cannot go on with the file{where}: {error.strerror or error}.{again}"
            code = HeadscopeError.exit_code
        stderr.print(f"headscope: {said}", markup=False, soft_wrap=True)
        raise typer.Exit(code)

    return run


def opened(source: str, opening: dict[str, Any], progress: Progress = silent) -> Model:
    """The model that a command line names; `opening` has the fields of `Opening`, which are those of `load`."""
    progress(f"opening {source}", 0, 1)
    how = dict(opening)
    memory = how.pop("memory")
    budget = None if memory is None else bytes_of(memory)
    model = load(source, **how)
    if budget is not None:
        model.memory_bytes = budget
    if model.device.type == "cpu" and sum(p.numel() for p in model.hf.parameters()) < SMALL_PARAMETERS:
        torch.set_num_threads(1)
    return model


def bytes_of(size: str) -> int:
    """Bytes in a written size.

    >>> bytes_of("2GB"), bytes_of("512M")
    (2147483648, 536870912)
    """
    match = _SIZE.fullmatch(size.strip())
    if match is None or float(match[1]) <= 0:
        raise BadArgument(f"cannot read the size {size!r}: write for example 512MB or 2GB.")
    return int(float(match[1]) * _UNITS[match[2][:1].lower().replace("b", "")])


def print_json(value: Any) -> None:
    """One JSON value on stdout, without NaN."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def with_fields(config: type[Any], into: str = "settings") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for every field of a configuration; it receives them as the dictionary `into`.

    Type, default and help come from the field, so that Python and the command cannot drift apart.
    """
    hints = get_type_hints(config)
    fields = dataclasses.fields(config)
    kind = inspect.Parameter.KEYWORD_ONLY

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = [p.replace(kind=kind) for p in inspect.signature(verb).parameters.values() if p.name != into]
        options = [Annotated[hints[f.name], typer.Option(help=f.metadata.get("help", ""))] for f in fields]
        added = [
            inspect.Parameter(field.name, kind, default=field.default, annotation=option)
            for field, option in zip(fields, options, strict=True)
        ]

        @functools.wraps(verb)
        def run(**given: Any) -> None:
            settings = {field.name: given.pop(field.name) for field in fields}
            verb(**given, **{into: settings})

        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return run

    return decorate


def opens_model(verb: Callable[..., None]) -> Callable[..., None]:
    """A guarded verb with the options of `Opening`, which it receives as the dictionary `opening`."""
    return with_fields(Opening, into="opening")(guarded(verb))


def default_out(name: str, model: str) -> Path:
    """Where a run goes if nobody says: runs/NAME-MODEL."""
    return Path("runs") / f"{name}-{re.sub(r'[^A-Za-z0-9._-]+', '-', model).strip('-.')}"
