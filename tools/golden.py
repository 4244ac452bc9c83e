"""A safety net for rewriting studies: everything that they compute, written down, and compared with before.

    python tools/golden.py write OUT [--studies heads,bayes] [--models shipped,random]
    python tools/golden.py compare OLD NEW

`write` runs each study with `--quick` on one thread, on the model that it shows itself on and on that model with
random weights. It records, per study and model, every sample that an interval was computed from (one value per
unit), with the estimate and the bounds that came out; every number of every table; and every verdict. Samples are
caught where they enter `measures` (intervals, joint bounds, percentiles of resamples), so that it does not matter
what a table or a variable is called.

`compare` asks whether what was there is still there, to 1e-12 of its size: each sample by its values, its estimate
and bounds beside it, each number of the old tables somewhere in the new ones, each verdict by the claim's name (or
`RENAMED`). A bound that is now cut at the end of a range that was left open is listed apart. Numbers that are gone
are listed by table and column; whoever leaves one out says so.
"""

import argparse
import contextlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import headscope as hs
from headscope import zoo
from headscope.studies.registry import STUDIES

TOLERANCE = 1e-12
# Functions through which every sample goes, by module, and the results that are kept of each.
RESULTS = {
    "interval": ("mean", "low", "high"),
    "simultaneous": ("mean", "at_least", "at_most", "low", "high", "p", "p_alone"),
    "percentile_bounds": (),
}
MODULES = (
    "measures.intervals",
    "measures.maxima",
    "measures.simultaneous",
    "measures.curve_fits",
    "measures.statistics",
)
# Names of claims that have changed: before -> after.
RENAMED: dict[str, str] = {}


class Recorder:
    """Columns [unit] that were bounded, each with the numbers that came out, by function and level."""

    def __init__(self) -> None:
        self.columns: dict[bytes, tuple[str, np.ndarray, np.ndarray]] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(values: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(values, *args, **kwargs)
            columns = np.asarray(values, np.float64).reshape(len(values), -1).T
            if RESULTS[name]:
                numbers = np.stack([np.ravel(getattr(result, key)) for key in RESULTS[name]], axis=1)
            else:
                numbers = np.asarray(result, np.float64).reshape(1, -1)
            told = f"{name} {kwargs.get('level', 0.95)}"
            for column, row in zip(columns, numbers, strict=True):
                key = told.encode() + column.tobytes() + row.tobytes()
                self.columns[key] = (told, column.copy(), row.copy())
            return result

        return recorded

    def dump(self) -> dict[str, np.ndarray]:
        """By function, level and number of units: samples [column, unit] and results [column, result]."""
        groups: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        for told, column, row in self.columns.values():
            samples, results = groups.setdefault(f"{told} {len(column)}", ([], []))
            samples.append(column)
            results.append(row)
        found = {}
        for name, (samples, results) in groups.items():
            found[f"{name}|samples"], found[f"{name}|results"] = np.stack(samples), np.stack(results)
        return found


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """While it lasts, every module that knows one of the functions calls the recorded one."""
    recorder, changed = Recorder(), []
    for name in RESULTS:
        homes = [sys.modules.get(f"headscope.{module}") for module in MODULES]
        originals = [getattr(home, name) for home in homes if hasattr(home, name)]
        original, wrapped = originals[0], recorder.wrap(name, originals[0])
        for module in [m for key, m in sys.modules.items() if key.startswith("headscope")]:
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, wrapped)
                    changed.append((module, attribute, original))
    try:
        yield recorder
    finally:
        for module, attribute, original in changed:
            setattr(module, attribute, original)


