"""How long a cell of a sweep takes: headscope, plain hooks, TransformerLens, nnsight.

    PYTHONPATH=src python bench/sweeps.py [ROW ...] [--rounds 3] [--threads 1] [--out bench.json]

A model of GPT-2 small's shape with random weights. headscope runs whole grids (thinned along positions and
heads), the others sampled cells of them; what is compared is time per cell. Rounds are interleaved, medians are
reported, process CPU time beside wall time, and values are checked against plain hooks. Peers that are not
installed are left out. `peak` is the best rate of products of the shapes that a block has; `share` is how much
of it headscope reaches.
"""

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import headscope as hs
from headscope.measures.readouts import Measure
from headscope.sweeps import Cell, execute, generate_many, grid, iterative_ablation

try:
    import transformer_lens
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
except ImportError:
    transformer_lens = None
try:
    import nnsight
except ImportError:
    nnsight = None

LAYERS, HEADS, WIDTH, EACH = 12, 12, 768, 64


@dataclass(frozen=True)
class Row:
    """One kind of sweep: cells for headscope, and which of them the peers run."""

    name: str
    prompts: hs.Prompts
    cells: Sequence[Cell]
    measure: Measure
    sampled: Sequence[int]
    kind: str  # "stream", "head", "zero" or "bos"


@dataclass(frozen=True)
class Ground:
    """The models, and what cells put in."""

    model: hs.Model
    streams: list[torch.Tensor]
    z: list[torch.Tensor]
    peers: dict[str, Callable[[Row, Cell], torch.Tensor]]


def prompts(count: int, length: int, seed: int) -> hs.Prompts:
    drawn = torch.randint(1, 50257, (count, length), generator=torch.Generator().manual_seed(seed))
    return hs.Prompts(tuple(map(tuple, drawn.tolist())), answers=(11,) * count, foils=(262,) * count)


def rows(model: hs.Model, wanted: Sequence[str]) -> list[Row]:
    """The rows of the table, by name."""
    found = {}
    difference = hs.measures.logit_difference()

    def add(
        name: str, given: hs.Prompts, edit: Any, measure: Measure, sampled: Sequence[int], kind: str, **axes: Any
    ) -> None:
        if not wanted or name in wanted:
            cells = grid(edit, **axes).cells(LAYERS, model.heads, given.longest)
            found[name] = Row(name, given, cells, measure, [i % len(cells) for i in sampled], kind)

    for length, name in ((64, "a"), (256, "a256")):
        clean, corrupted = prompts(1, length, 0), prompts(1, length, 1)
        if not wanted or {name, "b", "b2"} & set(wanted):
            source = model.run(clean, capture=["resid_pre", "z"])
            thinned = range(length) if length == 64 else range(16, length, 16)
            patched = hs.patch("resid_pre", source=source)
            add(
                name,
                corrupted,
                patched,
                difference,
                (17, 41, 67) if length == 256 else (70, 330, 550),
                "stream",
                layers="all",
                positions=thinned,
            )
        if length == 64:
            heads = hs.patch("z", source=source) if not wanted or {"b", "b2"} & set(wanted) else None
            add("b", corrupted, heads, difference, (20, 60, 100), "head", layers="all", heads="all")
            few = range(4, 64, 8)
            add(
                "b2",
                corrupted,
                heads,
                difference,
                (70, 170, 270),
                "head",
                layers="all",
                heads=[0, 3, 6, 9],
                positions=few,
            )
    data = prompts(4, 128, 2)
    quarter = hs.measures.loss(range(95, 127))
    bos = {"layers": [9], "heads": [7]}
    add("c", data, hs.zero("z"), quarter, (10, 33), "zero", layers="all", heads=[0, 3, 6, 9])
    add("d", data, hs.to_bos("z"), hs.measures.loss("cell"), (5, 121), "bos", positions=range(127), **bos)
    add("d'", data, hs.to_bos("z"), difference, (5, 121), "bos", positions=range(128), **bos)
    return list(found.values())


