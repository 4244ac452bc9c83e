"""Problems for transferring a function from one prompt to another, in two halves: one to select, one to estimate.

In: few-shot problems as numbers (`Shots`), for their family of functions, shots and noise. Out: `Split[Transfer]`,
about functions of which none is in both halves; of fewer than ten (y = x + 1 alone, a list of word pairs) both halves
have all, and what differs are prompts: then a problem is the unit, and only *within* the task that they are of.
Inputs are split once: what source prompts ask (*dummy queries*, Hendel et al. 2023) is never asked where something of
them is patched in, so that it cannot hold the answer that is wanted; within one task, where there are enough, no
input is asked in both halves either. Within a problem neither of the two inputs is shown. Prompts that means are
taken over (*sources*) are drawn apart from the problems. Not done here: how a prompt is written (tasks.linear).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from headscope.errors import BadArgument
from headscope.tasks.functions import Functions, Ints, Which
from headscope.tasks.shots import Shots
from headscope.tasks.source_and_target import Readable
from headscope.tasks.split import Split

FEWEST_FUNCTIONS = 5
# The answers that are looked for: that of the query, that of another function, and that of the dummy query, a copy.
OWN, OTHERS, DUMMYS = "f(x)", "g(x)", "f(dummy)"
# Within one task: so many asked inputs in each half keep the halves apart, and so many problems are needed.
_FEWEST_ASKED, _FEWEST_PROBLEMS = 10, 10
# How often a problem whose answers are not told apart is drawn again.
_REDRAWN = 20


@dataclass(frozen=True, eq=False)
class Transfer:
    """Few-shot problems of several functions, numbered by `function` [problem].

    `dummy` asks each problem's dummy query, `asked` [problem] is what is really asked. `other` has the same inputs
    and dummy query under the function number `partner` [problem], whose value at `asked` differs. `sources` are
    further prompts with dummy queries, about the functions `source_function`; `source_asked` is an input that none of
    them shows. `within` names the task, where problems are those of one and each is a unit; else functions are.
    """

    dummy: Shots
    other: Shots
    asked: Ints
    function: Ints
    partner: Ints
    sources: Shots
    source_function: Ints
    source_asked: Ints
    seed: int
    within: str = ""

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def unit(self) -> Ints:
        """What could have come out otherwise independently, by number [problem]."""
        return np.arange(len(self)) if self.within else self.function

    @property
    def over(self) -> str:
        """The units in the plural."""
        return f"prompts of {self.within}" if self.within else "functions"

    @property
    def answers(self) -> dict[str, Ints]:
        """The answers that are looked for, [problem] by name."""
        return {OWN: self.few.answer, OTHERS: self.other_answer, DUMMYS: self.dummy.answer}

    @property
    def source_answers(self) -> dict[str, Ints]:
        """What a source prompt's function says at the input that it asks, and at another."""
        return {DUMMYS: self.sources.answer, OWN: self.sources.asking(self.source_asked).answer}

    @property
    def functions(self) -> int:
        return int(self.function.max()) + 1

    def some(self, count: int) -> Self:
        """So many problems, evenly spaced, since they may stand in an order; with the sources of all."""
        if count >= len(self):
            return self
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int)
        taken = {name: getattr(self, name)[chosen] for name in ("asked", "function", "partner")}
        dummy, other = (each.rows(chosen.tolist()) for each in (self.dummy, self.other))
        return replace(self, dummy=dummy, other=other, **taken)

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
    usual: Shots,
    *,
    n: int,
    each: int,
    sources: int,
    among: Which = "grid",
    seed: int = 0,
    readable: Readable | None = None,
) -> Split[Transfer]:
    """Problems that select and problems that estimate: about `n` in each, `each` of a function.

    Functions, shots and noise are those of `usual`. With few functions there are more problems of each. `sources`
    further prompts of each function are for its means. What is not `readable` is drawn again, or left out.

    Raises:
        BadArgument: for too few problems, shots or inputs, or functions that are never told apart.
    """
    drawing = _Drawing.of(usual, among, seed, readable)
    if drawing.one_task:
        return drawing.prompts(n, sources, seed)
    parameters = drawing.parameters
    count = min(n // each, len(parameters) // 2)
    if count < FEWEST_FUNCTIONS:
        raise BadArgument(
            f"cannot split {n} problems of {len(parameters)} functions: each half needs at least "
            f"{FEWEST_FUNCTIONS} functions, got {count}. Use a larger --n or a wider family."
        )
    function, asked = np.repeat(np.arange(count), -(-n // count)), drawing.asked
    # In this order: both halves draw from one generator.
    selection = drawing.half(parameters[:count], function, asked, sources, 2 * seed)
    return Split(selection, drawing.half(parameters[count : 2 * count], function, asked, sources, 2 * seed + 1))


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What problems are drawn from: `inputs`, the first half of them dummy queries, and functions in random order."""

    usual: Shots
    parameters: Ints
    inputs: Ints
    generator: np.random.Generator
    readable: Readable | None

    @classmethod
    def of(cls, usual: Shots, among: Which, seed: int, readable: Readable | None) -> "_Drawing":
        functions, shots, generator = usual.functions, usual.x.shape[1], np.random.default_rng(seed)
        parameters = generator.permutation(functions.among(among))
        inputs = generator.permutation(np.arange(functions.inputs[0], functions.inputs[1] + 1))
        drawing = cls(usual, parameters, inputs, generator, readable)
        fewest = 4 if drawing.one_task else shots + 2  # within one task an input is shown again
        if shots < 2 or len(inputs) < fewest:
            raise BadArgument(
                f"cannot transfer functions with {shots} shots of {len(inputs)} inputs: use 2 shots or more, and 2 "
                "inputs more than shots, since a problem has two queries that it does not show."
            )
        return drawing

    @property
    def one_task(self) -> bool:
        """Whether there are too few functions for halves of their own."""
        return len(self.parameters) < 2 * FEWEST_FUNCTIONS

    @property
    def asked(self) -> range:
        """The places of inputs that are no dummy queries."""
        return range(len(self.inputs) // 2, len(self.inputs))

    def prompts(self, n: int, sources: int, seed: int) -> Split[Transfer]:
        """Halves of other prompts of the same functions, beside a single one its `others`."""
        functions, own = self.usual.functions, self.parameters
        within = functions.single or f"{len(own)} functions"
        function = np.arange(n) % len(own)
        own = np.concatenate((own, functions.others[:1])) if len(own) == 1 else own
        first, second = self.asked[::2], self.asked[1::2]
        if len(second) < _FEWEST_ASKED:
            first = second = self.asked
        selection = self.half(own, function, first, sources, 2 * seed, within)
        return Split(selection, self.half(own, function, second, sources, 2 * seed + 1, within))

    def half(self, own: Ints, function: Ints, among: range, sources: int, seed: int, within: str = "") -> Transfer:
        """Problems about these functions, of `own` parameters, and sources of each."""
        source_function = np.repeat(np.arange(len(own)), sources)
        x, dummy, asked = self.draw(len(function), among)
        for _ in range(_REDRAWN if self.readable else 0):
            if not (unread := self.lengths(own, function, x, dummy, asked) == 0).any():
                break
            x[unread], dummy[unread], asked[unread] = self.draw(int(unread.sum()), among)
        if self.readable:
            # Prompts of a length stand side by side, and run together.
            lengths = self.lengths(own, function, x, dummy, asked)
            order = np.argsort(lengths, kind="stable")[int((lengths == 0).sum()) :]
            if len(order) < _FEWEST_PROBLEMS:
                raise BadArgument(
                    f"cannot tell the answers of {self.usual.functions.stated} apart: in {len(order)} of {len(x)} "
                    f"problems one token tells f(x) from another function's answer and from that of another query, "
                    f"and at least {_FEWEST_PROBLEMS} are needed. Choose other functions, inputs or words."
                )
            x, dummy, asked, function = x[order], dummy[order], asked[order], function[order]
        partner = _partners(self.usual.functions, own, function, asked)
        if (partner < 0).any():
            raise BadArgument(
                "cannot find another function for every query: at some input all functions of a half agree. "
                "Choose other ranges of a, b or inputs."
            )
        shown, query, unshown = self.draw(len(source_function), self.asked)
        problems, others = self.about(own[function], x, dummy), self.about(own[partner], x, dummy)
        further = self.about(own[source_function], shown, query)
        return Transfer(problems, others, asked, function, partner, further, source_function, unshown, seed, within)

    def draw(self, n: int, among: range) -> tuple[Ints, Ints, Ints]:
        """Shown inputs [n, shot], a dummy query and one that is asked: neither is shown."""
        inputs, generator, rows = self.inputs, self.generator, np.arange(n)
        dummy = generator.integers(0, len(inputs) // 2, n)
        asked = np.array(among)[generator.integers(0, len(among), n)]
        order = generator.random((n, len(inputs)))
        order[rows, dummy] = order[rows, asked] = 2.0
        # Where inputs are fewer than shots they are shown again.
        shown = order.argsort(axis=1)[:, np.arange(self.usual.x.shape[1]) % (len(inputs) - 2)]
        return inputs[shown], inputs[dummy], inputs[asked]

    def about(self, parameters: Ints, x: Ints, query: Ints) -> Shots:
        y = self.usual.functions.shown_values(parameters, x, self.usual.noise, self.generator)
        made_by = {**self.usual.made_by, "n": len(x), "drawn_for": "vectors"}
        return replace(self.usual, parameters=parameters, x=x, y=y, query=query, made_by=made_by)

    def lengths(self, own: Ints, function: Ints, x: Ints, dummy: Ints, asked: Ints) -> Ints:
        """Tokens of each problem's prompt; 0 without another function, or where answers are not told apart."""
        assert self.readable is not None
        functions, partner = self.usual.functions, _partners(self.usual.functions, own, function, asked)
        whole = replace(self.usual, parameters=own[function], x=x, y=x, query=asked)
        whole = replace(whole, y=whole.true_y)
        values = {
            name: functions.values(own[which], at)
            for name, which, at in ((OWN, function, asked), (OTHERS, partner, asked), (DUMMYS, function, dummy))
        }
        return np.where(partner >= 0, self.readable(whole, whole.without_context(), values), 0)


def _partners(functions: Functions, parameters: Ints, function: Ints, asked: Ints) -> Ints:
    """For each problem another function whose value at what is asked differs, the next such in order; -1 for none."""
    own = functions.values(parameters[function], asked)
    partner = np.full_like(function, -1)
    for step in range(len(parameters) - 1, 0, -1):
        candidate = (function + step) % len(parameters)
        differs = functions.values(parameters[candidate], asked) != own
        partner = np.where(differs, candidate, partner)
    return partner
