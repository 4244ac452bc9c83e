"""Where a model computes: its device also where weights are offloaded, and whether it is compiled.

accelerate keeps offloaded weights on the meta device outside a module's forward: they cannot be read, modules are
called. Compiled modules do not see hooks that come later.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psutil
import torch
from torch import nn

_SHARE = 4  # of what is free, a batch may take one part in so many
_CPU_MOST_BYTES = 2**30  # larger batches gain nothing on a CPU
_SMALL_PARAMETERS = 10**9


def device_of(hf: nn.Module) -> torch.device:
    """The device on which tokens enter the model."""
    device: torch.device = hf.get_input_embeddings().weight.device  # type: ignore[operator,union-attr]
    if device.type != "meta":
        return device
    for module in hf.modules():
        place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return torch.device(place if not isinstance(place, int) else f"cuda:{place}")
    return torch.device("cpu")


def default_memory_bytes(device: torch.device) -> int:
    """What one batch of intermediate results may take if nobody says: a quarter of what is free on the device.

    On a CPU at most 1 GB.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, free // _SHARE)
    return max(1, min(int(psutil.virtual_memory().available) // _SHARE, _CPU_MOST_BYTES))


def is_offloaded(hf: nn.Module) -> bool:
    """Whether some weights are elsewhere until their module runs."""
    return any(weight.is_meta for weight in hf.parameters())


@contextmanager
def on_one_thread(hf: nn.Module) -> Iterator[None]:
    """A block in which a small model on a CPU computes on one thread.

    Passes over a few tokens gain little from more, and cost several times their CPU time in threads that wait for
    each other where others use the cores as well.
    """
    before = torch.get_num_threads()
    small = sum(weight.numel() for weight in hf.parameters()) < _SMALL_PARAMETERS
    if before == 1 or not small or device_of(hf).type != "cpu":
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def uncompiled(hf: nn.Module) -> AbstractContextManager[Any]:
    """A block in which modules compiled in place run as they are written, so that edits bite."""
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in hf.modules()):
        return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]
    return nullcontext()