def with_hooks(hf: Any, ground: Ground, row: Row, cell: Cell) -> torch.Tensor:
    """Logits of one cell by a plain forward pass with a hook."""
    where = slice(None) if cell.position is None else slice(cell.position, cell.position + 1)
    block = hf.transformer.h[cell.layer]

    def stream(_: Any, args: Any) -> Any:
        changed = args[0].clone()
        changed[:, where] = ground.streams[cell.layer][:, where]
        return (changed, *args[1:])

    def head(_: Any, args: Any) -> Any:
        z = args[0].clone()
        own = slice(cell.head * EACH, (cell.head + 1) * EACH)
        z[:, where, own] = _put(ground, row, cell, where, z[:, where, own])
        return (z,)

    place, hook = (block, stream) if row.kind == "stream" else (block.attn.c_proj, head)
    handle = place.register_forward_pre_hook(hook)
    try:
        return hf(row.prompts.ids, use_cache=False).logits
    finally:
        handle.remove()


def _put(ground: Ground, row: Row, cell: Cell, where: slice, like: torch.Tensor) -> torch.Tensor:
    """What a cell puts in place of a head's output."""
    if row.kind == "zero":
        return torch.zeros_like(like)
    if row.kind == "head":
        return ground.z[cell.layer][:, where, cell.head]
    return bos_values(ground.model, row.prompts, cell).expand_as(like)


_values: dict[Any, torch.Tensor] = {}


def bos_values(model: hs.Model, given: hs.Prompts, cell: Cell) -> torch.Tensor:
    """The value of a head at the first token, [prompt, 1, head_dim]."""
    key = (id(given), cell.layer)
    if key not in _values:
        _values[key] = model.run(given, capture=("v", cell.layer))["v", cell.layer]
    return _values[key][:, :1, cell.head]


def ground_of(model: hs.Model) -> Ground:
    """The models of all that are installed, and the source run."""
    source = model.run(prompts(1, 64, 0), capture=["resid_pre", "z"])
    long = model.run(prompts(1, 256, 0), capture=["resid_pre"])
    ground = Ground(model, [], [source["z", layer] for layer in range(LAYERS)], {})
    streams = {
        64: [source["resid_pre", i] for i in range(LAYERS)],
        256: [long["resid_pre", i] for i in range(LAYERS)],
    }

    def of_length(run: Callable[[Row, Cell], torch.Tensor]) -> Callable[[Row, Cell], torch.Tensor]:
        def timed(row: Row, cell: Cell) -> torch.Tensor:
            ground.streams[:] = streams.get(row.prompts.longest, [])
            if row.kind == "bos":
                bos_values(model, row.prompts, cell)  # now: not from within a hook
            with torch.no_grad():
                return run(row, cell)

        return timed

    ground.peers["hooks"] = of_length(lambda row, cell: with_hooks(model.hf, ground, row, cell))
    if transformer_lens is not None:
        bridge = build_bridge_from_module(copy.deepcopy(model.hf), "GPT2LMHeadModel", hf_config=model.config).eval()
        ground.peers["TransformerLens"] = of_length(lambda row, cell: with_lens(bridge, ground, row, cell))
    if nnsight is not None:
        traced = nnsight.NNsight(copy.deepcopy(model.hf))
        ground.peers["nnsight"] = of_length(lambda row, cell: with_nnsight(traced, ground, row, cell))
    return ground


def with_lens(bridge: Any, ground: Ground, row: Row, cell: Cell) -> torch.Tensor:
    where = slice(None) if cell.position is None else slice(cell.position, cell.position + 1)

    def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        if row.kind == "stream":
            value[:, where] = ground.streams[cell.layer][:, where]
        else:
            value[:, where, cell.head] = _put(ground, row, cell, where, value[:, where, cell.head])
        return value

    name = f"blocks.{cell.layer}." + ("hook_resid_pre" if row.kind == "stream" else "attn.hook_z")
    return bridge.run_with_hooks(row.prompts.ids, return_type="logits", fwd_hooks=[(name, hook)])


