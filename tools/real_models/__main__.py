"""`python -m tools.real_models`: run what is missing, write the page, or print what one verb measures."""

import argparse
import json
import subprocess
import sys
from collections.abc import Collection, Sequence

import torch
from tools.real import ROOT, SOURCES, folder_of
from tools.real_models import __doc__ as about
from tools.real_models.commands import VERBS, commands, kept, run
from tools.real_models.page import page

import headscope as hs

PAGE = ROOT / "docs" / "real-models.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("verb", choices=("run", "page", *VERBS))
    parser.add_argument("name", nargs="?", choices=SOURCES)
    parser.add_argument("--only", nargs="*", help="with run: these commands alone, by the names of the kept files")
    given = parser.parse_args()
    if given.verb in VERBS:
        if given.name is None:
            parser.error(f"{given.verb} is about one model: name one of {', '.join(SOURCES)}")
        torch.set_num_threads(1)
        print(json.dumps(VERBS[given.verb](hs.load(folder_of(given.name)), given.name)))
    elif given.verb == "page":
        PAGE.write_text(page(kept()), encoding="utf-8")
    else:
        return run_all([given.name] if given.name else list(SOURCES), given.only)
    return 0


def run_all(names: Sequence[str], only: Collection[str] | None) -> int:
    """What has not been run of these models, or of these commands alone; the exit code: 0 if all is there."""
    if absent := [name for name in names if not folder_of(name).is_dir()]:
        print(f"{absent[0]} not fetched: make real", file=sys.stderr)
        return 3
    asked = [(name, what) for name in names for what in commands(name) if only is None or what in only]
    return int(any([_fails(name, what) for name, what in asked]))


def _fails(name: str, what: str) -> bool:
    """Run a command unless that was done; where it fails, it says why itself, and the others are still run."""
    try:
        run(name, what)
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(commands(name)[what])} fails with exit code {error.returncode}", file=sys.stderr)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
