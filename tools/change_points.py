"""How often the change point is right: simulated curves of known changes and drifts against `measures.change_point`.

    python -m tools.change_points [--curves 500] [--out docs/change-points.md]      (make change-points)

Curves have 24 to 33 checkpoints, even in step or in log step, and a rise (or fall) of 1 with normal noise. The window
of a change (10 to 90%) takes 2 to 12 checkpoints and lies between a fifth and nine tenths of the checkpoints. Rows
whose curves the model does not describe (correlated noise, a straight ramp, a change on top of a drift) stand beside
the rest. Seeds are fixed; a share has one standard error beside it. Ten minutes of one thread; goes on after a kill.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import expit

from headscope.measures.change_point import ChangePoint, change_point, overlap

Array = np.ndarray
Row = tuple[str, Callable[[], tuple[Array, ...]]]
RESAMPLES = 200
HEADING_OF_CHANGES = (
    "| curve | grid | window, checkpoints | noise | shown | overlap >= .7 | interval covers | thinned |"
)
HEADING_OF_DRIFTS = "| curve | grid | noise | no change shown | by p alone |"


@dataclass(frozen=True)
class Change:
    """A row of simulated changes."""

    width: int
    noise: float
    grid: str = "even"
    kind: str = "logistic"
    sign: int = 1
    correlation: float = 0.0
    drift: float = 0.0

    @property
    def name(self) -> str:
        extra = [self.kind, self.sign < 0 and "falling", self.drift and f"on a log drift of {self.drift:g}"]
        return ", ".join(filter(None, [*extra, self.correlation and f"noise correlated {self.correlation:g}"]))


CHANGES = (
    *(Change(width, noise) for noise in (0.03, 0.05) for width in (2, 4, 8, 12)),
    *(Change(width, 0.1) for width in (2, 8)),
    *(Change(width, 0.05, "log") for width in (2, 4, 6)),
    Change(8, 0.05, sign=-1),
    Change(8, 0.05, correlation=0.4),
    Change(8, 0.05, kind="ramp"),
    Change(8, 0.05, drift=0.2),
)
DRIFTS: dict[str, Callable[[Array], Array]] = {
    "flat": lambda t: 0 * t,
    "linear": lambda t: t,
    "log": np.log,
    "power -1": lambda t: t**-1.0,
    "power -0.5": lambda t: t**-0.5,
    "power 0.5": lambda t: t**0.5,
    "power 2": lambda t: t**2,
    "saturation": lambda t: -np.exp(-4 * t / t.max()),
}


@dataclass(frozen=True)
class Simulated:
    """Steps and values [checkpoint] of one curve; `truth` holds its midpoint and window, in steps."""

    steps: Array
    values: Array
    truth: ChangePoint | None = None


def steps_of(grid: str, n: int) -> Array:
    return np.arange(1, n + 1) * 50.0 if grid == "even" else np.geomspace(10, 10 * 1.2 ** (n - 1), n)


def noise_of(rng: np.random.Generator, n: int, deviation: float, correlation: float = 0.0) -> Array:
    noise = rng.normal(size=n)
    for at in range(1, n):
        noise[at] = correlation * noise[at - 1] + np.sqrt(1 - correlation**2) * noise[at]
    return deviation * noise


def changes(row: Change, curves: int) -> Iterator[Simulated]:
    rng = np.random.default_rng([1, row.width, int(1000 * row.noise), len(row.name)])
    for _ in range(curves):
        n = int(rng.integers(24, 34))
        steps = steps_of(row.grid, n)
        begun = rng.uniform(n / 5, 0.9 * n - row.width)
        low, high = np.interp([begun, begun + row.width], np.arange(n), np.log(steps))
        away = (np.log(steps) - (low + high) / 2) / (high - low)
        rise = expit(2 * np.log(9) * away) if row.kind == "logistic" else np.clip(0.5 + 0.8 * away, 0, 1)
        drift = row.drift * np.log(steps / steps[0]) / np.log(steps[-1] / steps[0])
        values = row.sign * (rise + drift) + noise_of(rng, n, row.noise, row.correlation)
        window = float(np.exp(low)), float(np.exp(high))
        yield Simulated(steps, values, ChangePoint(True, midpoint=float(np.exp((low + high) / 2)), window=window))


def drifts(name: str, noise: float, grid: str, curves: int) -> Iterator[Simulated]:
    rng = np.random.default_rng([2, int(1000 * noise), len(grid), list(DRIFTS).index(name)])
    for _ in range(curves):
        n = int(rng.integers(24, 34))
        steps = steps_of(grid, n)
        shape = DRIFTS[name](steps)
        shape = shape / (np.ptp(shape) or 1.0)
        yield Simulated(steps, shape + noise_of(rng, n, noise))


@dataclass(frozen=True)
class Found:
    """Of the curves of a row: whether a change is shown, and of those that do, what was asked of them."""

    shown: Array
    overlaps: Array
    covered: Array
    moved: Array


def found(row: Change, curves: int) -> Found:
    """`moved` is the distance of the midpoint on every other checkpoint from that on all, in spacings of those."""
    shown, overlaps, covered, moved = [], [], [], []
    for seed, curve in enumerate(changes(row, curves)):
        one = change_point(curve.steps, curve.values, seed=seed, resamples=RESAMPLES)
        shown.append(one.shown)
        overlaps.append(overlap(one, curve.truth) if one.shown else 0.0)
        if not one.shown:
            continue
        covered.append(one.low <= curve.truth.midpoint <= one.high)
        half = change_point(curve.steps[1::2], curve.values[1::2], seed=seed, resamples=RESAMPLES // 2)
        if half.shown:
            places = np.interp(
                np.log([one.midpoint, half.midpoint]), np.log(curve.steps), np.arange(len(curve.steps))
            )
            moved.append(abs(places[0] - places[1]) / 2)
    return Found(*(np.array(each) for each in (shown, overlaps, covered, moved)))


def none_shown(name: str, noise: float, grid: str, curves: int) -> tuple[Array, Array]:
    """Of each drift [curve]: whether no change is shown, and whether p alone says so."""
    points = [
        change_point(curve.steps, curve.values, seed=seed, resamples=RESAMPLES)
        for seed, curve in enumerate(drifts(name, noise, grid, curves))
    ]
    return np.array([not each.shown for each in points]), np.array([each.p_none > 0.05 for each in points])


def share(hits: Array) -> str:
    if not len(hits):
        return "none"
    rate = float(np.mean(hits))
    return f"{rate:.3f} ± {np.sqrt(max(rate * (1 - rate), 1 / len(hits)) / len(hits)):.3f}"


def rows_of_changes(curves: int) -> Iterator[Row]:
    for row in CHANGES:
        yield f"| {row.name} | {row.grid} | {row.width} | {row.noise:g} |", partial(_change, row, curves)


def rows_of_drifts(curves: int) -> Iterator[Row]:
    for grid in ("even", "log"):
        for name in DRIFTS:
            noises = (0.05,) if name == "flat" else (0.01, 0.05)
            label = f"| {name} | {grid} | {' and '.join(map(str, noises))} |"
            yield label, partial(_drift, name, noises, grid, curves)


def _change(row: Change, curves: int) -> tuple[Array, ...]:
    got = found(row, curves)
    return got.shown, got.overlaps >= 0.7, got.covered, got.moved <= 1


def _drift(name: str, noises: tuple[float, ...], grid: str, curves: int) -> tuple[Array, ...]:
    each = [none_shown(name, noise, grid, curves // len(noises)) for noise in noises]
    return tuple(np.concatenate(parts) for parts in zip(*each, strict=True))


def page(curves: int, done: dict[str, str]) -> Iterator[str]:
    """The lines of the page; those that are `done`, by what they begin with, are not simulated again."""
    yield f"""# How often the change point is right

