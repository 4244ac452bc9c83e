"""Settings of the study `bayes`: those of every study of pairs, and what its own parts are told."""

from dataclasses import dataclass, field

from headscope.errors import BadArgument
from headscope.studies.pairs import PairsConfig

_ARTICLE_QUERIES = 80


@dataclass(frozen=True, kw_only=True)
class Config(PairsConfig):
    """Settings of `headscope study bayes`; the command's options and help come from these fields."""

    n: int = field(default=300, metadata={"help": "problems (prompts) for each estimate"})
    ridge: float = field(
        default=1.0, metadata={"help": "strength of the ridge regression that the model is compared with"}
    )
    resamples: int = field(
        default=200, metadata={"help": "resamples of the prompts, for the bounds of what is fitted to curves"}
    )
    strongest: int = field(default=3, metadata={"help": "heads of each kind that carry pairs, to be cut"})
    random_sets: int = field(
        default=20, metadata={"help": "random sets of heads beside the heads that carry pairs"}
    )

    def __post_init__(self) -> None:
        # The article's pairs leave 87 inputs to ask; the default is more than that.
        if self.article and self.n == Config.n:
            object.__setattr__(self, "n", _ARTICLE_QUERIES)
        super().__post_init__()
        if self.ridge <= 0:
            raise BadArgument(f"cannot regress with ridge={self.ridge}: expected a number above 0.")
        for name, fewest in (("resamples", 20), ("strongest", 1), ("random_sets", 1)):
            if getattr(self, name) < fewest:
                raise BadArgument(
                    f"cannot study updates with {name}={getattr(self, name)}: it must be at least {fewest}."
                )

    def quick(self) -> "Config":
        """Smaller, for a first look; what was chosen stays as chosen."""
        return self.smaller({"n": 60, "resamples": 60})
