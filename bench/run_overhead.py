"""What `model.run` costs beside the model's plain forward pass, on a model of GPT-2 small's shape.

    python -m bench.run_overhead [--rounds 15] [--json]

Both are timed in turn within each round, so that a busy machine slows both; the ratio is the median over
rounds of the ratios within them. Without interventions and captures `run` must cost at most 1.05 times the
plain pass. With captures it costs what is captured: printed for orientation.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, GPT2Config

import headscope as hs

LIMIT = 1.05


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(GPT2Config()).eval()
    model = hs.load(hf)
    ids = torch.randint(0, hf.config.vocab_size, (given.batch, given.tokens))

    def plain() -> None:
        with torch.inference_mode():
            hf(ids, use_cache=False)

    variants: dict[str, Callable[[], object]] = {
        "run": lambda: model.run(ids),
        "run, one head ablated": lambda: model.run(ids, interventions=hs.zero("5.1")),
        "run, patterns and z captured": lambda: model.run(ids, capture=["pattern", "z"]),
    }
    ratios: dict[str, list[float]] = {name: [] for name in variants}
    plain()
    for action in variants.values():
        action()
    base = []
    for _ in range(given.rounds):
        before = seconds(plain)
        for name, action in variants.items():
            taken = seconds(action)
            after = seconds(plain)
            # Beside the mean of the plain passes just before and after, so that drift cancels.
            ratios[name].append(taken / ((before + after) / 2))
            base.append(after)
            before = after
    found = {name: statistics.median(values) for name, values in ratios.items()}
    if given.json:
        print(json.dumps({"plain_seconds": statistics.median(base), "ratios": found, "limit": LIMIT}))
        return
    print(f"GPT-2 small's shape, {given.batch} x {given.tokens} tokens, {given.threads} threads, CPU")
    print(f"{'plain forward':32s} {statistics.median(base) * 1000:8.1f} ms")
    for name, ratio in found.items():
        print(f"{name:32s} {ratio:8.3f} times")
    print(f"limit for run without capture: {LIMIT} -> {'met' if found['run'] <= LIMIT else 'NOT met'}")


if __name__ == "__main__":
    main()
