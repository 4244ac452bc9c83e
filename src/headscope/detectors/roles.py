"""Heads that read pairs: which heads look from y to its x, and from one example to earlier ones.

In: a model and prompts of pairs with roles (tasks.linear). Out: attention by prompt, and the detector table.
Two kinds of heads:

    x_to_y               from every y token to the x tokens of its own example
    example_to_example   from the token before every y (and the last one) to the y tokens of all earlier examples

The null are the same pairs with *roles shuffled*: every query becomes a token shortly before it that has another
role, and its keys move with it. A head that looks a fixed number of tokens back, whatever stands there, does as
much on the null; so does one that spreads over everything. Keys that would fall on the first token or
before it are left out of the null, since many heads rest there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from headscope.detectors.catalogue import Detector
from headscope.detectors.detect import require_patterns
from headscope.detectors.pairs import KeySets
from headscope.detectors.reading import MassReading
from headscope.detectors.scores import HEADS, LayerMass, rows_of
from headscope.models.model import Model
from headscope.models.protocols import Edit
from headscope.tables import Table
from headscope.tasks.prompts import Prompts

ROLES = replace(HEADS, name="roles")
# How far back a query may move on the null: within a pair, and not beyond the one before.
_FARTHEST = 4

_Queries = dict[int, list[int]]


def x_to_y(prompts: Prompts) -> KeySets:
    """For every y token the x tokens of the same example."""
    return _sets(prompts, _own_x)


def example_to_example(prompts: Prompts) -> KeySets:
    """For the token before every y but the first, and for the last token: all earlier y tokens."""
    return _sets(prompts, _earlier_y)


def last_to(prompts: Prompts, role: str) -> KeySets:
    """For the last token: all tokens of a role, such as every shown y."""
    last = {row: places[0] for row, places in enumerate(prompts.roles["readout"])}
    return _sets(prompts, lambda given, row: {last[row]: list(keys)} if (keys := given.roles[role][row]) else {})


def roles_shuffled(sets: KeySets, prompts: Prompts, *, seed: int) -> KeySets:
    """The same distances from queries of another role; see the module."""
    generator = np.random.default_rng(seed)
    pairs, queries = torch.zeros_like(sets.pairs), torch.zeros_like(sets.queries)
    for row in range(len(prompts)):
        names = _names(prompts, row)
        for query in sets.queries[row].nonzero().flatten().tolist():
            near = range(max(1, query - _FARTHEST), query)
            free = [place for place in near if names.get(place) != names.get(query)]
            if not free:
                continue
            moved = int(generator.choice(free))
            keys = sets.pairs[row, query].nonzero().flatten() - (query - moved)
            keys = keys[keys > 0]
            if len(keys):
                pairs[row, moved, keys] = True
                queries[row, moved] = True
    return KeySets(pairs, queries)


_KINDS = (
    Detector("x_to_y", x_to_y, "pairs", "attends from a y to the x of its own example"),
    Detector(
        "example_to_example", example_to_example, "pairs", "attends from before a y to the y of earlier examples"
    ),
)
NAMES = tuple(detector.name for detector in _KINDS)


def role_attention(
    model: Model, prompts: Prompts, *, seed: int = 0, interventions: Sequence[Edit] = ()
) -> dict[str, dict[int, LayerMass]]:
    """Of both kinds, by name, every layer's attention on the keys and on the null, prompt by prompt.

    Raises:
        UnservedSite: if the model's patterns cannot be read.
    """
    require_patterns(model)
    sets = [detector.key_sets(prompts) for detector in _KINDS]
    nulls = [roles_shuffled(own, prompts, seed=seed) for own in sets]
    reading = MassReading([*sets, *nulls])
    model.read(prompts, [reading], interventions=interventions)
    return {
        detector.name: {
            layer: LayerMass(mass[index], mass[len(sets) + index], reading.uniform[layer][index])
            for layer, mass in sorted(reading.mass.items())
        }
        for index, detector in enumerate(_KINDS)
    }


def role_table(attention: Mapping[str, Mapping[int, LayerMass]]) -> Table:
    """The scores of every head on both kinds; columns as in `detectors.HEADS`."""
    return ROLES.table(row for kind in _KINDS for row in rows_of(kind, attention[kind.name]))


def _sets(prompts: Prompts, keys_of: Callable[[Prompts, int], _Queries]) -> KeySets:
    size = (len(prompts), prompts.longest)
    pairs = torch.zeros(*size, prompts.longest, dtype=torch.bool)
    queries = torch.zeros(*size, dtype=torch.bool)
    for row in range(len(prompts)):
        for query, keys in keys_of(prompts, row).items():
            pairs[row, query, keys] = True
            queries[row, query] = True
    return KeySets(pairs, queries)


def _own_x(prompts: Prompts, row: int) -> _Queries:
    keys: _Queries = {}
    own: list[int] = []
    after_y = False
    for place, name in sorted(_names(prompts, row).items()):
        if name == "x":
            own = [place] if after_y else [*own, place]
            after_y = False
        elif name == "y":
            keys[place] = own
            after_y = True
    return keys


def _earlier_y(prompts: Prompts, row: int) -> _Queries:
    shown = prompts.roles["y"][row]
    queries = (*prompts.roles["before_y"][row], *prompts.roles["readout"][row])
    earlier = {query: [place for place in shown if place < query] for query in queries}
    return {query: keys for query, keys in earlier.items() if keys}


def _names(prompts: Prompts, row: int) -> dict[int, str]:
    """What each position is: part of an x, a y, the query, or a separator."""
    return {place: role for role in ("x", "y", "query", "separator") for place in prompts.roles[role][row]}