def with_nnsight(traced: Any, ground: Ground, row: Row, cell: Cell) -> torch.Tensor:
    where = slice(None) if cell.position is None else slice(cell.position, cell.position + 1)
    block = traced.transformer.h[cell.layer]
    own = slice(cell.head * EACH, (cell.head + 1) * EACH) if cell.head is not None else slice(None)
    like = torch.empty(len(row.prompts), 1, EACH)
    put = ground.streams[cell.layer][:, where] if row.kind == "stream" else _put(ground, row, cell, where, like)
    with traced.trace(row.prompts.ids):
        if row.kind == "stream":
            stream = block.input.clone()
            stream[:, where] = put
            block.input = stream
        else:
            block.attn.c_proj.input[:, where, own] = put
        logits = traced.lm_head.output.save()
    return logits


@contextmanager
def clock(times: list[tuple[float, float]], cells: int):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    times.append(((time.process_time() - cpu) / cells, (time.perf_counter() - wall) / cells))


def measured(row: Row, logits: torch.Tensor, cell: Cell) -> torch.Tensor:
    given = row.prompts
    if row.measure.read_out.positions.role == "cell":
        given = hs.Prompts(given.tokens, {"cell": ((cell.position,),) * len(given)}, given.answers, given.foils)
    return row.measure(logits, given)


def table_row(row: Row, ground: Ground, rounds: int, peak: float) -> dict[str, Any]:
    """Time per cell and ratios of one row."""
    times: dict[str, list[tuple[float, float]]] = {"headscope": [], **{name: [] for name in ground.peers}}
    with FlopCounterMode(display=False) as counter:
        list(execute(ground.model, row.prompts, row.cells, row.measure))  # checked here, once
    with FlopCounterMode(display=False) as counter:
        found = {r.index: r for r in execute(ground.model, row.prompts, row.cells, row.measure)}
    worst = 0.0
    for peer in ground.peers.values():
        for index in row.sampled:
            value = measured(row, peer(row, row.cells[index]), row.cells[index])
            error = (value - found[index].values).abs().max() / value.abs().max()
            worst = max(worst, float(error))
    for _ in range(rounds):
        for name, peer in ground.peers.items():
            with clock(times[name], len(row.sampled)):
                for index in row.sampled:
                    measured(row, peer(row, row.cells[index]), row.cells[index])
        with clock(times["headscope"], len(row.cells)):
            list(execute(ground.model, row.prompts, row.cells, row.measure))
    ratios = {
        name: [
            [theirs[i] / ours[i] for theirs, ours in zip(times[name], times["headscope"], strict=True)]
            for i in (0, 1)
        ]
        for name in ground.peers
    }
    own = statistics.median(cpu for cpu, _ in times["headscope"])
    return {
        "row": row.name,
        "cells": len(row.cells),
        "cpu_ms": {name: 1e3 * statistics.median(cpu for cpu, _ in taken) for name, taken in times.items()},
        "wall_ms": {name: 1e3 * statistics.median(wall for _, wall in taken) for name, taken in times.items()},
        "ratio_cpu": {name: statistics.median(both[0]) for name, both in ratios.items()},
        "ratio_wall": {name: statistics.median(both[1]) for name, both in ratios.items()},
        "worst_error": worst,
        "share_of_peak": counter.get_total_flops() / (own * len(row.cells)) / peak,
        "paths": sorted({f"{r.path} {r.note}".strip() for r in found.values()}),
    }


def generation(model: hs.Model, rounds: int) -> dict[str, Any]:
    """40 tokens under each of 12 ablations: as rows of one batch, and one by one."""
    given, sets = prompts(1, 16, 3), [hs.zero(f"5.{head}") for head in range(HEADS)]
    times: dict[str, list[tuple[float, float]]] = {"headscope": [], "hooks": []}

    def by_hooks(head: int) -> torch.Tensor:
        def cut(_: Any, args: Any) -> Any:
            z = args[0].clone()
            z[..., head * EACH : (head + 1) * EACH] = 0
            return (z,)

        handle = model.hf.transformer.h[5].attn.c_proj.register_forward_pre_hook(cut)
        try:
            return model.hf.generate(given.ids, max_new_tokens=40, min_new_tokens=40, do_sample=False, pad_token_id=0)
        finally:
            handle.remove()

    for _ in range(rounds):
        with clock(times["headscope"], HEADS):
            ours = generate_many(model, given, sets, max_new_tokens=40)
        with clock(times["hooks"], 2):
            theirs = [by_hooks(head) for head in (3, 7)]
    same = [ours[h].tokens[0] == tuple(t[0, 16:].tolist()) for h, t in zip((3, 7), theirs, strict=True)]
    ratio = [t[0] / o[0] for t, o in zip(times["hooks"], times["headscope"], strict=True)]
    cpu = {name: 1e3 * statistics.median(c for c, _ in taken) for name, taken in times.items()}
    return {"row": "e", "cells": 12, "cpu_ms": cpu, "ratio_cpu": {"hooks": statistics.median(ratio)}, "same": same}


