"""What every question of the redundancy study needs: settings, problems, prompts, how heads are ablated.

In: a context. Out: an `Experiment`, made once. One half of the problems selects layers and heads, the other
estimates. A mean ablation has its reference in label-shuffled prompts, since a mean over the same task would contain
it: position by position where all prompts are equally long, else over all positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headscope.interventions import Intervention, mean, resample, zero
from headscope.interventions.named_heads import heads_among, parse_heads
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.studies.context import Context, setting
from headscope.studies.pairs import PairsConfig
from headscope.sweeps.predicted_numbers import any_number
from headscope.tasks.linear import functions_of, linear
from headscope.tasks.prompts import Prompts
from headscope.tasks.source_and_target import SourceAndTarget, TransferPrompts
from headscope.tasks.split import Split, halves
from headscope.vocabulary import ALL, Head, Positions

Heads = tuple[Head, ...]
# Of so many drawn problems enough are left once those with equal answers are gone; the article's has 87 queries.
_SPARE, _ARTICLES_QUERIES = 8, 87
HOW = ("zero", "mean", "resample")


@dataclass(frozen=True, kw_only=True)
class RedundancySettings(PairsConfig):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study redundancy"
    n: int = setting(100, "problems (prompts) for each estimate", at_least=10, quick=24, least=16)
    ablate: str | None = setting(None, "layers (10,11) or heads (10.5 10.7) to ablate (default: in rounds)")
    positions: str = setting("last", "where in the source: last position, or all", choices=("last", "all"))
    ablation: str = setting("zero", "how: zero, mean or resample (of label-shuffled prompts)", choices=HOW)
    rounds: int = setting(4, "rounds of iterative ablation at most", at_least=1, quick=2)
    first_layers: int = setting(2, "attention layers that the first round ablates", at_least=1)
    random_sets: int = setting(5, "random ablations of the same size beside each", at_least=1, quick=2)
    top_heads: int = setting(6, "heads of which every set is ablated", at_least=2, quick=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ablate is not None:
            parse_heads(self.ablate)


Ctx = Context[RedundancySettings]


@dataclass(frozen=True, eq=False)
class Experiment:
    """The prompts of both halves, how far an answer is a number, and what stands for what is ablated."""

    model: Model
    settings: RedundancySettings
    prompts: Split[TransferPrompts]
    number: Measure
    reference: Prompts
    aligned: bool

    def edits(self, heads: Sequence[Head]) -> list[Intervention]:
        """The intervention that ablates these heads together in the source; none for no heads."""
        return [self.ablation(heads, self.settings.ablation)] if heads else []

    def ablation(self, heads: Sequence[Head] | str, how: str) -> Intervention:
        """How heads are ablated; "z" in place of heads makes a template for one head."""
        positions = Positions.of(-1) if self.settings.positions == "last" else ALL
        if how == "zero":
            return zero(heads, positions)
        if how == "mean":
            return mean(heads, over=self.reference, per_position=self.aligned, positions=positions)
        over, seed = self.reference, self.settings.seed
        return resample(heads, over=over, per_position=self.aligned, positions=positions, seed=seed)


def problems(ctx: Ctx) -> SourceAndTarget:
    """Twice `n` problems, one half to select on and one to estimate with; fewer of the article's."""
    settings, wanted = ctx.settings, 2 * ctx.settings.n
    source = settings.draw(ctx.model, n=_ARTICLES_QUERIES if settings.article else _SPARE * wanted)
    return SourceAndTarget.of(source, wanted=wanted, seed=settings.seed)


def experiment(ctx: Ctx) -> Experiment:
    model, settings = ctx.model, ctx.settings
    if settings.ablate is not None:
        heads_among(model, parse_heads(settings.ablate))  # refused before the model runs, not after the first round
    prompts = halves(ctx.once(problems)).map(lambda half: TransferPrompts.of(model, half))
    shuffled = prompts.map(lambda half: linear(model, half.problems.shuffled).answered())
    every = [*shuffled, *(half.answered for half in prompts)]
    # Generated tokens have no place in a mean by position, unless it is taken at the last one alone.
    aligned = functions_of(model) is not None or settings.positions == "last"
    aligned = aligned and len({length for each in every for length in each.lengths}) == 1
    return Experiment(model, settings, prompts, any_number(model), shuffled.selection, aligned)
