"""Shapley values: each player's share in the damage of ablating all, averaged over the order of ablation.

In: a game of heads (`coalitions`). Out: per prompt, each player's mean effect over all orders in which the players
could be ablated one after another; the values of a prompt add up to the damage of ablating all. Ablated first,
redundant heads do nothing; ablated last, each counts in full: the Shapley value lies between, and gives each of k
interchangeable copies a k-th (Shapley 1953). Where all sets can be ablated, the average over orders is exact; else
orders are drawn in pairs, each with its reverse, which cancels much of the error (Mitchell et al. 2022).
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from headscope.errors import BadArgument
from headscope.measures.coalitions import Game, PerPrompt
from headscope.measures.intervals import Array

ALWAYS_EXACT = 6


@dataclass(frozen=True, eq=False)
class Shapley(PerPrompt):
    """Shapley values, [prompt, player], and how far the drawn orders blur their means over prompts.

    `sampling_error` is a standard error over drawn orders, [player]: 0 if all orders count (`orders` None), NaN
    if a single pair was drawn. Intervals over prompts do not contain it.
    """

    orders: int | None
    sampling_error: Array


def shapley(game: Game, *, orders: int = 100, seed: int = 0) -> Shapley:
    """Shapley values of all players: exact where that asks for no more sets than `orders` drawn orders may.

    Up to six players (63 sets) they are always exact. `Shapley.orders` says which it was.

    Raises:
        BadArgument: if `orders` is not a positive even number.
    """
    check_orders(orders)
    return exact(game) if is_exact(len(game.players), orders) else sampled(game, orders=orders, seed=seed)


def is_exact(players: int, orders: int) -> bool:
    """Whether `shapley` ablates every set of so many players instead of drawing orders."""
    return players <= ALWAYS_EXACT or 2**players - 1 <= orders * (players - 1) + 1


def exact(game: Game) -> Shapley:
    """The mean over all orders, from all 2^n sets: each set counts by how many orders pass through it.

    >>> two = Game.of("ab", lambda ablated: np.full(5, float(len(ablated) == 2)), prompts=5)
    >>> exact(two).of("a").tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5]
    """
    players, count = game.players, len(game.players)
    sets = [frozenset(some) for size in range(count + 1) for some in combinations(players, size)]
    game.prepare(sets)
    values = np.zeros((game.prompts, count))
    for before in sets:
        for column, player in enumerate(players):
            if player not in before:
                weight = 1 / (count * comb(count - 1, len(before)))
                values[:, column] += weight * (game(before | {player}) - game(before))
    return Shapley(players, values, None, np.zeros(count))


def sampled(game: Game, *, orders: int, seed: int = 0) -> Shapley:
    """The mean over `orders` drawn orders, half of them the reverse of the other half.

    Raises:
        BadArgument: if `orders` is not a positive even number.
    """
    check_orders(orders)
    rng, count = np.random.default_rng(seed), len(game.players)
    drawn = [rng.permutation(count) for _ in range(orders // 2)]
    game.prepare(
        frozenset(game.players[index] for index in way[:size])
        for order in drawn
        for way in (order, order[::-1])
        for size in range(1, count + 1)
    )
    values = np.zeros((game.prompts, count))
    means = []
    for order in drawn:
        both = (_along(game, order) + _along(game, order[::-1])) / 2
        values += both / len(drawn)
        means.append(both.mean(0))
    error = np.std(means, axis=0, ddof=1) / len(drawn) ** 0.5 if len(drawn) > 1 else np.full(count, np.nan)
    return Shapley(game.players, values, orders, error)


def _along(game: Game, order: NDArray[np.int64]) -> Array:
    """What each player adds to the damage when ablated in this order, [prompt, player]."""
    ways = [[game.players[index] for index in order[:size]] for size in range(len(order) + 1)]
    added = np.empty((game.prompts, len(order)))
    added[:, order] = np.diff(game.many(ways), axis=0).T
    return added


def check_orders(orders: int) -> None:
    """Raise BadArgument unless orders can be drawn in pairs."""
    if orders < 2 or orders % 2:
        raise BadArgument(
            f"cannot draw {orders} orders: each is drawn with its reverse, so give an even number, 2 at least."
        )
