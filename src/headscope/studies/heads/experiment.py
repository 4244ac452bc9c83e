"""What the questions about heads share: settings, prompts in two halves, and what the first half selects.

In: a model and settings. Out: functions of the context, each computed once (`ctx.once`). Heads are named and ordered
on the *selection* half of the prompts; what is reported is of the *estimation* half, so that picking the largest of
many does not flatter it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from headscope import detectors
from headscope.detectors.detect import LARGEST_SEED, NAMING_UNITS
from headscope.interventions import Intervention, mean
from headscope.measures.samples import Samples
from headscope.models.model import Model
from headscope.studies.context import Context, Settings, setting
from headscope.studies.head_sets import named
from headscope.tables import Quantity
from headscope.tasks.prompts import Prompts
from headscope.tasks.split import Split, halves
from headscope.tasks.text import read_text
from headscope.vocabulary import Head

PREDICTABLE = "predictable"  # positions of repeated prompts whose next token an earlier copy determines
JUDGED = "judged"  # positions of either kind of prompts whose next token's loss is read
MANY_TOKENS, FEW_READ = 100_000, 8  # of so large a vocabulary the unembedding is most of what a pass costs
FEWEST_SETS = 19  # with fewer no p value reaches .05, since p counts the set itself
DAMAGE = Quantity("damage", "rise of the loss under the ablation", "nats")


@dataclass(frozen=True, kw_only=True)
class HeadsSettings(Settings):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study heads"
    n: int = setting(
        50, "prompts for estimates (as many again select heads)", quick=16, at_least=NAMING_UNITS, least=NAMING_UNITS
    )
    seed: int = setting(0, "seed of everything random", at_least=0, at_most=LARGEST_SEED)
    text: Path | None = setting(None, "UTF-8 file of real text for text detectors")  # noqa: RUF009
    natural: int = setting(64, "tokens of natural prompts", quick=32, at_least=8, least=32)
    length: int = setting(25, "tokens of the segment that is repeated", quick=12, at_least=2, least=12)
    repeats: int = setting(4, "times it is shown", quick=3, at_least=2, least=3)
    gap: int = setting(0, "up to so many other tokens before each repeat", at_least=0)
    random_sets: int = setting(
        60, "random sets of heads beside each group", quick=FEWEST_SETS, at_least=FEWEST_SETS, least=FEWEST_SETS
    )
    exact: int | None = setting(
        None,
        "heads that are ablated by themselves, the others are screened to first order; as it is, all heads of a "
        "model of at most 64, else 12",
        at_least=1,
    )
    read: int | None = setting(
        None,
        "tokens of each prompt whose loss is read: predictable ones where it is repeated (default: all; of a "
        f"vocabulary over {MANY_TOKENS:,} tokens {FEW_READ}, drawn)",
        at_least=1,
    )
    jointly: int = setting(12, "induction heads that are ablated one after another", quick=6, at_least=2, least=6)
    in_sets: int = setting(6, "of these, heads whose every set is ablated", quick=4, at_least=2, at_most=10, least=4)
    followed: int = setting(3, "heads whose ablation is followed through the model", quick=2, at_least=1, least=2)


Ctx = Context[HeadsSettings]


def every_prompt(ctx: Ctx) -> detectors.DetectorPrompts:
    """Twice `n` prompts of each kind, with the positions whose loss is read."""
    chosen, text = ctx.settings, None if ctx.settings.text is None else Path(ctx.settings.text)
    made = detectors.default_prompts(
        ctx.model,
        n=2 * chosen.n,
        seed=chosen.seed,
        text=None if text is None else read_text(text),
        named="a given text" if text is None else text.name,
        length=chosen.length,
        repeats=chosen.repeats,
        gaps=(0, chosen.gap),
        spoken=chosen.natural,
        fewest=2 * NAMING_UNITS,
    )
    predicting = [tuple(range(length - 1)) for length in made.natural.lengths]
    return replace(
        made,
        repeated=_judged(ctx, made.repeated, made.repeated.roles[PREDICTABLE]),
        natural=_judged(ctx, made.natural, predicting),
    )


def read_of_each(settings: HeadsSettings, model: Model) -> int | None:
    """Of how many tokens of a prompt the loss is read; None for all."""
    return settings.read or (FEW_READ if model.vocab_size > MANY_TOKENS else None)


def _judged(ctx: Ctx, shown: Prompts, predicting: Sequence[tuple[int, ...]]) -> Prompts:
    """Prompts with the role of the positions that are read: all predicting ones, or so many of each, drawn."""
    most = read_of_each(ctx.settings, ctx.model)
    drawn = (
        at
        if most is None or len(at) <= most
        else np.random.default_rng([ctx.settings.seed, row]).permutation(at)[:most]
        for row, at in enumerate(predicting)
    )
    return replace(shown, roles={**shown.roles, JUDGED: tuple(tuple(sorted(map(int, at))) for at in drawn)})


def prompts(ctx: Ctx) -> Split[detectors.DetectorPrompts]:
    """The prompts of even number select, the others estimate."""
    return halves(ctx.once(every_prompt))


def averaged(ctx: Ctx) -> str:
    """Over what a value on repeated tokens is averaged, for captions."""
    many, read = len(prompts(ctx).estimation.repeated), read_of_each(ctx.settings, ctx.model)
    some = "the" if read is None else f"{read} of the"
    of_each = "" if read is None else "each of "
    return f"Mean over {some} predictable tokens of {of_each}{many} sequences of repeated random tokens."


def attention(ctx: Ctx) -> Split[dict[str, dict[int, detectors.LayerMass]]]:
    """By detector, every head's attention on its keys and its null, prompt by prompt, on either half."""
    stage = ctx.stage("detecting heads")
    return prompts(ctx).map(lambda half: detectors.head_attention(ctx.model, prompts=half, progress=stage))


def raised(ctx: Ctx) -> Split[tuple[Samples | None, str]]:
    """What every head writes on the token that an induction head attends to, on either half; None with a reason."""
    stage = ctx.stage("detecting heads")
    return prompts(ctx).map(lambda half: detectors.signed_raise(ctx.model, half, progress=stage))


def named_heads(ctx: Ctx) -> dict[str, tuple[Head, ...]]:
    """Heads that the selection half names, by kind, most strongly first; kinds without any are left out.

    A kind is a detector; heads with the pattern of induction are several, by the sign of what they write.
    """
    read = ctx.once(attention).selection.items()
    found = {name: heads for name, layers in read if (heads := named(detectors.above_null(layers)))}
    if "induction" not in found:
        return found
    sign = detectors.kinds(
        detectors.above_null(ctx.once(attention).selection["induction"]), ctx.once(raised).selection[0]
    )
    patterned = found.pop("induction")
    kinds = {
        kind: tuple(head for head in patterned if sign[str(head)] == kind) for kind in dict.fromkeys(sign.values())
    }
    return {kind.replace("-", "_").replace(" ", "_"): heads for kind, heads in kinds.items()} | found


def mean_ablation(ctx: Ctx) -> Intervention:
    """The template that replaces a head's output by its mean over prompts without repetition."""
    return mean("z", over=prompts(ctx).selection.unrepeated)
