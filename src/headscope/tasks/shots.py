"""Few-shot problems as numbers: pairs that follow a hidden function, and an input whose value is asked for.

In: a family of functions with its prior, how many pairs, how many are corrupted, a seed. Out: one frozen value
that holds every example's function, its pairs (x, y) as they will be shown, and its query. The controls are
made here, where a pair is still a pair: labels shuffled, pairs permuted, the context left out, other queries.
How it is written for a model is `tasks.linear`'s business; the exact posterior of the very same numbers is
`measures.posterior`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from headscope.errors import BadArgument
from headscope.tasks.functions import Bools, Functions, Ints, Which, check_noise

# What is drawn for a model that was trained on no functions in particular: inputs as in the article.
EVERYDAY = Functions(a=(1, 5), b=(0, 9), inputs=(1, 99))
# The twelve pairs of the article "Redundant Attention Heads in Large Language Models For In Context
# Learning" (2024), its function, and the queries of its prompts with and without context.
ARTICLE_FUNCTION = (2, 3)
ARTICLE_PAIRS = tuple((x, 2 * x + 3) for x in (28, 86, 13, 55, 84, 66, 85, 27, 15, 94, 37, 14))
ARTICLE_QUERIES = (42, 15)


@dataclass(frozen=True, eq=False)
class Shots:
    """Examples as numbers: `parameters` [example, 2], pairs `x` and `y` [example, shot], `query` [example].

    `y` is what is shown, corrupted or not; `noise` the share that was to be corrupted. All int64. `made_by` says
    how they came about. `one_list` declares that all examples show the same pairs: what is independent then is a
    query, and nothing can be known of other pairs.

    >>> shots = Shots.article()
    >>> shots.x[0, :3].tolist(), shots.y[0, :3].tolist(), shots.query.tolist(), shots.answer.tolist()
    ([28, 86, 13], [59, 175, 29], [42], [87])
    """

    functions: Functions
    parameters: Ints
    x: Ints
    y: Ints
    query: Ints
    noise: float = 0.0
    made_by: Mapping[str, Any] = field(default_factory=dict)
    one_list: bool = False

    def __post_init__(self) -> None:
        n = len(self.query)
        shapes = (self.parameters.shape, self.x.shape, self.y.shape)
        if n < 1 or self.x.ndim != 2 or shapes != ((n, 2), (n, self.x.shape[1]), self.x.shape):
            raise BadArgument(
                f"cannot build shots for {n} queries from parameters, x and y of shapes {shapes}: expected "
                "[example, 2], [example, shot] and [example, shot], with at least one example."
            )

    @classmethod
    def draw(
        cls,
        functions: Functions,
        *,
        shots: int = 12,
        n: int = 50,
        noise: float = 0.0,
        among: Which = "grid",
        seed: int = 0,
        spare: int = 0,
    ) -> Self:
        """`n` examples, each about one function drawn uniformly from `among` ("grid", "training", "held_out").

        No input comes twice in an example, the query included, unless there are more shots than inputs. With
        `spare`, so many inputs are left besides the query that an example does not show, and then it shows its
        own again where there are few.

        Raises:
            BadArgument: for no examples, a negative number of shots, or a noise that is no share.
        """
        check_noise(noise)
        if n < 1 or shots < 0:
            raise BadArgument(f"cannot draw {n} examples of {shots} shots: ask for 1 example and 0 shots or more.")
        generator = np.random.default_rng(seed)
        choices = functions.among(among)
        parameters = choices[generator.integers(0, len(choices), n)]
        inputs = functions.draw_inputs(n, shots + 1 + spare, generator, apart=1 + spare if spare else 0)
        x, query = inputs[:, :shots], inputs[:, shots]
        y = functions.shown_values(parameters, x, noise, generator)
        made_by = {"shots": shots, "n": n, "noise": noise, "among": among, "seed": seed}
        return cls(functions, parameters, x, y, query, noise, made_by)

    @classmethod
    def article(cls, queries: Sequence[int] = ARTICLE_QUERIES[:1]) -> Self:
        """The twelve pairs of the article, y = 2x + 3, once for each query."""
        query = np.array(queries, np.int64)
        pairs = np.tile(np.array(ARTICLE_PAIRS), (len(query), 1, 1))
        parameters = np.tile(np.array(ARTICLE_FUNCTION), (len(query), 1))
        made_by = {"pairs": "article", "queries": query.tolist()}
        return cls(EVERYDAY, parameters, pairs[..., 0], pairs[..., 1], query, made_by=made_by, one_list=True)

    def __len__(self) -> int:
        return len(self.query)

    @property
    def answer(self) -> Ints:
        """The function's value at the query, int64 [example]: never corrupted."""
        return self.functions.values(self.parameters, self.query)

    @property
    def true_y(self) -> Ints:
        """The function's values at the shown inputs, int64 [example, shot]."""
        return self.functions.values(self.parameters[:, None], self.x)

    @property
    def wrong(self) -> Bools:
        """Which shown y are not the function's, bool [example, shot]."""
        return np.asarray(self.y != self.true_y, np.bool_)

    @property
    def inputs(self) -> Ints:
        """The shown inputs and then the query, int64 [example, shot + 1]."""
        return np.concatenate((self.x, self.query[:, None]), axis=1)

    @property
    def hypotheses(self) -> Ints:
        """Values of every function of `functions.grid` at `inputs`, int64 [function, example, shot + 1]."""
        return self.functions.values(self.functions.grid[:, None, None], self.inputs)

    def without_context(self) -> Self:
        """The same queries about the same functions, with no pairs before them."""
        return self.changed({"how": "without_context"}, x=self.x[:, :0], y=self.y[:, :0])

    def first(self, shots: int) -> Self:
        """The first `shots` pairs of each example; the query is the input that came next.

        >>> Shots.article().first(1).query.tolist()
        [86]

        Raises:
            BadArgument: for more shots than there are.
        """
        if not 0 <= shots <= self.x.shape[1]:
            raise BadArgument(f"cannot take the first {shots} of {self.x.shape[1]} shots.")
        x, y, query = self.x[:, :shots], self.y[:, :shots], self.inputs[:, shots]
        return self.changed({"how": "first", "shots": shots}, x=x, y=y, query=query)

    def rows(self, chosen: slice | Sequence[int] | Ints) -> Self:
        """Some of the examples: a slice, or by number and in that order."""
        kept = np.arange(len(self))[chosen if isinstance(chosen, slice) else np.asarray(chosen, np.int64)]
        parts = {name: getattr(self, name)[kept] for name in ("parameters", "x", "y", "query")}
        return self.changed({"how": "rows", "rows": kept.tolist()}, **parts)

    def keeping(self, kept: Ints) -> Self:
        """The same problems with only the pairs `kept` [example, pair], in that order.

        >>> Shots.article().keeping(np.array([[2, 0]])).x.tolist()
        [[13, 28]]
        """
        x, y = (np.take_along_axis(values, kept, axis=1) for values in (self.x, self.y))
        return self.changed({"how": "keeping", "kept": kept.tolist()}, x=x, y=y)

    def asking(self, queries: int | Sequence[int] | Ints) -> Self:
        """The same pairs with other queries: one for all examples, or one for each.

        Raises:
            BadArgument: if their number fits neither.
        """
        given = np.atleast_1d(np.array(queries, np.int64))
        if given.shape not in ((1,), (len(self),)):
            raise BadArgument(
                f"cannot ask {len(given)} queries of {len(self)} examples: give one, or one per example."
            )
        return self.changed({"how": "asking", "queries": given.tolist()}, query=np.broadcast_to(given, (len(self),)))

    def asking_anew(self, seed: int) -> Self:
        """The same pairs with other queries, uniform over the inputs that an example neither shows nor asks.

        The value at a shown input could be copied instead of computed, even across a patch.

        Raises:
            BadArgument: if an example shows every input.
        """
        inputs = np.arange(self.functions.inputs[0], self.functions.inputs[1] + 1)
        free = ~(inputs == self.inputs[..., None]).any(1)
        if not free.any(1).all():
            raise BadArgument(
                "cannot draw other queries: an example already has every input. Use fewer shots, draw them with "
                "spare=1, or name the queries with asking()."
            )
        drawn = np.random.default_rng(seed).random(free.shape)
        chosen = inputs[np.where(free, drawn, -1.0).argmax(1)]
        return self.changed({"how": "asking_anew", "seed": seed}, query=chosen)

    def with_shuffled_labels(self, seed: int) -> Self:
        """The control without a function: every y moves to another x of its own example.

        Inputs, labels, queries and answers stay what they are; which y goes with which x does not. The
        orders are drawn uniformly from those with a single cycle, so no label keeps its place.

        Raises:
            BadArgument: for fewer than two shots.
        """
        if self.x.shape[1] < 2:
            raise BadArgument(
                f"cannot shuffle the labels of {self.x.shape[1]} shots: use at least 2, so that every label moves."
            )
        around = self._orders(seed)
        moved = np.empty_like(self.y)
        np.put_along_axis(moved, np.roll(around, 1, axis=1), np.take_along_axis(self.y, around, 1), 1)
        return self.changed({"how": "with_shuffled_labels", "seed": seed}, y=moved)

    def permuted(self, seed: int) -> Self:
        """The control for order: the same pairs of each example in another, random order."""
        order = self._orders(seed)
        x, y = (np.take_along_axis(values, order, 1) for values in (self.x, self.y))
        return self.changed({"how": "permuted", "seed": seed}, x=x, y=y)

    def reversed(self) -> Self:
        """The same pairs of each example, the last first."""
        return self.keeping(np.tile(np.arange(self.x.shape[1])[::-1], (len(self), 1)))

    def informing_first(self, count: int, seed: int) -> Self:
        """Only the first `count` pairs tell of the function: their y are its own, and all later ones are random."""
        drawn = np.random.default_rng(seed).integers(0, self.functions.n_numbers, self.x.shape)
        y = np.where(np.arange(self.x.shape[1]) < count, self.true_y, drawn)
        return self.changed({"how": "informing_first", "count": count, "seed": seed}, y=y)

    def recipe(self) -> Mapping[str, Any]:
        """Functions with their prior, and how the numbers were drawn and changed."""
        return {"functions": self.functions.told(), **self.made_by}

    def _orders(self, seed: int) -> Ints:
        """A random order of the shots for every example, int64 [example, shot]."""
        return np.random.default_rng(seed).random(self.x.shape).argsort(axis=1)

    def changed(self, step: Mapping[str, Any], **values: Ints) -> Self:
        """With other numbers in some fields; `step` says what was done, for the record."""
        changes = [*self.made_by.get("changes", []), dict(step)]
        return replace(self, **values, made_by={**self.made_by, "changes": changes})  # type: ignore[arg-type]


def regimes(context: Shots, bare: Shots) -> dict[str, Ints]:
    """What a prompt without context may answer once something from one with context is put into it.

    `context` asks x_A, `bare` asks x_B, example by example, both about the context's functions (a, b). Returns
    the numbers, int64 [example], of four regimes: "f(x_B)" (the task was transferred), "a x_B" (only its slope),
    "f(x_A)" (the context's own answer was copied), "a x_A".

    Raises:
        BadArgument: for different numbers of examples.
    """
    if len(context) != len(bare):
        raise BadArgument(
            f"cannot pair {len(context)} examples with context and {len(bare)} without: give as many of both."
        )
    forms = {"f({})": context.parameters, "a {}": context.parameters * np.array([1, 0])}
    asked = {"x_B": bare.query, "x_A": context.query}
    return {
        form.format(name): context.functions.values(parameters, x)
        for name, x in asked.items()
        for form, parameters in forms.items()
    }
