"""What one more pass costs on this device, in tokens: it decides which suffix starts run together.

In: an opened model. Out: `Costs`. Running a layer takes a fixed time (launching kernels, reading weights)
and a time per token. Two calls of a middle layer, on few tokens and on many, give both; their ratio is the
padding that is worth saving a pass. It is measured once per device and size of model and kept in the cache.
"""

import hashlib
import time

import torch

from headscope.models import disk_cache
from headscope.models.baserun import Needs, base_run
from headscope.models.model import Model
from headscope.models.replay import Replay
from headscope.sweeps.plan import Costs, Traits
from headscope.tasks.prompts import Prompts

_FEW, _MANY = 2, 256
_REPEATS = 5
# A sweep's base run, its batch, what it reads, and the values of other runs that it keeps each get one part of
# the memory; as much again goes to what is on its way, and to what the allocator does not give back at once.
PARTS = 8
_CPU_TOKENS = 4096  # beyond this a CPU gains nothing, and loses its caches
_known: dict[str, float] = {}


def costs_of(model: Model, traits: Traits) -> Costs:
    """The costs of passes of this model on its device."""
    key = _key(model)
    if key not in _known:
        kept = disk_cache.read("passes", key)
        known = kept.get("pass_tokens") if isinstance(kept, dict) else None
        _known[key] = known if isinstance(known, float) else _measured(model, traits)
        if _known[key] is not known:
            disk_cache.write("passes", key, {"pass_tokens": _known[key]})
    widest = max(layer.heads * layer.head_dim for layer in model.anatomy.layers)
    keys_bytes = 2 * widest * model.dtype.itemsize
    return Costs(_known[key], at_most_tokens(model), key_tokens=keys_bytes / _token_bytes(model))


def at_most_tokens(model: Model) -> int:
    """How many tokens go through the layers at once."""
    most = model.at_once(_token_bytes(model), share=PARTS)
    return min(most, _CPU_TOKENS) if model.device.type == "cpu" else most


def _token_bytes(model: Model) -> int:
    """The widest intermediate results: an MLP's, its activation, attention's inputs and outputs, residuals."""
    return 24 * model.d_model * model.dtype.itemsize


@torch.no_grad()
def _measured(model: Model, traits: Traits) -> float:
    """The fixed cost of a layer's call, in tokens; 0 if a layer cannot be called by itself."""
    replay = Replay(model.hf, model.anatomy, with_cache=traits.positions)
    layer = model.n_layers // 2
    length = min(_MANY // 8, model.context or _MANY)
    try:
        # A run over two tokens tells what layers return; theirs is what a call of one must look like.
        probe = Prompts.of([[0, 0]])
        base_run(replay, probe, model.device, (), Needs(frozenset()), stop=2)
        few = _seconds(model, replay, layer, 1, _FEW)
        many = _seconds(model, replay, layer, _MANY // length, length)
    except Exception:  # whatever a model file raises; sweeps will find it out by themselves
        return 0.0
    tokens = _MANY // length * length
    each = max((many - few) / (tokens - _FEW), 1e-12)
    return max(0.0, few / each - _FEW)


def _seconds(model: Model, replay: Replay, layer: int, rows: int, length: int) -> float:
    """The least time of a layer's call."""
    # On a CPU the process's own time: other programs must not count as overhead.
    on_gpu = model.device.type == "cuda"
    now = time.perf_counter if on_gpu else time.process_time
    stream = torch.zeros(rows, length, model.d_model, dtype=model.dtype, device=model.device)
    if on_gpu:
        torch.cuda.synchronize(model.device)
    times = []
    for _ in range(_REPEATS + 1):
        start = now()
        replay.step(layer, stream, 0, None)
        if on_gpu:
            torch.cuda.synchronize(model.device)
        times.append(now() - start)
    return min(times[1:])


def _key(model: Model) -> str:
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"
    widths = [model.d_model, model.anatomy.layers[model.n_layers // 2].heads, type(model.hf).__name__]
    parts = (device, torch.get_num_threads(), torch.__version__, str(model.dtype), widths)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
