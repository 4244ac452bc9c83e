"""Size-matched controls: what cutting *any* so many heads does.

A set of heads that was picked for a reason must be compared with as many heads picked for none: larger
sets always do more damage. Sets are drawn without replacement among all sets of that size but the picked
one, so that in a small model, where few sets exist, the control is exhaustive instead of repetitive.
"""

import itertools
import math
import random
from collections.abc import Collection, Sequence

from headscope.errors import BadArgument
from headscope.vocabulary import Head

_ENUMERABLE = 5000


def random_sets(
    heads: Sequence[Head], picked: Collection[Head], *, count: int = 20, seed: int = 0
) -> list[tuple[Head, ...]]:
    """Up to `count` different sets of as many heads as `picked`, never `picked` itself.

    >>> len(random_sets([Head(0, i) for i in range(4)], [Head(0, 1)]))
    3

    Raises:
        BadArgument: if nothing is picked.
    """
    size = len(set(picked))
    if not size:
        raise BadArgument("cannot draw a size-matched control for an empty set of heads.")
    own, rng = frozenset(picked), random.Random(seed)
    available = math.comb(len(heads), size) - 1
    if available <= _ENUMERABLE:
        every = [chosen for chosen in itertools.combinations(heads, size) if frozenset(chosen) != own]
        return every if len(every) <= count else rng.sample(every, count)
    drawn: set[tuple[Head, ...]] = set()
    while len(drawn) < count:
        chosen = tuple(sorted(rng.sample(list(heads), size)))
        if frozenset(chosen) != own:
            drawn.add(chosen)
    return sorted(drawn)
