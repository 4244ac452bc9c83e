"""What the vectors study asks: its settings, and problems of functions in two halves, one to select, one to estimate.

In: options and a model. Out: `Split[Transfer]` (tasks.transfer). Of fewer than ten functions, or a list of word
pairs, both halves have all: the unit is the prompt within that task, and every claim says so (`within_task`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import ClassVar

from headscope.errors import BadArgument
from headscope.models.model import Model
from headscope.studies.context import Context, Part, setting
from headscope.studies.pairs import TasksConfig
from headscope.tasks.linear import functions_of
from headscope.tasks.source_and_target import readable_by
from headscope.tasks.split import Split
from headscope.tasks.transfer import FEWEST_FUNCTIONS, Transfer, transfer_halves


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(TasksConfig):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study vectors"
    n: int = setting(150, "problems (prompts) in each half", at_least=10, quick=60, least=30)
    each: int = setting(5, "problems of each function (n problems in each half)", at_least=1, quick=3)
    sources: int = setting(10, "prompts of each function that vectors are averaged over", at_least=1, quick=6)
    top: int | None = setting(None, "heads of each kind (default: 2%, but 4 or an eighth of fewer)", at_least=1)
    random_vectors: int = setting(3, "random sets of heads whose sum is a control", at_least=1, quick=1)
    random_sets: int = setting(20, "random sets of heads ablated beside each group", at_least=19)

    def check(self, model: Model) -> None:
        self.top_of(model)
        if self.article:
            raise BadArgument(
                "cannot study vectors on the article's pairs: they have one function, and its vector is compared "
                "with those of others. Leave --article away; --a, --b and --inputs choose the functions."
            )

    def top_of(self, model: Model) -> int:
        """How many heads count as the top ones: the papers take about 2%; a small model has too few for that."""
        count = len(model.heads)
        chosen = max(-(-count // 50), min(4, count // 8), 1) if self.top is None else self.top
        if chosen > count // 2:
            told = f"cannot set {chosen} top heads of each kind apart: {model.name} has {count} heads."
            raise BadArgument(f"{told} Use a smaller --top.")
        return chosen

    def ablated(self, half: Transfer) -> int:
        """On how many problems sets of heads are ablated: all, and of one task two fifths."""
        return max(10, 2 * len(half) // 5) if half.within else len(half)


Ctx = Context[VectorsConfig]


def problems(ctx: Ctx) -> Split[Transfer]:
    """The problems of a run: half of the functions (of one task, of the prompts) select layers and heads.

    Raises:
        BadArgument: for too few functions, shots or inputs.
    """
    config = ctx.settings
    usual, among = config.draw(ctx.model, n=1), config.among
    # A number token is an answer of its own; halves of functions need no more than another function's answer.
    told = functions_of(ctx.model) is not None and len(usual.functions.among(among)) >= 2 * FEWEST_FUNCTIONS  # type: ignore[arg-type]
    return transfer_halves(
        usual,
        n=config.n,
        each=config.each,
        sources=config.sources,
        among=among,  # type: ignore[arg-type]  # checked with the settings
        seed=config.seed,
        readable=None if told else readable_by(ctx.model),
    )


def within_task(question: Callable[[Ctx], Part]) -> Callable[[Ctx], Part]:
    """A question about the problems: of one task, its claims are about that task alone, and say so."""

    @wraps(question)
    def asked(ctx: Ctx) -> Part:
        part, task = question(ctx), ctx.once(problems).estimation.within
        if not task:
            return part
        claims = (
            replace(each, statement=f"On {task} alone, {each.statement[:1].lower()}{each.statement[1:]}")
            for each in part.claims
        )
        return replace(part, claims=tuple(claims))

    return asked
