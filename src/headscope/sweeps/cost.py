"""What passes of this model cost on this device, in seconds: what forecasts and budgets are made of.

In: an opened model. Out: `Cost`, from timing a few passes of made-up tokens (seconds of work, kept in the cache for
the model's shape, device and threads). A pass has three prices: so much however few its tokens (weights are read,
layers are called), so much for each token through all layers, and so much for each token that goes through the
unembedding, which is more than half of a small model with a large vocabulary. On a CPU it is the time of the main
thread that counts, which is what the clock would show if nobody else used the machine; on a GPU it is the clock's.
Not done here: how many passes a study makes (studies.forecasts).
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from headscope.models import disk_cache
from headscope.models.model import Model
from headscope.sweeps.calibrate import at_most_tokens

CELL_SECONDS = 0.0004  # of the processor, for the edits of a cell, whatever the model
_ROWS, _FEW, _MANY = 8, 2, 32  # prompts of a timed pass, and their tokens
_REPEATS = 2


@dataclass(frozen=True)
class Cost:
    """Seconds of one pass (`call_seconds`), and of each token through all layers and through the unembedding.

    `tokens_at_once` go through one pass; more take several.

    >>> Cost(0.01, 0.002, 0.001, 4096).seconds(1000, share=0.5, unembedded=20)
    1.025
    """

    call_seconds: float
    token_seconds: float
    unembed_seconds: float
    tokens_at_once: int

    def seconds(
        self, tokens: float, *, share: float = 1.0, unembedded: float = 0.0, passes: float | None = None
    ) -> float:
        """Of passes over so many tokens, through a `share` of the layers, some of them unembedded.

        `passes` is how often the layers are called; without it as often as these tokens need at least.
        """
        calls = math.ceil(tokens / self.tokens_at_once) if passes is None else passes
        layers = share * (calls * self.call_seconds + tokens * self.token_seconds)
        return layers + unembedded * self.unembed_seconds


def cost_of(model: Model) -> Cost:
    """The cost of this model's passes on its device, timed where it is not known; under 10 seconds of a CPU."""
    made: Cost = model.cached("cost of passes", lambda: _known_or_timed(model))
    return made


def clock(model: Model) -> Callable[[], float]:
    """Seconds that count: of this thread on a CPU, whoever else uses the machine; of the clock on a GPU."""
    if model.device.type != "cuda":
        return time.thread_time

    def now() -> float:
        torch.cuda.synchronize(model.device)
        return time.perf_counter()

    return now


def _known_or_timed(model: Model) -> Cost:
    key = _key(model)
    kept = disk_cache.read("cost", key)
    names = [*Cost.__dataclass_fields__]
    if isinstance(kept, dict) and sorted(kept) == sorted(names) and all(_is_time(kept[name]) for name in names):
        return Cost(**kept)
    made = _timed(model)
    disk_cache.write("cost", key, asdict(made))
    return made


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and value >= 0


@torch.no_grad()
def _timed(model: Model) -> Cost:
    many = min(_MANY, model.context or _MANY)
    body: nn.Module = model.hf.base_model  # type: ignore[assignment]
    few, most = (_ids(model, 1, min(_FEW, many)), _ids(model, _ROWS, many))
    least = _seconds(model, lambda: body(few, use_cache=False))
    layers = _seconds(model, lambda: body(most, use_cache=False))
    whole = _seconds(model, lambda: model.hf(most, use_cache=False).logits)
    tokens, extra = most.numel(), most.numel() - few.numel()
    each = max(layers - least, 0.0) / extra if extra else layers / tokens
    return Cost(
        call_seconds=max(0.0, layers - tokens * each),
        token_seconds=each,
        unembed_seconds=max(0.0, whole - layers) / tokens,
        tokens_at_once=at_most_tokens(model),
    )


def _ids(model: Model, rows: int, length: int) -> torch.Tensor:
    """Made-up tokens, every one another as far as there are so many."""
    return (torch.arange(rows * length).reshape(rows, length) % model.vocab_size).to(model.device)


def _seconds(model: Model, run: Callable[[], object]) -> float:
    """The least time of a few runs, after one that pays for what is slow only once."""
    now, times = clock(model), []
    for _ in range(1 + _REPEATS):
        start = now()
        run()
        times.append(now() - start)
    return min(times[1:])


def _key(model: Model) -> str:
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"
    shape = [model.n_layers, model.d_model, model.vocab_size, len(model.heads), type(model.hf).__name__]
    parameters = sum(each.numel() for each in model.hf.parameters())
    parts = (device, torch.get_num_threads(), torch.__version__, str(model.dtype), shape, parameters)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
