"""The problems of the vectors study: functions in two halves, their questions, and what vectors are made of.

In: settings and a model. Out: two `Problems`, one that selects layers and heads and one that estimates; no function
is in both. Inputs are split once: what prompts ask whose stream is taken (*dummy* queries) is never what is asked
where it is put, so that no vector can hold the answer that is wanted. Within a problem neither of the two inputs
is shown. Prompts that vectors are averaged over (*sources*) are drawn apart from those that are judged.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headscope.errors import BadArgument
from headscope.measures import MIN_UNITS
from headscope.models.model import Model
from headscope.studies.pairs import PairsConfig
from headscope.tasks.functions import Functions, Ints
from headscope.tasks.shots import Shots


@dataclass(frozen=True, eq=False)
class Problems:
    """Few-shot problems of several functions, numbered by `function` [problem].

    `dummy` asks each problem's dummy query, `asked` [problem] is what is really asked. `other` has the same inputs
    and dummy query under the function number `partner` [problem], whose value at `asked` differs. `sources` are
    further prompts with dummy queries, about the functions `source_function`.
    """

    dummy: Shots
    other: Shots
    asked: Ints
    function: Ints
    partner: Ints
    sources: Shots
    source_function: Ints
    seed: int

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def functions(self) -> int:
        return int(self.function.max()) + 1

    @cached_property
    def few(self) -> Shots:
        """The problems themselves: the pairs, and then what is asked."""
        return self.dummy.asking(self.asked)

    @property
    def zero(self) -> Shots:
        """What is asked, without any pairs."""
        return self.few.without_context()

    @property
    def shuffled(self) -> Shots:
        """The problems with labels shuffled within each."""
        return self.few.with_shuffled_labels(self.seed)

    @property
    def other_answer(self) -> Ints:
        """What the other function says of the input that is asked, [problem]."""
        return self.other.asking(self.asked).answer


def halves_of_functions(
    config: PairsConfig, model: Model, *, each: int, sources: int
) -> tuple[Problems, Problems]:
    """Problems that select and problems that estimate: about `config.n` in each, `each` of a function.

    With few functions there are more problems of each. `sources` prompts of each function make its means.

    Raises:
        BadArgument: for too few functions, shots or inputs.
    """
    if config.article:
        raise BadArgument(
            "cannot study vectors on the article's pairs: they have one function, and vectors of others are what "
            "its vector is compared with. Leave --article away; --a, --b and --inputs choose the functions."
        )
    # One problem for the settings alone: functions, shots and noise are those of every study of pairs.
    usual = config.draw(model, n=1)
    generator = np.random.default_rng(config.seed)
    parameters = generator.permutation(usual.functions.among(config.among))  # type: ignore[arg-type]
    count = min(config.n // each, len(parameters) // 2)
    if count < MIN_UNITS:
        raise BadArgument(
            f"cannot study vectors on {config.n} problems of {len(parameters)} functions: each half needs at least "
            f"{MIN_UNITS} functions, got {count}. Use a larger --n or a wider family."
        )
    each = -(-config.n // count)
    inputs = generator.permutation(np.arange(usual.functions.inputs[0], usual.functions.inputs[1] + 1))
    shots = usual.x.shape[1]
    if shots < 2 or len(inputs) < shots + 2:
        raise BadArgument(
            f"cannot study vectors with {shots} shots of {len(inputs)} inputs: use 2 shots or more, and 2 inputs "
            "more than shots, since a problem has two queries that it does not show."
        )
    drawer = _Drawer(usual, inputs, generator)
    found = []
    for half, chosen in enumerate((parameters[:count], parameters[count : 2 * count])):
        found.append(drawer.problems(chosen, each, sources, seed=2 * config.seed + half))
    return found[0], found[1]


@dataclass
class _Drawer:
    usual: Shots
    inputs: Ints
    generator: np.random.Generator

    def problems(self, parameters: Ints, each: int, sources: int, *, seed: int) -> Problems:
        """Problems of these functions, function by function."""
        function = np.repeat(np.arange(len(parameters)), each)
        x, dummy, asked = self._inputs(len(function))
        partner = _partners(self.usual.functions, parameters, function, asked)
        source_function = np.repeat(np.arange(len(parameters)), sources)
        shown, query, _ = self._inputs(len(source_function))
        return Problems(
            self._shots(parameters[function], x, dummy),
            self._shots(parameters[partner], x, dummy),
            asked,
            function,
            partner,
            self._shots(parameters[source_function], shown, query),
            source_function,
            seed,
        )

    def _inputs(self, n: int) -> tuple[Ints, Ints, Ints]:
        """Shown inputs [n, shot], a dummy query and one that is asked: none of them twice in a problem."""
        split, rows = len(self.inputs) // 2, np.arange(n)
        dummy = self.generator.integers(0, split, n)
        asked = self.generator.integers(split, len(self.inputs), n)
        order = self.generator.random((n, len(self.inputs)))
        order[rows, dummy] = order[rows, asked] = 2.0
        shown = order.argsort(axis=1)[:, : self.usual.x.shape[1]]
        return self.inputs[shown], self.inputs[dummy], self.inputs[asked]

    def _shots(self, parameters: Ints, x: Ints, query: Ints) -> Shots:
        functions, noise = self.usual.functions, self.usual.noise
        y = functions.corrupt(functions.values(parameters[:, None], x), noise, self.generator)
        made_by = {**self.usual.made_by, "n": len(x), "drawn_for": "vectors"}
        return replace(self.usual, parameters=parameters, x=x, y=y, query=query, made_by=made_by)


def _partners(functions: Functions, parameters: Ints, function: Ints, asked: Ints) -> Ints:
    """For each problem another function whose value at what is asked differs, the next such in order."""
    own = functions.values(parameters[function], asked)
    found = np.full_like(function, -1)
    for step in range(len(parameters) - 1, 0, -1):
        candidate = (function + step) % len(parameters)
        differs = functions.values(parameters[candidate], asked) != own
        found = np.where(differs, candidate, found)
    if (found < 0).any():
        raise BadArgument(
            "cannot find another function for every question: at some input all functions of a half agree. "
            "Choose other ranges of a, b or inputs."
        )
    return found
