"""Settings of the study, problems about chosen functions, and where each example stands in a prompt.

In: settings and a model. Out: `Problems`, from which `Shots` about *given* functions are drawn (a feature of a task
belongs to one function), and the positions of whole examples in prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from headscope.errors import BadArgument, PromptError
from headscope.models.model import Model
from headscope.studies.context import Context, setting
from headscope.studies.pairs import PairsConfig
from headscope.tasks.functions import Functions, Ints
from headscope.tasks.prompts import Prompts, Role
from headscope.tasks.shots import ARTICLE_FUNCTION, Shots
from headscope.tasks.split import Split

FEWEST_SHOTS = 2
# Prompts in a half that names or judges: with fewer, bounds for all heads at once can hardly say anything.
FEWEST_EACH = 16
_ARTICLE_QUERIES = 80  # its pairs leave 87 inputs to ask; by default more are asked


@dataclass(frozen=True, kw_only=True)
class BayesSettings(PairsConfig):
    """Settings of `headscope study bayes`; the command's options and help come from these fields."""

    doing: ClassVar[str] = "study updates"
    n: int = setting(
        300, "problems (prompts) for each estimate", at_least=2 * FEWEST_EACH, quick=60, least=2 * FEWEST_EACH
    )
    ridge: float = setting(1.0, "strength of the ridge regression that the model is compared with", above=0)
    resamples: int = setting(
        200, "resamples of the prompts, for the bounds of what is fitted to curves", at_least=20, quick=60
    )
    strongest: int = setting(3, "heads of each kind that are ablated together", at_least=1)
    random_sets: int = setting(20, "random sets of as many heads, ablated for comparison", at_least=19)  # p = 1/20

    def __post_init__(self) -> None:
        if self.article and self.n == BayesSettings.n:
            object.__setattr__(self, "n", _ARTICLE_QUERIES)
        super().__post_init__()


Ctx = Context[BayesSettings]


@dataclass(frozen=True)
class Problems:
    """Where problems come from: `choices` [function, 2] in random order, `shots` pairs, a share `noise` wrong."""

    functions: Functions
    choices: Ints
    shots: int
    noise: float
    seed: int

    @classmethod
    def of(cls, settings: PairsConfig, model: Model) -> "Problems":
        """As the settings say; with the article's pairs, functions of its family, its own function first.

        Raises:
            BadArgument: for fewer than two pairs in a prompt.
        """
        pattern = settings.draw(model, n=1)
        shots = pattern.x.shape[1]
        if shots < FEWEST_SHOTS:
            raise BadArgument(
                f"cannot study how examples add up with shots={shots}: it must be at least {FEWEST_SHOTS}."
            )
        known = pattern.functions.among("grid" if settings.article else settings.among)  # type: ignore[arg-type]
        choices = known[np.random.default_rng(settings.seed).permutation(len(known))]
        if settings.article:
            own = (choices == ARTICLE_FUNCTION).all(1)
            choices = np.concatenate((choices[own], choices[~own]))
        return cls(pattern.functions, choices, shots, pattern.noise, settings.seed)

    def about(self, parameters: Ints, *, shots: int, seed: int) -> Shots:
        """One problem about each of the functions `parameters` [example, 2], with fresh inputs and noise."""
        generator = np.random.default_rng((self.seed, seed))
        inputs = self.functions.draw_inputs(len(parameters), shots + 1, generator)
        y = self.functions.shown_values(parameters, inputs[:, :-1], self.noise, generator)
        made_by = {"shots": shots, "n": len(parameters), "noise": self.noise, "seed": [self.seed, seed]}
        made_by |= {"functions": parameters.tolist()}
        return Shots(self.functions, parameters, inputs[:, :-1], y, inputs[:, -1], self.noise, made_by)

    def halves(self, most: int) -> Split[Ints]:
        """Up to `most` functions: those that select, and those that estimate."""
        chosen = self.choices[:most]
        return Split(chosen[0::2], chosen[1::2])


def prompts_each(settings: PairsConfig) -> int:
    """Prompts for each question: a third of those of the curve, since it asks many times as much of each."""
    return max(FEWEST_EACH, settings.n // 3)


def truncated_context(shots: Shots, count: int) -> Shots:
    """The same problems, the query included, with only their first `count` pairs."""
    return shots.keeping(np.tile(np.arange(count), (len(shots), 1)))


def example_spans(prompts: Prompts) -> list[list[tuple[int, ...]]]:
    """The positions of each shown pair of each prompt, from its x to what stands before the next.

    Raises:
        PromptError: for prompts without the roles of `tasks.linear`.
    """
    if not {"x", "query"} <= set(prompts.roles):
        raise PromptError("cannot tell examples apart: build the prompts with hs.tasks.linear.")
    spans = []
    for x, query in zip(prompts.roles["x"], prompts.roles["query"], strict=True):
        starts = [position for position in x if position - 1 not in x]
        spans.append([tuple(range(*ends)) for ends in pairwise([*starts, query[0]])])
    return spans


def role_by_example(prompts: Prompts, role: str) -> list[list[tuple[int, ...]]]:
    """The positions of a role ("x", "y", ...) within each shown pair of each prompt."""
    return [
        [tuple(p for p in span if p in marked) for span in spans]
        for spans, marked in zip(example_spans(prompts), map(set, prompts.roles[role]), strict=True)
    ]


def with_role(prompts: Prompts, name: str, positions: Sequence[Sequence[int]]) -> Prompts:
    """The prompts with one more role."""
    marked: Role = tuple(tuple(sorted(example)) for example in positions)
    return replace(prompts, roles={**prompts.roles, name: marked})
