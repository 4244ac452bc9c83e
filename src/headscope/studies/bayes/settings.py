"""Settings of the study `bayes`: those of every study of pairs, and what its own questions are told."""

from dataclasses import dataclass
from typing import ClassVar

from headscope.studies.context import setting
from headscope.studies.pairs import PairsConfig

_ARTICLE_QUERIES = 80


@dataclass(frozen=True, kw_only=True)
class BayesSettings(PairsConfig):
    """Settings of `headscope study bayes`; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study updates"
    n: int = setting(300, "problems (prompts) for each estimate", at_least=10, quick=60)
    ridge: float = setting(1.0, "strength of the ridge regression that the model is compared with", above=0)
    resamples: int = setting(
        200, "resamples of the prompts, for the bounds of what is fitted to curves", at_least=20, quick=60
    )
    strongest: int = setting(3, "heads of each kind that are ablated together", at_least=1)
    random_sets: int = setting(20, "random sets of as many heads, ablated for comparison", at_least=1)

    def __post_init__(self) -> None:
        # The article's pairs leave 87 inputs to ask; the default is more than that.
        if self.article and self.n == BayesSettings.n:
            object.__setattr__(self, "n", _ARTICLE_QUERIES)
        super().__post_init__()
