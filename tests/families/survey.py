"""Every causal language model type of transformers, opened and certified: what is served on which family.

    python -m tests.families.survey                   all types; those already on record are kept
    python -m tests.families.survey --types gpt2,opt  these again

In: nothing but the installed libraries. Out: `families.json` (one record per type) and `families.md`, the page
for people. Each type runs in a process of its own, forked from one that has the libraries loaded, so that
a model that crashes or never ends costs one row and no more.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import product
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

import headscope
from headscope.errors import HeadscopeError, UnservedSite
from headscope.models.certificate import versions
from headscope.vocabulary import SITES
from tests.families import configs
from tests.families.page import page

LIMIT_SECONDS = 90.0
PROMPT_LENGTH = 12
# Set before the first child starts: no look at a hub, no advice, one thread each.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "critical",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}


def examine(model_type: str) -> dict[str, Any]:
    """One record: was it built and opened, if not why not, every check, every refused site."""
    began = time.monotonic()
    record = _blank()
    try:
        model = configs.build(model_type)
        record["reason"] = _cannot_run(model)
        record["built"] = record["reason"] is None
        if record["built"]:
            opened = headscope.load(model)
            told = opened.certificate.to_json()
            record |= {name: told[name] for name in ("checks", "refused")}
            record |= {"opened": True, "layers": opened.n_layers, "absent": _absent(opened)}
    except (configs.CannotBuild, HeadscopeError) as error:
        record |= {"opened": False, "reason": str(error)}
    except Exception as error:  # whatever else happens is the finding
        record |= {"broke": True, "opened": False, "reason": f"{type(error).__name__}: {error}"}
    return _tidy(record | {"seconds": time.monotonic() - began})


def survey(
    types: Sequence[str], *, jobs: int = 2, limit: float = LIMIT_SECONDS
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of these types as they come in, `jobs` at a time, each within `limit` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.families.survey"])  # and with it the libraries
    waiting = deque(types)
    running: dict[Connection, tuple[str, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(waiting[0], theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = waiting.popleft(), process, time.monotonic() + limit
            soonest = min(deadline for _, _, deadline in running.values())
            ready = wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
            for ours, (name, process, deadline) in list(running.items()):
                if ours in ready:
                    yield name, _received(ours, process)
                elif time.monotonic() >= deadline:
                    process.kill()
                    yield name, _blank() | {"broke": True, "reason": f"no end within {limit:.0f} seconds."}
                else:
                    continue
                process.join()
                del running[ours]
    finally:
        for _, process, _ in running.values():
            process.kill()


def write(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Both files, in the order of the alphabet, replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = dict(sorted(records.items()))
    for name, text in (("families.json", _a_line_each(ordered)), ("families.md", page(ordered))):
        unfinished = folder / f".{name}.part"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)


def _a_line_each(records: dict[str, dict[str, Any]]) -> str:
    lines = [f"{json.dumps(name)}: {json.dumps(record, allow_nan=False)}" for name, record in records.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _child(model_type: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    answer.send(examine(model_type))


def _received(ours: Connection, process: Any) -> dict[str, Any]:
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return _blank() | {"broke": True, "reason": f"its process ended with exit code {process.exitcode}."}


def _blank() -> dict[str, Any]:
    return {
        "built": False,
        "opened": False,
        "broke": False,
        "reason": None,
        "layers": 0,
        "checks": [],
        "refused": [],
        "absent": [],
        "seconds": None,
        "versions": versions(),
    }


def _absent(opened: headscope.Model) -> list[dict[str, Any]]:
    """Sites that some layers do not have, beside those that a failed check refuses."""
    reasons: dict[tuple[str, str], list[int]] = {}
    refused = opened.certificate.refusals()
    for site, layer in product([name for name, site in SITES.items() if site.per_layer], range(opened.n_layers)):
        if {(site, layer), (site, None)}.isdisjoint(refused):
            try:
                opened.require_site(site, layer)
            except UnservedSite as error:
                reasons.setdefault((site, str(error).split(": ", 1)[1]), []).append(layer)
    return [{"site": site, "layers": layers, "reason": reason} for (site, reason), layers in reasons.items()]


def _cannot_run(model: Any) -> str | None:
    """Why transformers itself cannot run this model, or None if it can."""
    ids = torch.randint(3, 100, (2, PROMPT_LENGTH), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
    except Exception as error:  # the models' own defects come in every kind
        return f"transformers itself cannot run it ({type(error).__name__}: {error})."
    return None if torch.isfinite(logits).all() else "plain transformers gives logits that are no numbers."


def _tidy(value: Any) -> Any:
    """Numbers to three digits, and words for those that JSON does not have."""
    match value:
        case float():
            return float(f"{value:.3g}") if math.isfinite(value) else str(value)
        case dict():
            return {key: _tidy(item) for key, item in value.items()}
        case list() | tuple():
            return [_tidy(item) for item in value]
        case _:
            return value


def _kept(file: Path) -> dict[str, dict[str, Any]]:
    """Records of an earlier survey that are still good: made with these libraries, and not broken."""
    if not file.is_file():
        return {}
    records: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    known = set(configs.model_types())
    return {
        name: record
        for name, record in records.items()
        if name in known and record["versions"] == versions() and not record["broke"]
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.families.survey", description=__doc__.split("\n")[0])
    parser.add_argument("--types", help="only these, comma-separated, even if they are on record")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the two files (default docs)")
    parser.add_argument("--fresh", action="store_true", help="forget what is on record")
    given = parser.parse_args()
    given.types = given.types.split(",") if given.types else []
    if unknown := set(given.types) - set(configs.model_types()):
        parser.error(f"transformers has no causal language model type {min(unknown)!r}.")
    return given


def main() -> None:
    """Survey what is asked for, writing both files after every type."""
    given = _arguments()
    os.environ |= _ENVIRONMENT
    records = {} if given.fresh else _kept(given.out / "families.json")
    types = given.types or [name for name in configs.model_types() if name not in records]
    for count, (name, record) in enumerate(survey(types, jobs=given.jobs), start=1):
        records[name] = record
        write(given.out, records)
        outcome = "opened" if record["opened"] else record["reason"].splitlines()[0]
        print(f"{count}/{len(types)} {name}: {outcome}", file=sys.stderr)
    print(given.out / "families.md")


if __name__ == "__main__":
    main()
