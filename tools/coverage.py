"""How often the bounds hold: simulated samples of known means against what `measures` says of them.

    python tools/coverage.py [--trials 400] [--out docs/coverage.md]      (make coverage)

Rates of .02 to .98; means of normal, tied, lognormal, skewed and mostly-zero values; families of 1 to 300 cells; the
power to find one cell in 300; equivalence at the margin. Beside every share stands its Monte-Carlo error (one
standard error of a share of so many trials). Seeds are fixed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from headscope.measures.equivalence import Outcome, change
from headscope.measures.intervals import interval
from headscope.measures.rates import clopper_pearson
from headscope.measures.simultaneous import simultaneous

Generator = np.random.Generator
RATES = (0.02, 0.1, 0.5, 0.9, 0.98)
SIZES = (20, 50, 100)
FEW = 3  # families of so few cells cost little, and have eight times as many trials


def _mostly_zero(g: Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(g.random(shape) < 0.9, 0.0, g.exponential(size=shape))


# Each kind with its mean and the coverage that it must reach at 20, 50 and 100 units.
KINDS: dict[str, tuple[Callable[[Generator, tuple[int, ...]], np.ndarray], float]] = {
    "normal": (lambda g, shape: g.normal(size=shape), 0.0),
    "ties (five values)": (lambda g, shape: g.integers(0, 5, shape).astype(float), 2.0),
    "lognormal": (lambda g, shape: g.lognormal(size=shape), float(np.exp(0.5))),
    "right-skewed (exponential)": (lambda g, shape: g.exponential(size=shape), 1.0),
    "left-skewed (minus exponential)": (lambda g, shape: -g.exponential(size=shape), -1.0),
    "90% zeros": (_mostly_zero, 0.1),
}


def error(share: float, trials: int) -> float:
    """One standard error of a share."""
    return float(np.sqrt(max(share * (1 - share), 1 / trials) / trials))


def told(share: float, trials: int) -> str:
    return f"{share:.3f} ± {error(share, trials):.3f}"


def rates(trials: int) -> Iterator[str]:
    yield "| rate | n | covered | mean width | of Clopper-Pearson's |\n|---|---|---|---|---|"
    for rate in RATES:
        for n in SIZES:
            g = np.random.default_rng([1, n, int(1000 * rate)])
            counts = g.binomial(n, rate, trials)
            known = {k: _bounds_of_rate(int(k), n) for k in np.unique(counts)}
            low, high = np.array([known[k] for k in counts]).T
            exact = np.mean([np.diff(clopper_pearson(int(k), n))[0] for k in counts])
            covered = float(np.mean((low <= rate) & (rate <= high)))
            width = float((high - low).mean())
            yield f"| {rate} | {n} | {told(covered, trials)} | {width:.3f} | {width / exact:.2f} |"


def _bounds_of_rate(successes: int, n: int) -> tuple[float, float]:
    values = (np.arange(n) < successes).astype(float)
    found = interval(values, within=(0.0, 1.0))
    return float(found.low), float(found.high)


def means(trials: int) -> Iterator[str]:
    yield "| values | n | covered | undefined | median width |\n|---|---|---|---|---|"
    for kind, (draw, mean) in KINDS.items():
        for n in SIZES:
            g = np.random.default_rng([2, n, len(kind)])
            found = [interval(draw(g, (n,)), seed=trial) for trial in range(trials)]
            low, high = (np.array([float(getattr(one, side)) for one in found]) for side in ("low", "high"))
            defined = ~np.isnan(low)
            covered = float(np.mean((low <= mean)[defined] & (mean <= high)[defined])) if defined.any() else np.nan
            width = float(np.median((high - low)[defined])) if defined.any() else np.nan
            yield (f"| {kind} | {n} | {told(covered, int(defined.sum()))} | {1 - defined.mean():.3f} | {width:.2f} |")


def families(trials: int) -> Iterator[str]:
    yield "| values | cells | n | families with an error | width, of the t interval |\n|---|---|---|---|---|"
    for kind in ("normal", "right-skewed (exponential)", "left-skewed (minus exponential)"):
        draw, mean = KINDS[kind]
        for cells in (1, 3, 40, 300):
            for n in (20, 50):
                g = np.random.default_rng([3, n, cells, len(kind)])
                wrong, ratio, many = 0, [], trials * (8 if cells <= FEW else 1)
                for trial in range(many):
                    values = draw(g, (n, cells))
                    found = simultaneous(values, seed=trial)
                    wrong += bool((found.at_least > mean).any())
                    alone = stats.t.ppf(1 - 0.025 / cells, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
                    ratio.append(float(np.mean((found.high - found.low) / (2 * alone))))
                yield (f"| {kind} | {cells} | {n} | {told(wrong / many, many)} | {np.mean(ratio):.2f} |")


def rates_in_families(trials: int) -> Iterator[str]:
    yield "| rates of | cells | n | families with an error |\n|---|---|---|---|"
    for rate in (0.02, 0.5, 0.98):
        for cells in (3, 40, 300):
            g = np.random.default_rng([4, cells, int(100 * rate)])
            wrong = 0
            for trial in range(trials):
                found = simultaneous((g.random((50, cells)) < rate).astype(float), within=(0.0, 1.0), seed=trial)
                wrong += bool(((found.low > rate) | (found.high < rate)).any())
            yield f"| {rate} | {cells} | 50 | {told(wrong / trials, trials)} |"


def power(trials: int) -> Iterator[str]:
    g, hits = np.random.default_rng(5), 0
    for trial in range(trials):
        values = g.normal(size=(50, 300))
        values[:, 0] += 1.0
        hits += bool(simultaneous(values, seed=trial).at_least[0] > 0)
    yield f"A shift of one standard deviation in one of 300 cells at n = 50 is found: {told(hits / trials, trials)}."


def equivalence(trials: int) -> Iterator[str]:
    yield "| values | n | called equivalent at the margin |\n|---|---|---|"
    for kind in ("normal", "right-skewed (exponential)", "left-skewed (minus exponential)"):
        draw, mean = KINDS[kind]
        for n in (10, *SIZES):
            g, wrong = np.random.default_rng([6, n, len(kind)]), 0
            for trial in range(trials):
                values = draw(g, (n,)) - mean + 0.5
                wrong += change(values, margin=0.5, seed=trial).outcome is Outcome.EQUIVALENT
            yield f"| {kind} | {n} | {told(wrong / trials, trials)} |"


PARTS = {
    "Rates": (rates, 20),
    "Means": (means, 1),
    "Families": (families, 0.3),
    "Rates in families": (rates_in_families, 0.3),
    "Power": (power, 0.3),
    "Equivalence": (equivalence, 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--trials", type=int, default=400, help="simulated samples; rates take 20, families .3 times as many"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    args = parser.parse_args()
    lines = [
        "# How often the bounds hold",
        "",
        f"`make coverage` (`python tools/coverage.py --trials {args.trials}`).",
    ]
    for name in args.parts.split(","):
        part, times = PARTS[name]
        lines += ["", f"## {name}", ""]
        for line in part(int(args.trials * times)):
            lines.append(line)
            print(line, flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
