"""The smallest set of heads that breaks a behaviour when ablated, and the smallest that suffices for it alone.

In: a game of heads (`coalitions`) on prompts that select and on prompts that estimate. Out: a *necessary* set
(ablating it does at least a stated share of the damage of ablating all players) and a *sufficient* set (with all
other players ablated, it restores at least that share), with every step that led there. Smallest sets cannot be found
without trying all of them, so both searches are greedy and are two:

- *growing* adds the player that adds most. Where several only matter together it is blind: with interchangeable
  copies every first ablation does nothing, and the first player is taken for want of a better (`Step.tied` says so).
- *shrinking* starts from all players and leaves out whichever costs least while the share is still reached. It sees
  copies, but where there are several ways to break a behaviour it may give up the shorter one.

What growing finds is shrunk too, so neither result holds a player that could be left out alone; the smaller
one is returned, the grown one if they are equal. It reaches the share on the selection prompts, by construction,
and may still be larger than the smallest. The two kinds are one search: a sufficient set is a necessary set of
the game in which players are put back (`Game.restored`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from headscope.errors import BadArgument
from headscope.measures.coalitions import Coalition, Game
from headscope.measures.intervals import MIN_UNITS, Array, interval

# Damages that differ by less than this share of the damage of all are one: logits are float32.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Step:
    """One player added to the set or left out of it, and what the set then reaches.

    `reached` is the damage of ablating the set, or what keeping it restores, [prompt], on the estimation prompts.
    `tied` players were equally good on the selection prompts, this one included; the first of the players is taken.
    """

    action: str
    player: Hashable
    members: tuple[Hashable, ...]
    reached: Array
    tied: int


@dataclass(frozen=True, eq=False)
class Search:
    """One greedy search: "growing" (then shrunk) or "shrinking" (from all players)."""

    name: str
    steps: tuple[Step, ...]
    members: tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class SmallestSet:
    """A necessary or sufficient set, or the reason why there is none (`members` None).

    On the estimation prompts, [prompt]: `reached` by the set, `everything` reached by all players, and `excess` =
    reached - share * everything. The set holds there if the excess is not below 0.
    """

    kind: str
    share: float
    members: tuple[Hashable, ...] | None
    search: str
    searches: tuple[Search, ...]
    reached: Array
    everything: Array
    reason: str = ""

    @property
    def excess(self) -> Array:
        return self.reached - self.share * self.everything


def smallest_necessary(selection: Game, estimation: Game, *, share: float = 0.9) -> SmallestSet:
    """The smallest set found whose ablation does at least `share` of the damage of ablating all players, on average.

    >>> game = Game.of("abc", lambda ablated: ("b" in ablated) * np.linspace(1, 2, 6), prompts=6)
    >>> smallest_necessary(game, game).members
    ('b',)

    Raises:
        BadArgument: if the two games have other players, or the share is not in (0, 1].
    """
    return _smallest("necessary", selection, estimation, share)


def smallest_sufficient(selection: Game, estimation: Game, *, share: float = 0.9) -> SmallestSet:
    """The smallest set found that, kept while all other players are ablated, restores at least `share` on average.

    What is restored is counted from all players ablated (0) to none (1): players outside the game always work.

    Raises:
        BadArgument: if the two games have other players, or the share is not in (0, 1].
    """
    return _smallest("sufficient", selection.restored(), estimation.restored(), share)


def check_share(share: float) -> None:
    """Raise BadArgument unless the share is in (0, 1]."""
    if not 0 < share <= 1:
        raise BadArgument(f"cannot look for a set that reaches a share of {share}: give one above 0 and up to 1.")


def _smallest(kind: str, selection: Game, estimation: Game, share: float) -> SmallestSet:
    if selection.players != estimation.players:
        raise BadArgument(
            "cannot select on one game and estimate on another: their players differ. Use Game.on for both."
        )
    check_share(share)
    everything = estimation(estimation.everyone)
    if reason := _nothing_to_share(selection):
        nothing = np.full(estimation.prompts, np.nan)
        return SmallestSet(kind, share, None, "", (), nothing, everything, reason)
    whole = float(selection(selection.everyone).mean())
    goal = _Goal(selection, estimation, share * (1 - _ROUNDING) * whole, _ROUNDING * whole)
    grown = _grow(goal)
    grown += _shrink(goal, grown[-1].members)
    shrunk = _shrink(goal, selection.players)
    searches = (
        Search("growing", tuple(grown), grown[-1].members),
        Search("shrinking", tuple(shrunk), shrunk[-1].members if shrunk else selection.players),
    )
    best = min(searches, key=lambda search: len(search.members))
    return SmallestSet(kind, share, best.members, best.name, searches, estimation(best.members), everything)


def _nothing_to_share(game: Game) -> str:
    """Why no share of the effect of all players can be taken; empty if it can."""
    if game.prompts < MIN_UNITS:
        return f"{game.prompts} prompts to select on are too few: at least {MIN_UNITS} are needed"
    damage = game(game.everyone)
    whole = interval(damage)
    # Values too alike for bounds are enough to search by: what is found is judged on other prompts.
    if float(whole.low) > 0 or (whole.reasons and (damage > 0).all()):
        return ""
    between = "" if whole.reasons else f" [{float(whole.low):.3g}, {float(whole.high):.3g}]"
    return (
        "ablating all players together does no clear damage on the selection prompts "
        f"({float(whole.mean):.3g}{between})"
    )


@dataclass(frozen=True, eq=False)
class _Goal:
    """The games, what a set must reach on average over the selection prompts, and what is too small to count."""

    selection: Game
    estimation: Game
    target: float
    rounding: float

    def reached(self, sets: Sequence[Coalition]) -> Array:
        # Row by row: a mean along an axis may round otherwise than that of one row.
        return np.array([row.mean() for row in self.selection.many(sets)])

    def step(self, action: str, player: Hashable, members: Coalition, tied: int) -> Step:
        reached = self.estimation(members)
        return Step(action, player, self.selection.ordered(members), reached, tied)


def _grow(goal: _Goal) -> list[Step]:
    """Add the player that adds most until the target is reached, which all players together do."""
    steps: list[Step] = []
    members: Coalition = frozenset()
    while goal.reached([members])[0] < goal.target:
        left = [player for player in goal.selection.players if player not in members]
        reached = goal.reached([members | {player} for player in left])
        tied = np.flatnonzero(reached >= reached.max() - goal.rounding)
        player = left[tied[0]]
        members |= {player}
        steps.append(goal.step("add", player, members, len(tied)))
    return steps


def _shrink(goal: _Goal, start: tuple[Hashable, ...]) -> list[Step]:
    """Leave out whichever player costs least while the target is still reached."""
    steps: list[Step] = []
    members = frozenset(start)
    while True:
        inside = goal.selection.ordered(members)
        reached = goal.reached([members - {player} for player in inside])
        enough = reached >= goal.target
        if not enough.any():
            return steps
        tied = np.flatnonzero(enough & (reached >= reached.max() - goal.rounding))
        player = inside[tied[0]]
        members -= {player}
        steps.append(goal.step("leave out", player, members, len(tied)))