By `python -m tools.change_points --curves {curves}` (`make change-points`): {curves} curves a row.

A curve has 24 to 33 checkpoints (every 50 steps, or 1.2 times the last), a rise of 1 and normal noise of this
standard deviation; the true window lies between a fifth and nine tenths of the checkpoints. *Overlap* counts a change
that is not shown as 0; *covers* and *thinned* are of those shown. Thinned: on every other checkpoint the midpoint is
within one spacing of those (of curves whose change is shown on both). Drifts with two noises have half the curves of
each."""
    for title, heading, rows in (
        ("Changes", HEADING_OF_CHANGES, rows_of_changes(curves)),
        ("Drifts", HEADING_OF_DRIFTS, rows_of_drifts(curves)),
    ):
        yield f"\n## {title}\n\n{heading}\n{'|---' * (heading.count('|') - 1)}|"
        for label, hits in rows:
            yield done.get(label) or f"{label} {' | '.join(map(share, hits()))} |"


def kept(path: Path | None, curves: int) -> dict[str, str]:
    """Rows of a page of as many curves that was begun and not finished, by their labels."""
    begun = path.with_suffix(".part") if path else None
    text = begun.read_text(encoding="utf-8") if begun and begun.exists() else ""
    labels = [label for label, _ in (*rows_of_changes(curves), *rows_of_drifts(curves))]
    lines = text.splitlines() if f"--curves {curves}`" in text else []
    return {label: line for line in lines for label in labels if line.startswith(label)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--curves", type=int, default=500, help="simulated curves for each row")
    parser.add_argument("--out", type=Path, help="the page; goes on from PAGE.part after a kill")
    args = parser.parse_args()
    lines = []
    for line in page(args.curves, kept(args.out, args.curves)):
        lines.append(line)
        print(line, flush=True)
        if args.out:
            args.out.with_suffix(".part").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if args.out:
        args.out.with_suffix(".part").replace(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
