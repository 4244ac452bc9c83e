"""A run that can be stopped anywhere: its weights and its optimiser, in one file that is never half written.

In: a model, its optimiser and how far they are. Out: `state.safetensors`, tensors with a line of JSON in the
header: no pickle, so nothing in it can run. It is written beside its place and then moved there, which the
file system does at once or not at all.

No state of a random generator is kept, because none is carried from step to step: the batch of step s is
drawn from a generator seeded with (seed, s), and nothing else is random once the weights are there.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from headscope.errors import system_errors

STATE_FILE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Stage:
    """How far a run is: steps taken, CPU-seconds spent, and the hash of the recipe it follows."""

    step: int
    cpu_seconds: float
    recipe_digest: str


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, stage: Stage) -> None:
    """Write `state.safetensors` into `folder`, replacing an earlier one in a single move."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"{moment}.{name}": moments[moment] for moment in _MOMENTS if moments}
    with system_errors(), _beside(folder / STATE_FILE) as unfinished:
        save_file(tensors, unfinished, metadata={"stage": json.dumps(asdict(stage))})


def write_whole(path: Path, text: str) -> None:
    """Write a file of text, replacing an earlier one in a single move; an error leaves that one as it was."""
    with _beside(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file beside a place that moves there once it is written; what is unfinished does not stay on a full disk."""
    unfinished = path.parent / f"{path.name}.part"
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def saved_stage(folder: Path) -> Stage | None:
    """How far the run in `folder` is; None if it has no state yet."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        return Stage(**json.loads(file.metadata()["stage"]))


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set weights and optimiser to what `save_state` wrote, bit for bit."""
    with safe_open(folder / STATE_FILE, framework="pt") as file, torch.no_grad():
        kept, steps_taken = set(file.keys()), float(Stage(**json.loads(file.metadata()["stage"])).step)
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(f"weight.{name}"))
            if f"{_MOMENTS[0]}.{name}" in kept:
                moments = {moment: file.get_tensor(f"{moment}.{name}") for moment in _MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(steps_taken), **moments}
