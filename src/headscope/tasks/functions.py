"""Families of hidden functions of whole numbers, each with its prior: what a prompt of pairs can be about.

In: a family, the ranges of its two parameters and of its inputs. Out: every function of the family (`grid`
[function, 2]), its values, and the prior over functions, which is uniform: over the functions that a model may
be trained on, or over all of them. Some functions are *held out*: they have no mass under the first prior,
and only a model that infers the function instead of recalling it can follow them. (2, 3), the function of the
article that began this (y = 2x + 3), is always held out where the grid has it.

    linear      y = a x + b                  quadratic   y = a x^2 + b
    modular     y = (a x + b) mod modulus    threshold   y = b where x >= a, else 0

Two pairs of parameters with the same value at every input are one function, and the first of them stands for
it; otherwise a held-out function could come in by another name. Not here: prompts (`tasks.linear`), the
posterior (`measures.posterior`).
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument, UnknownName

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Family = Literal["linear", "quadratic", "modular", "threshold"]
Which = Literal["grid", "training", "held_out"]

_WRITTEN = {
    "linear": "y = a x + b",
    "quadratic": "y = a x^2 + b",
    "modular": "y = (a x + b) mod {modulus}",
    "threshold": "y = b where x >= a, else 0",
}
_ALWAYS_HELD_OUT = (2, 3)


@dataclass(frozen=True)
class Functions:
    """A family with the ranges of its parameters `a` and `b` and of its `inputs`, all inclusive.

    `held_out` functions are set aside, chosen by `seed`. `modulus` belongs to the modular family alone.

    >>> family = Functions(a=(1, 2), b=(0, 1), inputs=(0, 3), held_out=1)
    >>> family.grid.tolist(), family.n_numbers
    ([[1, 0], [1, 1], [2, 0], [2, 1]], 8)

    Raises:
        BadArgument: for empty ranges, negative values, or more functions held out than leaves one to train on.
    """

    family: Family = "linear"
    a: tuple[int, int] = (1, 3)
    b: tuple[int, int] = (0, 29)
    inputs: tuple[int, int] = (0, 19)
    modulus: int | None = None
    held_out: int = 0
    seed: int = 7

    # How a pair is written as text: before x, between x and y, and after y; and how many pairs are usual.
    form: ClassVar[tuple[str, str, str]] = ("(", ", ", ")\n")
    usual_shots: ClassVar[int] = 12

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise UnknownName.among("family of functions", self.family, get_args(Family))
        if (self.family == "modular") != (self.modulus is not None) or (self.modulus or 2) < 2:
            raise BadArgument(
                f"cannot make {self.family} functions with modulus={self.modulus}: the modular family needs one "
                "of at least 2, the others none."
            )
        for name in ("a", "b", "inputs"):
            low, high = getattr(self, name)
            if low > high:
                raise BadArgument(f"cannot make functions with {name}=({low}, {high}): expected low <= high.")
        if self.inputs[0] < 0 or self._table.min() < 0:
            raise BadArgument(
                f"cannot make {self.family} functions with inputs from {self.inputs[0]} and values from "
                f"{self._table.min()}: numbers start at 0. Choose other ranges."
            )
        if not 0 <= self.held_out < len(self.grid):
            raise BadArgument(
                f"cannot hold out {self.held_out} of {len(self.grid)} functions: hold out at least 0 and leave one."
            )

    def values(self, parameters: Ints, x: Ints) -> Ints:
        """Values of the functions `parameters` [..., 2] at `x` [...], broadcast as numpy does.

        >>> Functions().values(np.array([2, 3]), np.array([28, 86])).tolist()
        [59, 175]
        """
        a, b = parameters[..., 0], parameters[..., 1]
        match self.family:
            case "quadratic":
                y = a * x * x + b
            case "threshold":
                y = np.where(x >= a, b, 0)
            case "modular":
                y = (a * x + b) % (self.modulus or 1)
            case _:
                y = a * x + b
        return np.asarray(y, np.int64)

    @cached_property
    def grid(self) -> Ints:
        """The parameters of every function, int64 [function, 2], `a` slowest."""
        _, first = np.unique(self._table, axis=0, return_index=True)
        chosen: Ints = self._all_parameters[np.sort(first)]
        return chosen

    @cached_property
    def is_held_out(self) -> Bools:
        """Which functions of the grid no training sequence follows, bool [function]."""
        order = np.random.default_rng(self.seed).permutation(len(self.grid))
        always = (self.grid[order] == _ALWAYS_HELD_OUT).all(1)
        # A stable sort puts the one that is always held out first and keeps the drawn order of the rest.
        ranked = order[np.argsort(~always, kind="stable")]
        mask = np.zeros(len(self.grid), bool)
        mask[ranked[: self.held_out]] = True
        return mask

    def among(self, which: Which) -> Ints:
        """Parameters of all functions, of those for training, or of the held-out ones, int64 [function, 2].

        Raises:
            BadArgument: if there are none.
        """
        if which == "held_out" and self.held_out == 0:
            raise BadArgument("cannot use held-out functions: none are held out. Pass held_out=, at least 1.")
        return self.grid[self._mask(which)]

    def prior(self, which: Which = "training") -> Floats:
        """Probability of every function of the grid, float64 [function]: uniform over `which`, 0 elsewhere."""
        mask = self._mask(which)
        shares: Floats = mask / max(1, mask.sum())
        return shares

    @property
    def stated(self) -> str:
        """The family and its prior in words.

        >>> Functions(held_out=12).stated
        'y = a x + b, a in 1..3, b in 0..29, x in 0..19; prior uniform over 78 of 90 functions, 12 held out'
        """
        form = _WRITTEN[self.family].format(modulus=self.modulus)
        ranges = ", ".join(
            f"{name} in {low}..{high}" for name, (low, high) in (("a", self.a), ("b", self.b), ("x", self.inputs))
        )
        n = len(self.grid)
        kept = f"{n - self.held_out} of {n} functions, {self.held_out} held out"
        return f"{form}, {ranges}; prior uniform over {kept if self.held_out else f'{n} functions'}"

    @property
    def n_numbers(self) -> int:
        """How many whole numbers occur, 0 included, as an input or as a value."""
        return 1 + max(int(self._table.max()), self.inputs[1])

    @property
    def others(self) -> Ints:
        """The functions that pairs of another task may follow, [function, 2]: all, or, beside a single one, y = x."""
        if len(self.grid) > 1:
            return self.grid
        copies = bool((self.grid == (1, 0)).all())
        return np.array([[1, int(copies)]], np.int64)

    @property
    def has_slopes(self) -> bool:
        """Whether a x is another answer than x itself, so that a slope can be transferred alone."""
        return self.family != "linear" or bool((self.grid[:, 0] != 1).any())

    @property
    def single(self) -> str:
        """The name of the task, where it is one: what a prompt is a prompt of; else empty."""
        if len(self.grid) > 1:
            return ""
        (a, b) = self.grid[0].tolist()
        if self.family != "linear":
            return f"{_WRITTEN[self.family].format(modulus=self.modulus)} with a = {a}, b = {b}"
        return f"y = {'' if a == 1 else a}x{f' + {b}' if b else ''}" if a else f"y = {b}"

    @property
    def is_number(self) -> bool:
        """Whether values are numbers, which have a parity and others near them."""
        return True

    def text(self, number: int) -> str:
        """A number as it is written."""
        return str(number)

    def told(self) -> dict[str, Any]:
        """What identifies them, for the record; of a language, only what makes its functions."""
        return {**{kept.name: getattr(self, kept.name) for kept in fields(Functions)}, "stated": self.stated}

    def draw_inputs(self, n: int, count: int, generator: np.random.Generator, *, apart: int = 0) -> Ints:
        """Inputs in random order, int64 [n, count]; none comes again before all have come.

        The last `apart` are none of those before, which come again the sooner where there are few.

        >>> few = Functions(inputs=(1, 4)).draw_inputs(5, 8, np.random.default_rng(0), apart=2)
        >>> [len(set(row[:-2])) for row in few.tolist()], [set(row[:-2]) & set(row[-2:]) for row in few.tolist()]
        ([2, 2, 2, 2, 2], [set(), set(), set(), set(), set()])

        Raises:
            BadArgument: for fewer inputs than are to be kept apart and one more.
        """
        n_inputs = self.inputs[1] - self.inputs[0] + 1
        if not apart or count <= n_inputs:
            rounds = -(-count // n_inputs)
            order = generator.random((n, rounds, n_inputs)).argsort(axis=-1).reshape(n, -1)[:, :count]
        else:
            if n_inputs <= apart:
                raise BadArgument(
                    f"cannot keep {apart} inputs of {n_inputs} apart from those that are shown: use more inputs."
                )
            once, shown, left = generator.random((n, n_inputs)).argsort(axis=-1), count - apart, n_inputs - apart
            again = generator.random((n, -(-shown // left), left)).argsort(axis=-1).reshape(n, -1)[:, :shown]
            order = np.concatenate((np.take_along_axis(once[:, apart:], again, 1), once[:, :apart]), axis=1)
        return np.asarray(self.inputs[0] + order, np.int64)

    def shown_values(self, parameters: Ints, x: Ints, noise: float, generator: np.random.Generator) -> Ints:
        """Values of the functions `parameters` [example, 2] at `x` [example, shot], a share `noise` drawn anew.

        Drawn uniformly from all numbers: one may be the right one by chance, and the posterior counts that in.
        """
        y = self.values(parameters[:, None], x)
        struck = generator.random(y.shape) < noise
        return np.where(struck, generator.integers(0, self.n_numbers, y.shape), y)

    def _mask(self, which: Which) -> Bools:
        held_out = self.is_held_out
        masks = {"grid": np.full_like(held_out, True), "training": ~held_out, "held_out": held_out}
        if which not in masks:
            raise UnknownName.among("set of functions", which, masks)
        return masks[which]

    @cached_property
    def _all_parameters(self) -> Ints:
        a, b = (np.arange(low, high + 1) for low, high in (self.a, self.b))
        return np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)

    @cached_property
    def _table(self) -> Ints:
        """Values at every input, int64 [parameters, input]."""
        return self.values(self._all_parameters[:, None], np.arange(self.inputs[0], self.inputs[1] + 1))


def check_noise(noise: float) -> None:
    """Raise `BadArgument` unless `noise` is a share."""
    if not 0 <= noise <= 1:
        raise BadArgument(f"cannot corrupt a share of {noise} of the examples: expected a number from 0 to 1.")
