"""`headscope import FILE --out DIR`: a published state dict as a folder that every verb opens."""

from pathlib import Path
from typing import Annotated, Any

import typer

from headscope.architectures.lens import Stated
from headscope.cli.common import Json, Quiet, guarded, print_json, stderr, stdout, with_fields
from headscope.results.imported import import_model

File = Annotated[Path, typer.Argument(help="State dict: .pth, .pt or .safetensors.", metavar="FILE")]
Out = Annotated[Path, typer.Option(help="Folder for the model; an earlier import there is replaced.")]
Config = Annotated[Path | None, typer.Option(help="JSON config; else the config.json beside FILE.")]
Tokenizer = Annotated[Path | None, typer.Option(help="Local folder with the tokenizer, to be kept beside it.")]


@guarded
@with_fields(Stated)
def run(
    file: File,
    out: Out,
    config: Config = None,
    tokenizer: Tokenizer = None,
    json: Json = False,
    quiet: Quiet = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Read a state dict in TransformerLens' naming; options say what its config and tensors do not."""
    card = import_model(file, out, config=config, tokenizer=tokenizer, stated=Stated(**settings))
    if json:
        print_json({"model": str(out), **card})
        return
    if not quiet:
        for name, known in card["settings"].items():
            stderr.print(f"{name}: {known['value']} ({known['known_from']})", markup=False)
        if card["tokenizer"] is None:
            stderr.print("No tokenizer: prompts are token ids (--tokenizer FOLDER).", markup=False)
    stdout.print(f"Model: {out.resolve()}", markup=False)
