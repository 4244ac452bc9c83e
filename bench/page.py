"""Writes docs/performance.md from what `bench.sweeps` measured: every figure on that page comes from here.

python -m bench.page runs/bench/sweeps-1.json runs/bench/sweeps-2.json --out docs/performance.md
"""

import argparse
import json
from pathlib import Path
from typing import Any

# What each row is, and what a sweep of it was asked to reach against TransformerLens (against naive for f).
ROWS = {
    "a": ("residual stream, layer x position, 64 tokens", 8.5),
    "a256": ("the same, 256 tokens", 6.5),
    "b": ("head output, all positions, 64 tokens", 4.5),
    "b2": ("layer x head x position, 64 tokens", 10.0),
    "c": ("every head ablated, 4 x 128 tokens, loss on the last quarter", 2.4),
    "d": ("one head to BOS at every position, read there, 4 x 128", 100.0),
    "d'": ("the same, read at the last position", 12.0),
    "e": ("40 tokens generated under each of 12 ablations", 4.5),
    "f": ("iterative ablation, five rounds of a layer x position sweep, against full passes", 8.0),
}
PEERS = ("TransformerLens", "nnsight", "hooks")


def page(measured: list[dict[str, Any]]) -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for run in measured:
        threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
        peak = max(run["peak"].values()) / 1e9
        parts += [
            f"## {threads.capitalize()}",
            "",
            f"Matrix products of a block's shapes reach {peak:.0f} GFLOP/s here ({', '.join(run['versions'])}; "
            f"medians of {run['rounds']} rounds; {run['machine']}).",
            "",
            *_table(run["rows"]),
            "",
        ]
    return "\n".join([*parts, _FOOT])


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = ["sweep", "ms a cell", *(f"{peer} / headscope" for peer in PEERS), "asked", "share of peak", "difference"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in sorted(rows, key=lambda row: list(ROWS).index(row["row"])):
        what, asked = ROWS[row["row"]]
        ratios = [_both(row, peer) for peer in PEERS]
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        told = "same tokens" if all(row.get("same", [False])) else ""
        error = f"{row['worst_error']:.0e}" if "worst_error" in row else told
        own = f"{row['cpu_ms']['headscope']:.1f}"
        lines.append("| " + " | ".join([what, own, *ratios, f"{asked:g}", share, error]) + " |")
    return lines


def _both(row: dict[str, Any], peer: str) -> str:
    """The ratio in CPU time and, where it was measured, in wall time."""
    if peer not in row["ratio_cpu"]:
        return ""
    wall = row.get("ratio_wall", {}).get(peer)
    return f"{row['ratio_cpu'][peer]:.1f}" + (f" ({wall:.1f})" if wall is not None else "")


_HEAD = """# Performance of sweeps

Time per cell on GPT-2 small's shape (random weights, float32, CPU), headscope beside plain PyTorch hooks,
TransformerLens and nnsight, interleaved in one run. Ratios are of process CPU time, in brackets of wall time; above 1
headscope is faster. headscope runs whole grids, thinned along positions and heads; the others run sampled cells of
them, one full pass each. "asked" is the ratio to TransformerLens (last two rows: to full passes) that was the goal.
"difference" is the largest relative difference of values from any peer; "share of peak" is how much of the rate of
matrix products headscope's floating-point operations reach.
"""
_FOOT = """## How to run it

    make bench          # headscope and plain hooks, and whatever peers are installed
    make peers bench    # with TransformerLens and nnsight

This page is written by `bench/page.py` from the JSON of `bench/sweeps.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    given = parser.parse_args()
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in given.measured]
    given.out.write_text(page(runs), encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
