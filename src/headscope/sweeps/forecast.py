"""What a sweep would take, before it is run: cells, passes, memory, time.

In: a model, prompts, cells, a measure. Out: a forecast. The plan is the one that would be run, of the path that
most kinds of cells take; the time is that of one base run on these prompts, scaled by how many layers times tokens
the plan asks for. So it is an estimate: unembeddings and checks against full passes come on top.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.sweeps.calibrate import costs_of
from headscope.sweeps.engine import Engine
from headscope.sweeps.execute import refusal, traits_of
from headscope.sweeps.grid import Cell
from headscope.sweeps.sweep import Sweep, prepared
from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class Forecast:
    """`unchanged` cells have the values of the base run; `share` of what full passes would compute is asked for."""

    cells: int
    prompts: int
    unchanged: int
    batches: int
    share: float
    memory_bytes: int
    seconds: float
    note: str = ""

    @property
    def sentence(self) -> str:
        """The forecast for people."""
        how = f"{self.note}: full passes" if self.note else f"{self.share:.0%} of what full passes would compute"
        return (
            f"{self.cells} cells on {self.prompts} prompts ({self.unchanged} cannot differ from the base run), "
            f"{self.batches} batches, {how}; up to {self.memory_bytes / 2**20:.0f} MB beside the model, "
            f"about {self.seconds:.0f} s."
        )


def forecast(model: Model, prompts: Prompts, cells: Sequence[Cell], measure: Measure) -> Forecast:
    """What running these cells would take; the model is run once on some of the prompts."""
    parts = Sweep(model, prompts, cells, measure).parts()
    some = parts[0].prompts
    seconds = _base_seconds(model, some) * len(prompts) / len(some)
    reason = refusal(model)
    if reason or not cells:
        memory = 8 * model.vocab_size * prompts.longest * len(some)
        return Forecast(len(cells), len(prompts), 0, len(cells), 1.0, memory, seconds * len(cells), reason)
    setting, works = prepared(parts[0])
    traits = traits_of(model)
    engine = Engine(model, setting, works, traits, costs_of(model, traits))
    full = traits.layers * some.longest
    walked = sum(
        (traits.layers - job.join) * (batch.stop - batch.start) for batch in engine.batches for job in batch.jobs
    )
    widest = max((len(batch.jobs) * (batch.stop - batch.start) for batch in engine.batches), default=0)
    memory = len(some) * (widest * 24 + full * 6) * model.d_model * model.dtype.itemsize
    return Forecast(
        len(cells),
        len(prompts),
        len(engine.unchanged),
        len(engine.batches) * len(parts),
        walked / max(1, full * len(cells)),
        int(memory),
        seconds * (1 + walked / full),
    )


@torch.no_grad()
def _base_seconds(model: Model, prompts: Prompts) -> float:
    """One forward pass over these prompts, its unembedding at one position."""
    model.run(prompts.rows([0]))  # what is slow only once
    began = time.perf_counter()
    model.run(prompts)
    return time.perf_counter() - began
