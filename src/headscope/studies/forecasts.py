"""What a study will ask of a model, stage by stage, before anything is run: cells, prompts, tokens, memory, time.

In: a plan's `stages(settings, model)`, and what passes cost (sweeps.cost). Out: a `Forecast`. A stage declares what
is *counted*: passes through all layers, cells of a sweep with the mean share of the layers that they run, tokens that
go through the unembedding; a test holds the counts against those of a run. Seconds are counts times prices.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from headscope.models.model import Model
from headscope.sweeps.check import PROMPTS, SAMPLED
from headscope.sweeps.cost import CELL_SECONDS, Cost


@dataclass(frozen=True)
class Stage:
    """One step of a study on `prompts` of so many `tokens` each (their mean).

    `cells` of a sweep run a mean `share` of layers times tokens, and `read` tokens of each prompt are unembedded in
    every cell; the sweep's base run is one of `passes`, through all layers and with no logits. `whole` passes have
    logits at all tokens. `decoded` tokens are generated one by one after each prompt. All of it is done so many
    `times` (on other prompts). `host_seconds` is what the processor does beside the model: bounds, figures.
    """

    name: str
    prompts: int = 0
    tokens: float = 0.0
    cells: float = 0
    share: float = 1.0
    read: float = 1.0
    passes: float = 0
    whole: float = 0
    decoded: float = 0
    times: int = 1
    host_seconds: float = 0.0

    @property
    def token_passes(self) -> float:
        """Tokens through all layers; half of the layers count half."""
        full = self.tokens * (self.passes + self.whole + self.cells * self.share)
        return self.times * self.prompts * (full + self.decoded)

    @property
    def unembedded(self) -> float:
        """Tokens through the unembedding."""
        return self.times * self.prompts * (self.whole * self.tokens + self.cells * self.read + self.decoded)

    def seconds(self, cost: Cost) -> float:
        """What this takes at these prices."""
        tokens = self.prompts * self.tokens
        once = (
            (self.passes + self.whole) * cost.seconds(tokens)
            + cost.seconds(tokens * self.cells, share=self.share)
            + cost.seconds(self.prompts * self.decoded, passes=self.decoded)
            + self.cells * CELL_SECONDS
        )
        return self.times * once + cost.seconds(0, unembedded=self.unembedded) + self.host_seconds

    def memory_bytes(self, model: Model) -> int:
        """What is kept at once beside the model; what is more than the budget of memory goes part by part."""
        widest = max(model.d_model, *(layer.heads * layer.head_dim for layer in model.anatomy.layers))
        streams = self.tokens * widest * 6 * model.n_layers * model.dtype.itemsize
        logits = model.vocab_size * max(
            32 * self.tokens if self.whole else 0.0, 12 * self.read if self.cells else 0.0
        )
        return int(min(model.memory_bytes, self.prompts * max(streams, logits)))


def checked(stage: Stage) -> Stage:
    """The stage of a sweep whose kind of cell is new to a model and a length: a few are run both ways first."""
    # In full, each twice beside others, and once more their base run.
    return Stage(
        f"{stage.name}: spot check",
        min(stage.prompts, PROMPTS),
        stage.tokens,
        cells=2 * SAMPLED,
        share=stage.share,
        read=stage.read,
        passes=1,
        whole=SAMPLED,
    )


@dataclass(frozen=True)
class Forecast:
    """The stages of a study with the seconds of each, in their order."""

    study: str
    model: str
    stages: Sequence[Stage]
    seconds_each: Sequence[float]
    memory_bytes: int
    cost: Cost
    notes: Sequence[str] = field(default=())

    @property
    def seconds(self) -> float:
        """Of all stages together."""
        return sum(self.seconds_each)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for --json."""
        rows = [
            {
                "stage": stage.name,
                "cells": stage.cells,
                "prompts": stage.prompts,
                "tokens": stage.tokens,
                "token_passes": stage.token_passes,
                "unembedded_tokens": stage.unembedded,
                "seconds": seconds,
            }
            for stage, seconds in zip(self.stages, self.seconds_each, strict=True)
        ]
        return {
            "study": self.study,
            "model": self.model,
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "stages": rows,
            "cost": asdict(self.cost),
            "notes": list(self.notes),
        }


def forecast(study: str, model: Model, stages: Sequence[Stage], cost: Cost, notes: Sequence[str] = ()) -> Forecast:
    """What these stages take on this model."""
    seconds = [stage.seconds(cost) for stage in stages]
    memory = max((stage.memory_bytes(model) for stage in stages), default=0)
    return Forecast(study, model.name, tuple(stages), tuple(seconds), memory, cost, tuple(notes))
