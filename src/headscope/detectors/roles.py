"""Heads that read pairs: which heads look from y to its x, and from one example to earlier ones.

In: a model and prompts of pairs with roles (tasks.linear). Out: attention by prompt, and the detector table.
Two kinds of heads:

    x_to_y               from every y token to the x tokens of its own example
    example_to_example   from the token before every y (and the last one) to the y tokens of all earlier examples

What else could give such attention is measured on the same prompts, and the largest of these is the null:

    other keys      the same query, on numbers that have another role (around each y that counts, the x before and
                    the x after; around an own x, the y before and after; and the x of the pair before): a head that
                    attends to all numbers, or to near ones, gives these as much
    other numbers   the same, on prompts whose pairs are turned round (y, x), so that the very numbers that counted
                    stand where the others were: a head of large numbers, or of some numbers
    other queries   the same keys from the nearest tokens of another role, before and after the query: a head to
                    which some keys are always attractive
    distances       the same distances from another query: a head that looks a fixed number of tokens back

Distances that would fall on the first token or before it are left out, since many heads rest there.
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

_Number = tuple[int, ...]
# Of a query: the numbers that count, and kinds of numbers that these are compared with.
_Queries = dict[int, tuple[Sequence[_Number], Sequence[Sequence[_Number]]]]


def x_to_y(prompts: Prompts) -> KeySets:
    """For every y token the x tokens of the same example."""
    return _sets(prompts, _own_x)


def example_to_example(prompts: Prompts) -> KeySets:
    """For the token before every y but the first, and for the last token: all earlier y tokens."""
    return _sets(prompts, _earlier_y)


def last_to(prompts: Prompts, role: str) -> KeySets:
    """For the last token: all tokens of a role, such as every shown y."""

    def keys_of(given: Prompts, row: int) -> _Queries:
        keys = given.roles[role][row]
        return {given.roles["readout"][row][0]: ([keys], ())} if keys else {}

    return _sets(prompts, keys_of)


def from_other_queries(sets: KeySets, prompts: Prompts) -> KeySets:
    """The same keys from the nearest tokens of another role, before and after each query: `others` of what is seen.

    From a later token more keys of that role may be seen, such as a y from itself. A head to which all of them are
    alike shares its attention with these; counted among the pairs, they make `MassReading.other` scale for it.
    """
    pairs, queries = torch.zeros_like(sets.pairs), torch.zeros_like(sets.queries)
    same = torch.zeros(sets.pairs.shape)
    for row, length in enumerate(prompts.lengths):
        names = _names(prompts, row)
        for query in sets.queries[row].nonzero().flatten().tolist():
            keys = sets.pairs[row, query]
            roles = {names.get(key) for key in keys.nonzero().flatten().tolist()}
            for side in (range(query - 1, 0, -1), range(query + 1, length)):
                moved = next((place for place in side if names.get(place) != names.get(query)), None)
                if moved is not None:
                    same[row, moved, keys] = 1.0
                    pairs[row, moved] |= keys
                    since = range(query + 1, moved + 1)
                    pairs[row, moved, [key for key in since if names.get(key) in roles]] = True
                    queries[row, moved] = True
    return KeySets(pairs, queries, (same,))


def at_same_distances(sets: KeySets, prompts: Prompts, *, seed: int) -> KeySets:
    """The same distances from queries of another role shortly before."""
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


def turned_round(prompts: Prompts) -> Prompts:
    """The same prompts with the numbers of each pair exchanged, where they have equally many tokens."""
    rows = []
    for row, tokens in enumerate(prompts.tokens):
        numbers, changed = _numbers(prompts, row), list(tokens)
        for x, y in zip(numbers[:-1:2], numbers[1::2], strict=True):
            if len(x) == len(y):
                for first, second in zip(x, y, strict=True):
                    changed[first], changed[second] = tokens[second], tokens[first]
        rows.append(tuple(changed))
    return replace(prompts, tokens=tuple(rows))


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

    `scores.above_null` makes of a kind's layers the samples [prompt, head] that its heads are named by.

    Raises:
        UnservedSite: if the model's patterns cannot be read.
    """
    require_patterns(model)
    sets = [detector.key_sets(prompts) for detector in _KINDS]
    moved = [*(from_other_queries(own, prompts) for own in sets)]
    moved += [at_same_distances(own, prompts, seed=seed) for own in sets]
    reading, turned = MassReading([*sets, *moved]), MassReading(sets)
    model.read(prompts, [reading], interventions=interventions)
    model.read(turned_round(prompts), [turned], interventions=interventions)
    return {
        detector.name: {
            layer: LayerMass(
                mass[index],
                torch.stack(
                    [
                        *reading.other[layer][index : 2 * len(sets) : len(sets)],
                        turned.other[layer][index],
                        mass[index + 2 * len(sets)],
                    ]
                ).amax(0),
                reading.uniform[layer][index],
                float(reading.hidden[layer][index]),
            )
            for layer, mass in sorted(reading.mass.items())
        }
        for index, detector in enumerate(_KINDS)
    }


