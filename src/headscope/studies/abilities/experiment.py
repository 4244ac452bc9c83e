"""What the questions about abilities share: settings, prompts in two halves, induction heads, and losses.

In: a model and settings. Out: functions of the context, each computed once. Induction heads are named by the usual
detector on repeated random tokens, on which no behaviour is judged. Of each behaviour's prompts one half chooses
among these heads and is what an ablation averages over; all estimates are of the other half.
"""

from dataclasses import dataclass
from typing import ClassVar

import polars as pl

from headscope.detectors.detect import LARGEST_SEED, NAMING_UNITS, default_prompts
from headscope.errors import PromptError
from headscope.evidence import Test
from headscope.measures import loss
from headscope.measures.samples import Samples
from headscope.studies.context import Context, Settings, setting
from headscope.studies.head_sets import heads_by_kind
from headscope.sweeps import evaluate
from headscope.sweeps.controls import FEWEST_SETS
from headscope.tables import Column, Quantity
from headscope.tasks.counterparts import BEHAVIOURS, LITERAL, MOST_CLAUSES, PREDICTING, Counterparts, counterparts
from headscope.tasks.split import Split, halves
from headscope.vocabulary import Head

FEWEST, SETS = NAMING_UNITS, FEWEST_SETS
NAMED_ON = 32  # prompts at least: with fewer, heads that write little are not named
MARGIN = 0.1  # nats a token; a model that gains less does not do it
BEHAVIOUR = Column("behaviour", pl.String, "what is done in context")
LOSS = Quantity("loss", "mean loss of the judged tokens after their counterpart", "nats")
NULL_LOSS = Quantity("null_loss", "the same after another passage, or lines with exchanged words", "nats")
GAIN = Quantity("gain", "loss without the counterpart minus loss with it, on the same tokens", "nats")
NO_HEADS = "no head was named an induction head"


@dataclass(frozen=True, kw_only=True)
class AbilitiesSettings(Settings):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study abilities"
    n: int = setting(50, "prompts of each behaviour in each half", quick=FEWEST, at_least=FEWEST, least=FEWEST)
    seed: int = setting(0, "seed of everything random", at_least=0, at_most=LARGEST_SEED)
    clauses: int = setting(2, "clauses of a passage", quick=1, at_least=1, at_most=MOST_CLAUSES, least=1)
    length: int = setting(12, "tokens of a passage where a model reads no text", at_least=3)
    random_sets: int = setting(40, "random sets of as many heads", quick=SETS, at_least=SETS, least=SETS)


Ctx = Context[AbilitiesSettings]


def asked(ctx: Ctx) -> dict[str, Split[Counterparts] | str]:
    """Prompts of every behaviour in two halves, or why it is not asked."""
    own, found = ctx.settings, dict[str, Split[Counterparts] | str]()
    sizes = {"n": 2 * own.n, "clauses": own.clauses, "length": own.length, "seed": own.seed}
    for behaviour in BEHAVIOURS:
        try:
            found[behaviour] = halves(counterparts(ctx.model, behaviour, **sizes))
        except PromptError as error:
            if behaviour == LITERAL:
                raise
            found[behaviour] = f"not asked: {error}"
    return found


def prompts(ctx: Ctx) -> dict[str, Split[Counterparts]]:
    """Those of the behaviours that are asked."""
    return {behaviour: each for behaviour, each in ctx.once(asked).items() if isinstance(each, Split)}


def named_heads(ctx: Ctx) -> dict[str, tuple[Head, ...]]:
    """Heads by kind, most strongly first, named on repeated random tokens at changing distances."""
    n, seed, stage = max(ctx.settings.n, NAMED_ON), ctx.settings.seed, ctx.stage("naming induction heads")
    shown = default_prompts(ctx.model, n=n, seed=seed, length=12, repeats=3, gaps=(0, 4), spoken=32)
    return heads_by_kind(ctx.model, shown, stage)


def induction_heads(ctx: Ctx) -> tuple[Head, ...]:
    """The induction heads that are ablated, strongest first: at most half as many as there are heads of no kind."""
    every = ctx.once(named_heads)
    free = set(ctx.model.heads) - {head for heads in every.values() for head in heads}
    return every["induction"][: max(1, len(free) // 2)]


def losses(ctx: Ctx) -> dict[str, tuple[Samples, Samples]]:
    """By behaviour, the loss a judged token with and without its counterpart, [prompt] of the estimating half."""
    measured = {}
    for behaviour, split in ctx.once(prompts).items():
        (values,) = evaluate(ctx.model, split.estimation.both, [loss(PREDICTING)])
        there, missing = values.numpy().reshape(2, -1)
        measured[behaviour] = Samples.one(LOSS, there), Samples.one(NULL_LOSS, missing)
    return measured


def gains(ctx: Ctx) -> dict[str, Samples]:
    """What the counterpart adds to every behaviour asked, [prompt]."""
    return {name: (missing - there).measured_as(GAIN) for name, (there, missing) in ctx.once(losses).items()}


def does_it(gain: Samples | None, none: str = "") -> Test:
    """The need of every claim about a behaviour; `none` says why it has no gain."""
    return Test("loss without the counterpart minus loss with it", gain, above=MARGIN, reason=none)


def needed(ctx: Ctx, behaviour: str, otherwise: str) -> tuple[Test, str]:
    """That need for a behaviour, and why its tests have no numbers where they have none."""
    why = found if isinstance(found := ctx.once(asked)[behaviour], str) else ""
    return does_it(ctx.once(gains).get(behaviour), why), why or otherwise
