"""What `hs.top_heads` costs beside the full grid, and how often it names the same heads: docs/top-heads.md.

    python -m bench.top_heads run     the full grid and three runs of top_heads on SmolLM2 (make real), resumable
    python -m bench.top_heads page    the page, from what they left      (make top-heads: both)

IOI prompts, every head zero-ablated, logit difference. The full grid is run once; its matrix of effects then stands
for the model in many random orders of the prompts, ours beside an elimination by Bonferroni's t. Everything is kept
in runs/bench/top-heads; processor seconds are added up over what it took. One thread.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import stats
from tools.real import ROOT, SOURCES, folder_of

import headscope as hs
from bench.ioi import ioi
from headscope.hashing import digests
from headscope.measures.elimination import Array, eliminate, looks_before
from headscope.models.model import Model
from headscope.results.top_heads import TOP_HEADS, heads_sweep, share_run
from headscope.sweeps import evaluate
from headscope.tables import Table

KEPT = ROOT / "runs" / "bench" / "top-heads"
PAGE = ROOT / "docs" / "top-heads.md"
KS, ORDERS, LOOKS = (1, 5, 10), 50, (8, 16, 32, 64)
MEASURE = hs.measures.logit_difference()


def run() -> None:
    """The full grid, and `top_heads` in folders of its own."""
    torch.set_num_threads(1)
    model = hs.load(folder_of("smollm2"))
    prompts = ioi(model)
    cells = hs.grid(hs.zero("z"), layers="all", heads="all")
    with _Timed("grid"):
        hs.sweep(model, prompts, cells, MEASURE, out=KEPT / "grid")
    for k in KS:
        with _Timed(f"k{k}"):
            hs.top_heads(model, prompts, MEASURE, k, out=KEPT / f"k{k}")
    clean = evaluate(model, prompts, [MEASURE])[0].numpy()
    np.savez(
        KEPT / "matrix.npz", damage=clean[:, None] - _matrix(model, prompts), heads=[str(h) for h in model.heads]
    )


class _Timed:
    """Adds the processor seconds of a block to those of the runs before it, whatever ends it."""

    def __init__(self, name: str) -> None:
        self.path = KEPT / f"{name}.json"

    def __enter__(self) -> None:
        self.began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seconds = time.process_time() - self.began + (_seconds(self.path.stem) if self.path.exists() else 0)
        self.path.write_text(json.dumps({"cpu_seconds": seconds}), encoding="utf-8")


def _seconds(name: str) -> float:
    return float(json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))["cpu_seconds"])


def _matrix(model: Model, prompts: hs.Prompts) -> Array:
    """The measure [prompt, head] with each head ablated, from the record of the grid."""
    cells = {name: index for index, name in enumerate(digests(heads_sweep(model, prompts, MEASURE).cells))}
    values = np.full((len(prompts), len(cells)), np.nan)
    parts = pl.read_parquet(KEPT / "grid" / "parts" / "*.parquet")
    for cell, example, value in parts.select("cell", "example", "value").iter_rows():
        if cell in cells:
            values[example, cells[cell]] = value
    assert not np.isnan(values).any()
    return values


def bonferroni(damage: Array, k: int, looks: Sequence[int] = LOOKS) -> tuple[set[int], float]:
    """The k arms that are left of [unit, arm], and the share that was run: t bounds for every arm and look."""
    units, arms = damage.shape
    playing, ran, before = np.arange(arms), 0, 0
    for n in (*looks, units):
        ran, before = ran + len(playing) * (n - before), n
        values = damage[:n, playing]
        if n == units or len(playing) == k:
            break
        reach = stats.t.isf(0.05 / (2 * arms * (len(looks) + 1)), n - 1) * values.std(0, ddof=1) / np.sqrt(n)
        last = np.sort(values.mean(0) - reach)[::-1][k - 1]
        playing = playing[values.mean(0) + reach >= last]
    best = np.argsort(-damage[:before, playing].mean(0))[:k]
    return set(playing[best].tolist()), ran / damage.size


def ours(damage: Array, k: int, looks: Sequence[int] | None, seed: int) -> tuple[set[int], float]:
    """The same by `eliminate`."""
    units, arms = damage.shape
    found = eliminate(
        lambda which, rows: damage[rows][:, which], arms=arms, units=units, k=k, looks=looks, seed=seed, bounded=False
    )
    return set(np.flatnonzero(found.status == "top").tolist()), float(found.units.sum()) / damage.size


def in_orders(damage: Array) -> list[dict[str, Any]]:
    """For every k and method the mean share that was run, and in how many orders the set is that of the grid."""
    rows = []
    orders = [np.random.default_rng(seed).permutation(len(damage)) for seed in range(ORDERS)]
    for k in KS:
        right = set(np.argsort(-damage.mean(0))[:k].tolist())
        methods = {
            "Bonferroni's t, at 8, 16, 32, 64": lambda some, seed, k=k: bonferroni(some, k),
            "top_heads, at the same looks": lambda some, seed, k=k: ours(some, k, LOOKS, seed),
            "top_heads": lambda some, seed, k=k: ours(some, k, None, seed),
        }
        for name, method in methods.items():
            found = [method(damage[order], seed) for seed, order in enumerate(orders)]
            agreed, share = sum(some == right for some, _ in found), float(np.mean([share for _, share in found]))
            rows.append({"k": k, "method": name, "share": share, "agreed": agreed})
    return rows


def page() -> str:
    """The page, in Markdown."""
    kept = np.load(KEPT / "matrix.npz")
    damage, heads = kept["damage"], kept["heads"].tolist()
    looks = ", ".join(map(str, looks_before(len(damage))))
    clean = f"{len(damage)} IOI prompts, {len(heads)} heads"
    lines = [_HEAD.format(model=SOURCES["smollm2"].folder, what=clean, orders=ORDERS, looks=looks)]
    lines += ["| k | method | share of the grid's cell-prompts | the grid's set |", "| --- | --- | --- | --- |"]
    for row in in_orders(damage):
        lines.append(f"| {row['k']} | {row['method']} | {row['share']:.3f} | {row['agreed']} of {ORDERS} orders |")
    lines += ["", "## Run on the model", "", "Each in a folder of its own, one thread.", ""]
    lines += ["| | CPU-seconds | share of cell-prompts | the grid's set |", "| --- | --- | --- | --- |"]
    lines.append(f"| full grid | {_seconds('grid'):.0f} | 1 | |")
    right = [heads[index] for index in np.argsort(-damage.mean(0))]
    tables = {k: pl.read_parquet(KEPT / f"k{k}" / "top_heads.parquet") for k in KS}
    for k, frame in tables.items():
        named = set(frame.filter(pl.col("status") == "top")["head"])
        same = "yes" if named == set(right[:k]) else "no: " + " ".join(sorted(named ^ set(right[:k])))
        share = share_run(Table(TOP_HEADS, frame))
        lines.append(f"| top_heads, k = {k} | {_seconds(f'k{k}'):.0f} | {share:.3f} | {same} |")
    lines += ["", "## Both sets", "", _SETS, ""]
    lines += ["| place | full grid | damage | top_heads, k = 10 | damage | bounds | prompts |", "|" + " --- |" * 7]
    for place, (head, row) in enumerate(zip(right, tables[max(KS)].iter_rows(named=True), strict=True), 1):
        if place > max(KS) + 2:
            break
        bounds = "none" if row["low"] is None or np.isnan(row["low"]) else f"[{row['low']:.2f}, {row['high']:.2f}]"
        exact = damage.mean(0)[heads.index(head)]
        own = f"{row['head']} ({row['status']}) | {row['damage']:.2f} | {bounds} | {row['prompts']}"
        lines.append(f"| {place} | {head} | {exact:.2f} | {own} |")
    return "\n".join([*lines, "", _FOOT])


_HEAD = """# Which heads matter most: what it costs to know

`hs.top_heads` (`headscope top`) on {model}: {what}, each zero-ablated, logit difference. The target is
the set that the full grid on these prompts gives. Below, {orders} random orders of the prompts, from its matrix:
`top_heads` looks after {looks} prompts and at all of them, Bonferroni's t after 8, 16, 32, 64 and at all, with bounds
of each head for each look and no account of the prompts being finitely many.
"""
_SETS = """Places within the top are not claimed, only who is in it: heads that are settled stop at the prompts shown,
and their damage is the mean over those; bounds are of the mean over all prompts, jointly for all heads and looks."""
_FOOT = """## How to run it

    make real MODELS=smollm2
    make top-heads

This page is written by `bench/top_heads.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("run", "page"))
    given = parser.parse_args()
    if given.verb == "run":
        run()
    else:
        PAGE.write_text(page(), encoding="utf-8")
        print(Path(PAGE))


if __name__ == "__main__":
    main()