def role_table(attention: Mapping[str, Mapping[int, LayerMass]]) -> Table:
    """The scores of every head on both kinds; columns as in `detectors.HEADS`."""
    return ROLES.table(row for kind in _KINDS for row in rows_of(kind, attention[kind.name]))


def _sets(prompts: Prompts, keys_of: Callable[[Prompts, int], _Queries]) -> KeySets:
    size = (len(prompts), prompts.longest)
    asked = [keys_of(prompts, row) for row in range(len(prompts))]
    kinds = max((len(others) for queries in asked for _, others in queries.values()), default=0)
    pairs = torch.zeros(*size, prompts.longest, dtype=torch.bool)
    compared = torch.zeros(kinds, *pairs.shape)
    for row, queries in enumerate(asked):
        for query, (keys, others) in queries.items():
            for number in keys:
                pairs[row, query, list(number)] = True
            for kind, numbers in zip(compared, others, strict=False):
                for number in numbers:  # a number weighs 1, in however many tokens
                    kind[row, query, list(number)] += 1 / len(number)
    return KeySets(pairs, pairs.any(-1), tuple(compared))


def _own_x(prompts: Prompts, row: int) -> _Queries:
    numbers = _numbers(prompts, row)
    keys: _Queries = {}
    for own in range(1, len(numbers), 2):
        x, y = numbers[own - 1 : own + 1]
        before = numbers[max(own - 3, 0) : own - 1]  # the x and y of the pair before
        around = [*before[1:], y]
        keys |= {query: ([x], [around, before[:1]]) for query in y}
    return keys


def _earlier_y(prompts: Prompts, row: int) -> _Queries:
    numbers = _numbers(prompts, row)
    keys: _Queries = {}
    for query in (*prompts.roles["before_y"][row], *prompts.roles["readout"][row]):
        places = [place for place in range(1, len(numbers), 2) if numbers[place][-1] < query]
        around = [numbers[beside] for place in places for beside in (place - 1, place + 1)]
        if places:
            keys[query] = ([numbers[place] for place in places], [around])
    return keys


def _numbers(prompts: Prompts, row: int) -> list[_Number]:
    """The tokens of each shown number and of the query: x, y, x, y, ..., query."""
    listed: list[tuple[int, ...]] = []
    before = ""
    for place, name in sorted(_names(prompts, row).items()):
        if name != "separator":
            listed[-1:] = [(*listed[-1], place)] if name == before else [*listed[-1:], (place,)]
        before = name
    return listed


def _names(prompts: Prompts, row: int) -> dict[int, str]:
    """What each position is: part of an x, a y, the query, or a separator."""
    return {place: role for role in ("x", "y", "query", "separator") for place in prompts.roles[role][row]}
