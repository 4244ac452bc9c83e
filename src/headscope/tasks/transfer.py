"""Problems for transferring a function from one prompt to another, in two halves: one to select, one to estimate.

In: few-shot problems as numbers (`Shots`), for their family of functions, shots and noise. Out: `Split[Transfer]`,
about functions of which none is in both halves. Inputs are split once: what source prompts ask (*dummy queries*,
Hendel et al. 2023) is never asked where something of them is patched in, so that it cannot hold the answer that is
wanted. Within a problem neither of the two inputs is shown. Prompts that means are taken over (*sources*) are drawn
apart from the problems. Not done here: how a prompt is written (tasks.linear).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headscope.errors import BadArgument
from headscope.tasks.functions import Functions, Ints, Which
from headscope.tasks.shots import Shots
from headscope.tasks.split import Split

FEWEST_FUNCTIONS = 5


@dataclass(frozen=True, eq=False)
class Transfer:
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
        """The problems themselves: the examples, and then what is asked."""
        return self.dummy.asking(self.asked)

    @property
    def zero(self) -> Shots:
        """What is asked, without any examples."""
        return self.few.without_context()

    @property
    def shuffled(self) -> Shots:
        """The problems with labels shuffled within each."""
        return self.few.with_shuffled_labels(self.seed)

    @property
    def other_answer(self) -> Ints:
        """The other function's value at the input that is asked, [problem]."""
        return self.other.asking(self.asked).answer


def transfer_halves(
    usual: Shots, *, n: int, each: int, sources: int, among: Which = "grid", seed: int = 0
) -> Split[Transfer]:
    """Problems that select and problems that estimate: about `n` in each, `each` of a function.

    Functions, shots and noise are those of `usual`. With few functions there are more problems of each. `sources`
    further prompts of each function are for its means.

    Raises:
        BadArgument: for too few functions, shots or inputs.
    """
    functions, shots, generator = usual.functions, usual.x.shape[1], np.random.default_rng(seed)
    parameters = generator.permutation(functions.among(among))
    count = min(n // each, len(parameters) // 2)
    if count < FEWEST_FUNCTIONS:
        raise BadArgument(
            f"cannot split {n} problems of {len(parameters)} functions: each half needs at least "
            f"{FEWEST_FUNCTIONS} functions, got {count}. Use a larger --n or a wider family."
        )
    inputs = generator.permutation(np.arange(functions.inputs[0], functions.inputs[1] + 1))
    if shots < 2 or len(inputs) < shots + 2:
        raise BadArgument(
            f"cannot transfer functions with {shots} shots of {len(inputs)} inputs: use 2 shots or more, and 2 "
            "inputs more than shots, since a problem has two queries that it does not show."
        )

    def draw_inputs(n: int) -> tuple[Ints, Ints, Ints]:
        """Shown inputs [n, shot], a dummy query and one that is asked: none of them twice in a problem."""
        split, rows = len(inputs) // 2, np.arange(n)
        dummy = generator.integers(0, split, n)
        asked = generator.integers(split, len(inputs), n)
        order = generator.random((n, len(inputs)))
        order[rows, dummy] = order[rows, asked] = 2.0
        return inputs[order.argsort(axis=1)[:, :shots]], inputs[dummy], inputs[asked]

    def about(parameters: Ints, x: Ints, query: Ints) -> Shots:
        y = functions.shown_values(parameters, x, usual.noise, generator)
        made_by = {**usual.made_by, "n": len(x), "drawn_for": "vectors"}
        return replace(usual, parameters=parameters, x=x, y=y, query=query, made_by=made_by)

    def half(own: Ints, seed: int) -> Transfer:
        """Problems of these functions, function by function."""
        function, source_function = (np.repeat(np.arange(count), times) for times in (-(-n // count), sources))
        x, dummy, asked = draw_inputs(len(function))
        partner = _partners(functions, own, function, asked)
        shown, query, _ = draw_inputs(len(source_function))
        problems, others = about(own[function], x, dummy), about(own[partner], x, dummy)
        further = about(own[source_function], shown, query)
        return Transfer(problems, others, asked, function, partner, further, source_function, seed)

    # In this order: both halves draw from one generator.
    selection = half(parameters[:count], 2 * seed)
    return Split(selection, half(parameters[count : 2 * count], 2 * seed + 1))


def _partners(functions: Functions, parameters: Ints, function: Ints, asked: Ints) -> Ints:
    """For each problem another function whose value at what is asked differs, the next such in order."""
    own = functions.values(parameters[function], asked)
    partner = np.full_like(function, -1)
    for step in range(len(parameters) - 1, 0, -1):
        candidate = (function + step) % len(parameters)
        differs = functions.values(parameters[candidate], asked) != own
        partner = np.where(differs, candidate, partner)
    if (partner < 0).any():
        raise BadArgument(
            "cannot find another function for every query: at some input all functions of a half agree. "
            "Choose other ranges of a, b or inputs."
        )
    return partner
