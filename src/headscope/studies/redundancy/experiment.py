"""What every question of the redundancy study needs: settings, problems, prompts, how heads are ablated.

In: a context. Out: an `Experiment`, made once. One half of the problems selects layers and heads, the other
estimates. A mean ablation has its reference in label-shuffled prompts, since a mean over the same task would contain
it: position by position where all prompts are equally long, else over all positions.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from headscope.errors import BadArgument
from headscope.interventions import Intervention, mean, resample, zero
from headscope.interventions.named_heads import heads_among, parse_heads
from headscope.measures.candidates import probability_of
from headscope.measures.readouts import Measure
from headscope.models.model import Model
from headscope.studies.context import Context, setting
from headscope.studies.pairs import TasksConfig
from headscope.sweeps.naive import evaluate
from headscope.sweeps.predicted_numbers import any_number, predicted_token
from headscope.tasks.linear import functions_of
from headscope.tasks.prompts import Prompts
from headscope.tasks.source_and_target import CONTROLS, SourceAndTarget, TransferPrompts, readable_by, telling_alone
from headscope.tasks.split import Split, halves
from headscope.vocabulary import ALL, Head, Positions

Heads = tuple[Head, ...]
# Of so many drawn problems enough are left once those with equal answers are gone, and in text those whose answers no
# single token tells apart; the article's has 87 queries.
_SPARE, _SPARE_IN_TEXT, _ARTICLES_QUERIES = 8, 64, 87
HOW = ("zero", "mean", "resample")
ANY_NUMBER, UNPATCHED = "any number", "unpatched"


@dataclass(frozen=True, kw_only=True)
class RedundancySettings(TasksConfig):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study redundancy"
    n: int = setting(100, "problems (prompts) for each estimate", at_least=10, quick=24, least=16)
    ablate: str | None = setting(None, "layers (10,11) or heads (10.5 10.7) to ablate (default: in rounds)")
    positions: str = setting("last", "where in the source: last position, or all", choices=("last", "all"))
    ablation: str = setting("zero", "how: zero, mean or resample (of label-shuffled prompts)", choices=HOW)
    rounds: int = setting(4, "rounds of iterative ablation at most", at_least=1, quick=2, least=2)
    first_layers: int = setting(2, "attention layers that the first round ablates", at_least=1)
    random_sets: int = setting(5, "random ablations of the same size beside each", at_least=1, quick=2, least=2)
    top_heads: int = setting(6, "heads of which every set is ablated", at_least=2, quick=4, least=4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ablate is not None:
            parse_heads(self.ablate)

    def check(self, model: Model) -> None:
        if self.ablate is not None:
            heads_among(model, parse_heads(self.ablate))


Ctx = Context[RedundancySettings]


@dataclass(frozen=True, eq=False)
class Experiment:
    """The prompts of both halves, what is read of an answer, and what stands for what is ablated.

    `numbers` measures how far an answer is a number, and is empty for words; `readings` are what a predicted answer
    is compared by: a number has others *near* it if its telling token makes a whole one.
    """

    model: Model
    settings: RedundancySettings
    prompts: Split[TransferPrompts]
    numbers: tuple[Measure, ...]
    readings: tuple[str, ...]
    reference: Prompts
    aligned: bool

    def beside(self, prompts: TransferPrompts) -> dict[str, Measure]:
        """What is read of the target beside its answers: any number, and in text what it says unpatched."""
        read = dict(zip((ANY_NUMBER,), self.numbers, strict=False))
        if functions_of(self.model) is None:
            (unpatched,) = evaluate(self.model, prompts.target, [predicted_token(self.model)])
            read[UNPATCHED] = probability_of(unpatched.long().tolist())
        return read

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
    """Twice `n` problems, one half to select on and one to estimate with; fewer of the article's.

    In text, where an answer is several tokens, a slope that no token tells apart from the function is not asked for.
    """
    settings, model, wanted = ctx.settings, ctx.model, 2 * ctx.settings.n
    in_text = functions_of(model) is None
    readable = readable_by(model) if in_text else None
    drawn = _ARTICLES_QUERIES if settings.article else _SPARE * wanted
    many = drawn if settings.article else _SPARE_IN_TEXT * wanted
    *attempts, final = [(drawn, True), *([(many, True), (many, False)] if in_text else [])]

    def found(n: int, slopes: bool) -> SourceAndTarget:
        source = settings.draw(model, n=n, spare=1)
        return SourceAndTarget.of(source, wanted=wanted, seed=settings.seed, readable=readable, slopes=slopes)

    for attempt in attempts:
        with suppress(BadArgument):
            if len(some := found(*attempt)) == wanted or settings.article:
                return some
    return found(*final)


def experiment(ctx: Ctx) -> Experiment:
    model, settings = ctx.model, ctx.settings
    prompts = halves(ctx.once(problems)).map(lambda half: TransferPrompts.of(model, half))
    shuffled = prompts.map(lambda half: telling_alone(half.sources[CONTROLS[0]]).answered())
    every = [*shuffled, *(half.answered for half in prompts)]
    # Generated tokens have no place in a mean by position, unless it is taken at the last one alone.
    aligned = functions_of(model) is not None or settings.positions == "last"
    aligned = aligned and len({length for each in every for length in each.lengths}) == 1
    are_numbers = prompts.estimation.problems.source.functions.is_number
    whole = are_numbers and max(half.longest_answer for half in prompts) == 1
    numbers = (any_number(model),) if are_numbers else ()
    readings = ("exact", "near") if whole else ("exact",)
    return Experiment(model, settings, prompts, numbers, readings, shuffled.selection, aligned)
