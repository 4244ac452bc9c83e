"""What the vectors study asks: its settings, and problems of functions in two halves, one to select, one to estimate.

In: options and a model. Out: `Split[Transfer]` (tasks.transfer).
"""

from dataclasses import dataclass
from typing import ClassVar

from headscope.errors import BadArgument
from headscope.models.model import Model
from headscope.studies.context import Context, setting
from headscope.studies.pairs import PairsConfig
from headscope.tasks.split import Split
from headscope.tasks.transfer import Transfer, transfer_halves


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(PairsConfig):
    """What can be chosen; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study vectors"
    n: int = setting(150, "problems (prompts) in each half", at_least=10, quick=60, least=30)
    each: int = setting(5, "problems of each function (n problems in each half)", at_least=1, quick=3)
    sources: int = setting(10, "prompts of each function that vectors are averaged over", at_least=1, quick=6)
    top: int | None = setting(None, "heads of each kind (default: 2%, but 4 or an eighth of fewer)", at_least=1)
    random_vectors: int = setting(3, "random sets of heads whose sum is a control", at_least=1, quick=1)
    random_sets: int = setting(20, "random sets of heads ablated beside each group", at_least=19)

    def top_of(self, model: Model) -> int:
        """How many heads count as the top ones: the papers take about 2%; a small model has too few for that."""
        count = len(model.heads)
        chosen = max(-(-count // 50), min(4, count // 8), 1) if self.top is None else self.top
        if chosen > count // 2:
            told = f"cannot set {chosen} top heads of each kind apart: {model.name} has {count} heads."
            raise BadArgument(f"{told} Use a smaller --top.")
        return chosen


Ctx = Context[VectorsConfig]


def problems(ctx: Ctx) -> Split[Transfer]:
    """The problems of a run: half of the functions select layers and heads, the others estimate.

    Raises:
        BadArgument: for the article's pairs, and for too few functions, shots or inputs.
    """
    config = ctx.settings
    if config.article:
        raise BadArgument(
            "cannot study vectors on the article's pairs: they have one function, and its vector is compared with "
            "those of others. Leave --article away; --a, --b and --inputs choose the functions."
        )
    usual, among = config.draw(ctx.model, n=1), config.among
    sizes = {"n": config.n, "each": config.each, "sources": config.sources, "seed": config.seed}
    return transfer_halves(usual, among=among, **sizes)  # type: ignore[arg-type]  # checked with the settings