def ablating_one_by_one(model: hs.Model, rounds: int) -> dict[str, Any]:
    """Five rounds of ablating the place (layer and position) that hurts most, and as many plain passes."""
    given, measure = prompts(1, 64, 1), hs.measures.logit_difference()
    cells = grid(hs.zero("attn_out"), layers="all", positions=range(4, 64, 8)).cells(LAYERS, [], 64)
    passes = sum(len(cells) - done for done in range(5))
    times: dict[str, list[tuple[float, float]]] = {"headscope": [], "hooks": []}
    list(iterative_ablation(model, given, cells, measure, rounds=5))  # checked here, once
    for _ in range(rounds):
        with clock(times["headscope"], passes):
            list(iterative_ablation(model, given, cells, measure, rounds=5))
        with clock(times["hooks"], 3), torch.no_grad():
            for _ in range(3):
                measure(model.hf(given.ids, use_cache=False).logits, given)
    ratio = [t[0] / o[0] for t, o in zip(times["hooks"], times["headscope"], strict=True)]
    cpu = {name: 1e3 * statistics.median(c for c, _ in taken) for name, taken in times.items()}
    return {"row": "f", "cells": passes, "cpu_ms": cpu, "ratio_cpu": {"hooks": statistics.median(ratio)}}


def peak_flops() -> dict[int, float]:
    """Rates of matrix products as a block has them, in floating-point operations a second, by rows."""
    found = {}
    shapes = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
    for count in (64, 256, 1024):
        pairs = [(torch.randn(count, a), torch.randn(a, b), torch.randn(b)) for a, b in shapes]
        taken = []
        for _ in range(8):
            start = time.process_time()
            for x, w, bias in pairs:
                torch.addmm(bias, x, w)
            taken.append(time.process_time() - start)
        found[count] = 2 * count * sum(a * b for a, b in shapes) / statistics.median(taken[1:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = transformers.GPT2Config(bos_token_id=0, eos_token_id=None)
    hf = transformers.GPT2LMHeadModel(config).eval()
    hf.generation_config.eos_token_id = None
    model = hs.load(hf)
    ground = ground_of(model)
    rates = peak_flops()
    print("peak GFLOP/s by rows:", {count: round(rate / 1e9, 1) for count, rate in rates.items()}, flush=True)
    results: list[dict[str, Any]] = []
    for row in rows(model, given.rows):
        results.append(table_row(row, ground, given.rounds, max(rates.values())))
        _print(results[-1])
    if not given.rows or "e" in given.rows:
        results.append(generation(model, given.rounds))
        _print(results[-1])
    if not given.rows or "f" in given.rows:
        results.append(ablating_one_by_one(model, given.rounds))
        _print(results[-1])
    if given.out:
        told = {"threads": given.threads, "rounds": given.rounds, "peak": rates, **circumstances(), "rows": results}
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        Path(given.out).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def circumstances() -> dict[str, Any]:
    """Versions, and how many cores were there."""
    found = []
    for name in ("torch", "transformers", "transformer-lens", "nnsight"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return {"versions": found, "machine": f"{os.cpu_count()} cores"}


def _print(result: dict[str, Any]) -> None:
    taken = "  ".join(f"{name} {ms:.1f} ms" for name, ms in result["cpu_ms"].items())
    ratio = "  ".join(f"{name} {value:.1f}x" for name, value in result["ratio_cpu"].items())
    more = {k: v for k, v in result.items() if k in ("worst_error", "share_of_peak", "paths", "same")}
    print(f"{result['row']:5} {taken}  |  {ratio}  |  {more}", flush=True)


if __name__ == "__main__":
    main()
