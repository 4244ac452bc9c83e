"""What a sweep would take, before it is run: cells, passes, memory, time.

In: a model, prompts, cells, a measure. Out: a forecast. The plan is the one that would be run, of the path that
most kinds of cells take; the time is that of its passes, unembeddings, and checks against full passes, at the prices
of sweeps.cost: on a CPU those of this thread, whoever else uses the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.sweeps.calibrate import costs_of
from headscope.sweeps.check import PROMPTS, SAMPLED, kind_of
from headscope.sweeps.cost import CELL_SECONDS, cost_of
from headscope.sweeps.engine import Engine
from headscope.sweeps.execute import refusal, traits_of
from headscope.sweeps.grid import Cell
from headscope.sweeps.naive import with_own_position
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
    """What running these cells would take; no more is run than what interventions take from other runs."""
    parts = Sweep(model, prompts, cells, measure).parts()
    some, cost = parts[0].prompts, cost_of(model)
    tokens = len(prompts) * prompts.longest
    whole = cost.seconds(tokens, unembedded=tokens)
    reason = refusal(model)
    if reason or not cells:
        memory = 8 * model.vocab_size * prompts.longest * len(some)
        return Forecast(len(cells), len(prompts), 0, len(cells), 1.0, memory, whole * len(cells), reason)
    setting, works = prepared(parts[0])
    traits = traits_of(model)
    engine = Engine(model, setting, works, traits, costs_of(model, traits))
    full = traits.layers * some.longest
    walked = sum(
        (traits.layers - job.join + (job.entry == "inside")) * (batch.stop - batch.start)
        for batch in engine.batches
        for job in batch.jobs
    )
    widest = max((len(batch.jobs) * (batch.stop - batch.start) for batch in engine.batches), default=0)
    share = walked / max(1, full * len(cells))
    read = len(prompts) * measure.read_out.cells(with_own_position(some, works[0].position)).shape[1]
    resumed = cost.seconds(tokens, share=share, unembedded=read)
    kinds = len({kind_of(work, setting.measures) for work in works})
    # A few cells of each kind are run in full, and twice beside others.
    checks = kinds * SAMPLED * (whole + 2 * resumed) * min(PROMPTS, len(some)) / len(prompts)
    memory = len(some) * (widest * 24 + full * 6) * model.d_model * model.dtype.itemsize
    seconds = cost.seconds(tokens, unembedded=read * len(cells)) + checks
    # Cells share passes, as rows of one batch.
    seconds += cost.seconds(tokens * len(cells), share=share) + len(cells) * CELL_SECONDS
    return Forecast(
        len(cells), len(prompts), len(engine.unchanged), len(engine.batches) * len(parts), share, int(memory), seconds
    )
