"""The problems of the redundancy study: A with pairs before it, B without, and the two A that carry nothing.

In: settings and a model. Out: `Problems`, numbers alone. A asks x_A after pairs (x, y) of a function; B asks
another x, x_B, of the same function, with nothing before it. What B may answer once something of A is put into it
are the four regimes of `tasks.shots.regimes`; a problem in which two of them are the same number is left out, and
so are a = 1 and b = 0 where there are others. Two controls share A's inputs and its query: its labels *shuffled*,
and pairs of *another* function. How they are written for a model is `redundancy_parts.prompts`' business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from headscope.errors import BadArgument
from headscope.measures import FEWEST
from headscope.models.model import Model
from headscope.studies.pairs import PairsConfig
from headscope.tasks.functions import Bools, Ints
from headscope.tasks.shots import Shots, regimes

TASK = ("f(x_B)", "a x_B")
COPIED = ("f(x_A)", "a x_A")
REGIMES = (*TASK, *COPIED)
# Of so many drawn problems enough are left once those with equal regimes are gone.
_SPARE = 8
_ARTICLES_QUERIES = 87


@dataclass(frozen=True, eq=False)
class Problems:
    """Examples as numbers, row by row: `context` is A, `bare` is B, `shuffled` and `other` are A's controls.

    `numbers` [example] are the answers of the four regimes, by name.
    """

    context: Shots
    bare: Shots
    shuffled: Shots
    other: Shots
    numbers: Mapping[str, Ints]

    def __len__(self) -> int:
        return len(self.context)

    def rows(self, chosen: slice) -> Self:
        """Some of the examples."""
        index = list(range(len(self))[chosen])
        parts = (self.context, self.bare, self.shuffled, self.other)
        context, bare, shuffled, other = (part.rows(index) for part in parts)
        numbers = {name: values[index] for name, values in self.numbers.items()}
        return type(self)(context, bare, shuffled, other, numbers)

    @property
    def even_slope(self) -> Bools:
        """Where the parity of f(x) is that of b whatever x is: a is even, bool [example]."""
        linear = self.context.functions.family in ("linear", "quadratic")
        even: Bools = (self.context.parameters[:, 0] % 2 == 0) & linear
        return even


def draw(config: PairsConfig, model: Model) -> Problems:
    """Twice `config.n` problems, one half to choose on and one to estimate with; fewer of the article's.

    Raises:
        BadArgument: if the regimes of too few problems differ.
    """
    wanted = 2 * config.n
    many = _ARTICLES_QUERIES if config.article else _SPARE * wanted
    context = config.draw(model, n=many)
    bare = context.asking_anew(config.seed + 1).without_context()
    keep = np.flatnonzero(_telling(context, regimes(context, bare)))[:wanted].tolist()
    if len(keep) < 2 * FEWEST:
        raise BadArgument(
            f"cannot tell the task from a copied answer with these functions ({context.functions.stated}): in "
            f"{len(keep)} of {many} problems f(x_B), a x_B, f(x_A) and a x_A are four numbers, and at least "
            f"{2 * FEWEST} are needed. Choose other ranges of a, b or x, or another family."
        )
    context, bare = context.rows(keep), bare.rows(keep)
    numbers = regimes(context, bare)
    shuffled = context.with_shuffled_labels(config.seed + 2)
    other = about_another(context, bare, numbers, config.seed + 3)
    return Problems(context, bare, shuffled, other, numbers)


def about_another(context: Shots, bare: Shots, numbers: Mapping[str, Ints], seed: int) -> Shots:
    """The same inputs and queries with pairs of another function, corrupted as often.

    It has another `a` where there is one, and its answers are none of `numbers` where that is possible.
    """
    generator = np.random.default_rng(seed)
    grid, own = context.functions.grid, np.stack(list(numbers.values()), axis=-1)
    slope = grid * np.array([1, 0])
    chosen = []
    for row, parameters in enumerate(context.parameters):
        asked = (context.query[row], bare.query[row])
        answers = np.stack(
            [context.functions.values(each, query) for each in (grid, slope) for query in asked], axis=-1
        )
        another = (grid != parameters).any(1)
        steeper = another & (grid[:, 0] != parameters[0])
        apart = ~(answers[:, :, None] == own[row]).any((1, 2))
        choices = next((each for each in (steeper & apart, steeper, another) if each.any()), ~another)
        chosen.append(grid[generator.choice(np.flatnonzero(choices))])
    parameters = np.array(chosen)
    y = context.functions.corrupt(
        context.functions.values(parameters[:, None], context.x), context.noise, generator
    )
    return context.changed({"how": "about_another", "seed": seed}, parameters=parameters, y=y)


def _telling(context: Shots, numbers: Mapping[str, Ints]) -> Bools:
    """Which problems tell the regimes apart, bool [example]."""
    values = np.sort(np.stack([numbers[name] for name in REGIMES], axis=-1), axis=-1)
    keep: Bools = np.asarray((np.diff(values, axis=-1) > 0).all(-1))
    for column, least in ((0, 2), (1, 1)):  # a = 1 and b = 0 tell less
        enough = context.parameters[:, column] >= least
        if (keep & enough).any():
            keep = keep & enough
    return keep