def random_like(name: str, folder: Path) -> hs.Model:
    """The shipped model of that name with random weights."""
    shutil.copytree(zoo.path(name.removeprefix("zoo:")), folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return hs.load(str(folder))


def write(out: Path, studies: list[str], models: list[str]) -> None:
    """Every study on every model, one folder each."""
    torch.set_num_threads(1)
    for study in studies:
        shown_on = STUDIES[study].shown_on
        for kind in models:
            with tempfile.TemporaryDirectory() as scratch:
                model = hs.load(shown_on) if kind == "shipped" else random_like(shown_on, Path(scratch) / "m")
                with recording() as recorder:
                    # A study of trainings is about checkpoints, which random weights have none of.
                    suites = STUDIES[study].suites
                    result = hs.study(study, model=list(suites) or model, quick=True)
            folder = out / f"{study}-{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(folder / "samples.npz", **recorder.dump())
            told = result.to_json()
            told.pop("provenance")
            (folder / "study.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
            print(f"{study} on {kind}: {len(recorder.columns)} samples, {len(result.claims)} claims", flush=True)


def compare(old: Path, new: Path) -> int:
    """Print what of `old` is not in `new`; 0 if only verdicts, left-out numbers and cut bounds differ."""
    lost = 0
    for folder in sorted(path for path in old.iterdir() if path.is_dir()):
        other = new / folder.name
        if not other.is_dir():
            print(f"== {folder.name}: not written")
            continue
        print(f"== {folder.name}")
        lost += samples_lost(np.load(folder / "samples.npz"), np.load(other / "samples.npz"))
        before, after = (json.loads((f / "study.json").read_text()) for f in (folder, other))
        numbers_lost(before, after)
        verdicts_changed(before, after)
    return 1 if lost else 0


def samples_lost(before: Any, after: Any) -> int:
    """Samples that are bounded no more, or to other numbers; bounds that are cut at a range are named apart."""
    lost = changed = cut = total = 0
    for name in before.files:
        if not name.endswith("|samples"):
            continue
        key = name.removesuffix("|samples")
        samples, results = before[name], before[f"{key}|results"]
        own = after[name] if name in after.files else np.empty((0, samples.shape[1]))
        theirs = after[f"{key}|results"] if name in after.files else np.empty((0, results.shape[1]))
        total += len(samples)
        for sample, result in zip(samples, results, strict=True):
            same = near(own, sample)
            if not same.any():
                lost += 1
                if lost <= 5:
                    print(f"   lost: {key} of mean {sample.mean():.6g}")
            elif not near(theirs[same], result).any():
                clipped = [row for row in theirs[same] if np.abs(row[0] - result[0]) <= TOLERANCE]
                cut += bool(clipped)
                changed += not clipped
    print(f"   {total} samples: {lost} lost, {changed} with another estimate, {cut} with other bounds")
    return lost + changed


def near(rows: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Which of `rows` equal `row` to the tolerance, NaN being equal to NaN."""
    if not len(rows):
        return np.zeros(0, bool)
    scale = np.maximum(1.0, np.abs(np.nan_to_num(row)))
    close = np.abs(rows - row) <= TOLERANCE * scale
    same: np.ndarray = (close | (np.isnan(rows) & np.isnan(row))).all(1)
    return same


def numbers_lost(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Columns of the old tables with numbers that stand nowhere in the new tables."""
    present = np.unique(np.array(list(numbers_of(after)) or [math.inf]))
    for name, table in before["tables"].items():
        columns: dict[str, list[float]] = {}
        for row in table["rows"]:
            for column, value in row.items():
                if isinstance(value, float):
                    columns.setdefault(column, []).append(value)
        gone = {}
        for column, values in columns.items():
            place = np.clip(np.searchsorted(present, values), 1, max(1, len(present) - 1))
            nearest = np.minimum(
                *(np.abs(present[np.clip(place - shift, 0, len(present) - 1)] - values) for shift in (0, 1))
            )
            missing = int((nearest > TOLERANCE * np.maximum(1.0, np.abs(values))).sum())
            if missing:
                gone[column] = f"{missing} of {len(values)}"
        if gone:
            print(f"   numbers of table {name} that stand nowhere now: {gone}")


def numbers_of(study: dict[str, Any]) -> Iterator[float]:
    """Every fractional number of a study: tables and evidence."""
    for table in study["tables"].values():
        for row in table["rows"]:
            yield from (value for value in row.values() if isinstance(value, float))
    for claim in study["claims"]:
        for row in claim.get("evidence", ()):
            yield from (value for value in row.values() if isinstance(value, float))


def verdicts_changed(before: dict[str, Any], after: dict[str, Any]) -> None:
    """One line for each claim whose verdict differs, or that is not there on one side."""
    old, new = ({c["name"]: c for c in study["claims"]} for study in (before, after))
    for name, claim in old.items():
        now = new.get(RENAMED.get(name, name))
        if now is None:
            print(f"   claim {name} is gone")
        elif now["verdict"] != claim["verdict"]:
            print(f"   {name}: {claim['verdict']} -> {now['verdict']}\n      before: {claim['because']}")
            print(f"      after: {now['because']}")
    for name in new.keys() - {RENAMED.get(name, name) for name in old}:
        print(f"   claim {name} is new: {new[name]['verdict']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    writing = verbs.add_parser("write")
    writing.add_argument("out", type=Path)
    writing.add_argument("--studies", default=",".join(STUDIES))
    writing.add_argument("--models", default="shipped,random")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    args = parser.parse_args()
    if args.verb == "compare":
        return compare(args.old, args.new)
    write(args.out, args.studies.split(","), args.models.split(","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
