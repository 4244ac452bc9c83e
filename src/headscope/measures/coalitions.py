"""A behaviour as a game: what ablating any *set* of heads does, and whether two ablations do more than their sum.

In: players (heads, or anything hashable) and, for any set of them, the damage of ablating that set, per prompt.
Out: effects of single players and pairs, one number per prompt, so that every mean has an interval over prompts.
Single ablations cannot see redundancy: a head with a backup looks idle. The pairwise interaction
E(ij) - E(i) - E(j) sees two redundant heads, and is zero for three copies, since ablating two still leaves one;
ablating a head *last*, when all other players are gone, sees any number of them. Fair shares between first and
last are in `shapley`, the sets themselves in `smallest_sets`.

Damages must be in a unit in which they add up (logits): probabilities level off, which fakes interactions. Only
the players exist for a game: a backup that is not among them works in every set and is never found.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from headscope.errors import BadArgument
from headscope.measures.intervals import Array, Estimate, interval

Coalition = frozenset[Hashable]


@dataclass(frozen=True, eq=False)
class Game:
    """Players, and the damage of ablating any set of them; no set is evaluated twice.

    `damages` takes several sets at once, so that an engine may run them side by side, and yields float64 [prompt]
    for each, in order. The empty set does no damage, by definition, and is never asked for. More than `most_sets`
    different sets are refused. `progress(evaluated)` is called after each set.

    >>> game = Game.of("ab", lambda ablated: np.full(5, float(len(ablated) == 2)), prompts=5)
    >>> game("a").mean(), game("ab").mean(), len(game.known)
    (np.float64(0.0), np.float64(1.0), 2)
    """

    players: tuple[Hashable, ...]
    prompts: int
    damages: Callable[[Sequence[Coalition]], Iterable[Array]]
    most_sets: int = 100_000
    progress: Callable[[int], None] = lambda evaluated: None
    known: dict[Coalition, Array] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.players:
            raise BadArgument("cannot study sets of no players: name at least one head.")
        twice = [player for player in self.players if self.players.count(player) > 1]
        if twice:
            raise BadArgument(
                f"cannot study sets in which {twice[0]} stands twice: a head is ablated or not. Name each once."
            )

    @classmethod
    def of(cls, players: Iterable[Hashable], damage: Callable[[Coalition], Array], *, prompts: int) -> "Game":
        """A game from a function of one set."""
        return cls(tuple(players), prompts, lambda sets: map(damage, sets))

    @property
    def everyone(self) -> Coalition:
        return frozenset(self.players)

    def ordered(self, ablated: Iterable[Hashable]) -> tuple[Hashable, ...]:
        """The members of a set in the order of the players."""
        members = frozenset(ablated)
        return tuple(player for player in self.players if player in members)

    def __call__(self, ablated: Iterable[Hashable]) -> Array:
        """Damage of ablating one set, [prompt]."""
        return np.asarray(self.many([ablated])[0])

    def many(self, sets: Iterable[Iterable[Hashable]]) -> Array:
        """Damage of ablating each of several sets, [set, prompt].

        Raises:
            BadArgument: for players that the game does not have, more than `most_sets` sets, or a damage that
                is not one finite number per prompt.
        """
        wanted = [frozenset(ablated) for ablated in sets]
        self.prepare(wanted)
        nothing = np.zeros(self.prompts)
        return np.array([self.known.get(ablated, nothing) for ablated in wanted]).reshape(-1, self.prompts)

    def prepare(self, sets: Iterable[Coalition]) -> None:
        """Evaluate those of the sets that are not known yet, together."""
        missing = [ablated for ablated in dict.fromkeys(sets) if ablated and ablated not in self.known]
        for ablated in missing:
            if not ablated <= self.everyone:
                strange = min(map(str, ablated - self.everyone))
                raise BadArgument(
                    f"cannot ablate {strange}: it is no player of this game, which has {_named(self.players)}."
                )
        if len(self.known) + len(missing) > self.most_sets:
            raise BadArgument(
                f"cannot ablate {len(self.known) + len(missing)} different sets of players: the limit is "
                f"{self.most_sets}. Give fewer players or orders, or a larger most_sets."
            )
        if not missing:
            return
        for ablated, values in zip(missing, self.damages(missing), strict=True):
            self.known[ablated] = self._checked(ablated, values)
            self.progress(len(self.known))

    def on(self, prompts: slice | Sequence[int]) -> "Game":
        """The same game on some of its prompts; what either evaluates, both know."""
        rows = np.arange(self.prompts)[prompts]
        return Game(self.players, len(rows), lambda sets: (row[rows] for row in self.many(sets)), self.most_sets)

    def restored(self) -> "Game":
        """What keeping *only* a set restores, when all players are ablated: E(all) - E(all but the set).

        A game itself (the dual): its first effects are the last ones here, its Shapley values are the same.
        """

        def restored(kept: Sequence[Coalition]) -> Iterable[Array]:
            damages = self.many([self.everyone, *(self.everyone - members for members in kept)])
            return list(damages[0] - damages[1:])

        return Game(self.players, self.prompts, restored, self.most_sets)

    def _checked(self, ablated: Coalition, values: Array) -> Array:
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (self.prompts,):
            raise BadArgument(
                f"cannot use a damage of shape {values.shape}: expected one number for each of "
                f"{self.prompts} prompts."
            )
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise BadArgument(
                f"cannot use the damage of ablating {_named(self.ordered(ablated))}: it is {values[wrong[0]]} on "
                f"prompt {wrong[0]}. Leave out prompts on which the measure is undefined."
            )
        return values


@dataclass(frozen=True, eq=False)
class PerPrompt:
    """One number per prompt for each of `labels`; `values` is float64 [prompt, label]."""

    labels: tuple[Any, ...]
    values: Array

    @cached_property
    def estimate(self) -> Estimate:
        """Means over prompts with their intervals, [label]."""
        return interval(self.values)

    def of(self, label: Hashable) -> Array:
        """The values of one label, [prompt]."""
        return self.values[:, self.labels.index(label)]


def ablated_first(game: Game) -> PerPrompt:
    """E({i}): the damage of ablating each player alone, while all others work."""
    return PerPrompt(game.players, game.many([{player} for player in game.players]).T)


def ablated_last(game: Game) -> PerPrompt:
    """E(all) - E(all but i): the damage of ablating each player when all others are ablated already."""
    return ablated_first(game.restored())


def interactions(game: Game) -> PerPrompt:
    """E(ij) - E(i) - E(j) of every pair, labelled (i, j); 0 where damages add up.

    Positive: the two are redundant (superadditive under joint ablation), or one undoes the other. Negative: each is
    needed for what the other does. Three interchangeable copies have 0 in every pair: see `ablated_last`. The largest
    of many pairs is flattered: pick it on some prompts (`Game.on`) and read it off on others.

    >>> game = Game.of("ab", lambda ablated: np.full(5, float(len(ablated) == 2)), prompts=5)
    >>> interactions(game).of(("a", "b")).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    pairs = list(combinations(game.players, 2))
    single = ablated_first(game)
    together = game.many(map(frozenset, pairs)).T
    apart = [single.of(first) + single.of(second) for first, second in pairs]
    return PerPrompt(tuple(pairs), together - np.array(apart).reshape(-1, game.prompts).T)


def _named(players: Iterable[Hashable]) -> str:
    return ", ".join(map(str, players))
