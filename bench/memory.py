"""How much memory a sweep takes, beside its budget: the growth of the process while cells run.

    PYTHONPATH=src python bench/memory.py [KIND ...] [--budgets 64 200] [--prompts 32]

A random GPT-2 of six layers (d 256, 128 tokens per prompt). Each case runs in a process of its own, which notes
its resident memory every two milliseconds; what counts is the peak above what it held before the sweep, model and
prompts included. Needs /proc (Linux).
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import transformers

import headscope as hs

LENGTH, VOCABULARY = 128, 8000
KINDS = ("zero", "knock_out", "patch", "patch_z", "pattern")


def cells(kind: str, count: int) -> Any:
    """A grid of this kind; sources are other prompts of the same shape."""
    source = drawn(count, 1)
    match kind:
        case "zero":
            return hs.grid(hs.zero("z"), layers="all", heads="all")
        case "knock_out":
            return hs.grid(hs.knock_out("z", "all", [1, 2]), layers="all", heads="all")
        case "patch":
            return hs.grid(hs.patch("resid_pre", source=source), layers="all", positions=range(0, LENGTH, 16))
        case "patch_z":
            return hs.grid(hs.patch("z", source=source), layers="all", heads="all")
    return hs.grid(hs.to_bos("z"), layers="all", positions=range(16, LENGTH, 16))


def drawn(count: int, seed: int) -> hs.Prompts:
    """Random prompts."""
    ids = torch.randint(1, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return hs.Prompts.of(ids)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grown_bytes(kind: str, budget: int, count: int) -> int:
    """The peak of this process's memory during one sweep, above what it had before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=256, n_layer=6, n_head=4, vocab_size=VOCABULARY, n_positions=256, bos_token_id=0, eos_token_id=None
    )
    model = hs.load(transformers.GPT2LMHeadModel(config).eval())
    model.memory_bytes = budget
    given, grid = drawn(count, 0), cells(kind, count)
    model.run(given.rows([0]))  # what is allocated only once
    before, peak, done = resident_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], resident_bytes())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    hs.sweep(model, given, grid, hs.measures.loss([60, LENGTH - 2]))
    done.set()
    watcher.join()
    return peak[0] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND")
    parser.add_argument("--budgets", nargs="+", type=int, default=[64, 200], help="in MB")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--alone", action="store_true", help="one case, in this process")
    asked = parser.parse_args()
    if asked.alone:
        print(grown_bytes(asked.kinds[0], asked.budgets[0] * 2**20, asked.prompts))
        return
    print("kind        budget MB   grew MB   of the budget")
    for kind in asked.kinds:
        for budget in asked.budgets:
            command = [sys.executable, __file__, kind, "--alone", "--budgets", str(budget)]
            command += ["--prompts", str(asked.prompts)]
            grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**20
            print(f"{kind:10} {budget:10} {grown:9.0f} {grown / budget:13.0%}", flush=True)


if __name__ == "__main__":
    main()
