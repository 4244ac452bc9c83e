"""What the study of phase changes asks: its settings, the training histories, and the prompts of each.

In: names of models with checkpoints (models.history). Out: `Suite`s, in the order in which they were named: a history
with the steps that are taken, and prompts that are the same at all of its steps. Suites that read the same tokens
share their prompts, so that their losses can be compared token by token.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from headscope.detectors import DetectorPrompts, default_prompts
from headscope.detectors.detect import LARGEST_SEED, NAMING_UNITS
from headscope.errors import BadArgument
from headscope.models.history import History
from headscope.studies.context import Context, Settings, setting
from headscope.tables import Column
from headscope.tasks.natural import natural
from headscope.tasks.prompts import Prompts

_FEWEST = 2 * NAMING_UNITS
CONTEXT = 512  # tokens of a prompt at most: what the published score is about
SUITE = Column("suite", pl.String, "the training that is looked at")
STEP = Column("step", pl.Int64, "steps of training so far")


@dataclass(frozen=True, kw_only=True)
class PhaseSettings(Settings):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study phase changes"
    n: int = setting(
        64, "prompts of each kind; the even ones choose heads", quick=_FEWEST, at_least=_FEWEST, least=_FEWEST
    )
    texts: int = setting(256, "texts whose losses are read", quick=64, at_least=16, least=64)
    ablated: int = setting(32, "of these, texts on which heads are ablated", quick=16, at_least=16, least=16)
    seed: int = setting(0, "seed of everything random", at_least=0, at_most=LARGEST_SEED)
    every: int = setting(1, "take every so many checkpoints", quick=2, at_least=1)
    revisions: str | None = setting(None, "steps to take, with commas between (default: all that there are)")
    early: int = setting(50, "predicting position of the earlier loss of the ICL score", at_least=1)
    late: int = setting(500, "and of the later one; both are scaled to shorter contexts", at_least=2)
    preserving: bool = setting(True, "also ablate with patterns, and with values, preserved", quick=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.early >= self.late:
            raise BadArgument(
                f"cannot {self.doing} with early={self.early} and late={self.late}: the ICL score is a later loss "
                "minus an earlier one. Give an early position before the late one."
            )
        _ = self.steps

    @property
    def steps(self) -> tuple[int, ...] | None:
        """The steps that were asked for."""
        if self.revisions is None:
            return None
        parts = self.revisions.replace(" ", "").split(",")
        if not all(part.removeprefix("step-").isdecimal() for part in parts):
            raise BadArgument(f"cannot read revisions={self.revisions!r}: write steps such as 0,100,200.")
        return tuple(sorted({int(part.removeprefix("step-")) for part in parts}))


Ctx = Context[PhaseSettings]


@dataclass(frozen=True, eq=False)
class Suite:
    """One training: its name, history, steps that are taken, and prompts."""

    name: str
    history: History
    steps: tuple[int, ...]
    prompts: DetectorPrompts
    texts: Prompts
    text: str  # what the natural prompts are, so that suites with the same ones can be compared

    @property
    def last(self) -> int:
        return self.steps[-1]


def suites(ctx: Ctx) -> tuple[Suite, ...]:
    """The trainings that were named.

    Raises:
        BadArgument: for one with fewer than two checkpoints, or without a step that was asked for.
    """
    return tuple(_suite(ctx, history) for history in ctx.histories)


def _suite(ctx: Ctx, history: History) -> Suite:
    wanted = ctx.settings.steps
    strange = sorted(set(wanted or ()) - set(history.steps))
    if strange:
        raise BadArgument(
            f"cannot take step {strange[0]} of {history.name}: it has the steps {', '.join(map(str, history.steps))}."
        )
    steps = wanted or _every(history.steps, ctx.settings.every)
    if len(steps) < 2:
        raise BadArgument(
            f"cannot {ctx.settings.doing} of {history.name}: it has {len(steps)} checkpoint"
            f"{'' if len(steps) == 1 else 's'}, and a change needs several. Name a folder with step-N folders."
        )
    model, settings = history.open(steps[-1]), ctx.settings
    context = min(model.context or CONTEXT, CONTEXT)
    prompts = default_prompts(model, n=settings.n, seed=settings.seed, spoken=context)
    texts = natural(model, n=settings.texts, length=context, seed=settings.seed + 1)
    return Suite(history.name, history, steps, prompts, texts, _told(texts.made_by))


def _every(steps: tuple[int, ...], every: int) -> tuple[int, ...]:
    """Every so many of the steps, counted from the last one."""
    return steps[::-1][::every][::-1]


def _told(recipe: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in recipe.items())
