"""What ablating each kind of head costs: `python -m tools.real_models kinds NAME`.

In: a model and the rows of `headscope heads`, which names kinds. Out: for each kind how much the loss rises on
repeated random tokens and on prose, on prompts that named nothing, when its heads (the ten that attend most) are put
to their means together, and when as many random heads are, of the same layers where those have enough. The mean is
that over prompts of the same sort: random tokens in which nothing repeats, and other prose. No random set holds a
head of a kind that is asked about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import headscope as hs
from headscope.measures import interval
from headscope.models.model import Model
from headscope.sweeps.controls import AgainstRandom, Control, against_random_sets
from headscope.tasks.prompts import Prompts

READ = "read"  # the role of the positions whose next token is judged
STRONGEST = 10
ASKED = (
    ("induction", "induction"),
    ("induction", "anti-induction"),
    ("induction", "pattern only"),
    ("previous_token", "previous_token"),
    ("duplicate_token", "duplicate_token"),
    ("current_token", "current_token"),
    ("bos", "bos"),
)
_NAMED_WINDOWS, _WINDOW = 50, 64  # of prose that `headscope heads` reads
_ALL = 10**6
_LENGTH, _REPEATS = 16, 3


def costs(
    model: Model, heads: Sequence[Mapping[str, Any]], *, read: int, n: int = 12, sets: int = 5
) -> dict[str, Any]:
    """By kind of prompts and kind of head: mean rise of the loss and its bounds, and the mean rise of random sets."""
    groups = {kind: strongest(heads, detector, kind) for detector, kind in ASKED}
    groups = {kind: named for kind, named in groups.items() if named}
    repeated = repeated_tokens(model, read=read, n=n, seed=1)
    natural, other = prose(model, read=read, n=n)
    shown = {
        "repeated": (repeated, hs.mean("z", over=hs.tasks.without_repeats(model, repeated, seed=2))),
        "prose": (natural, hs.mean("z", over=other)),
    }
    found = {
        prompts_kind: against_random_sets(
            model, prompts, groups, ablation=average, measure=hs.measures.loss(READ), control=Control(count=sets)
        )
        for prompts_kind, (prompts, average) in shown.items()
    }
    return {
        "n": n,
        "read": read,
        "tokens": {kind: prompts.longest for kind, (prompts, _) in shown.items()},
        "found": {kind: {name: _told(each) for name, each in own.items()} for kind, own in found.items()},
    }


def strongest(heads: Sequence[Mapping[str, Any]], detector: str, kind: str) -> list[hs.Head]:
    """The heads of a kind that attend most, at most ten."""
    named = [row for row in heads if row["detector"] == detector and row["named"] and row["kind"] == kind]
    named.sort(key=lambda row: -row["score"])
    return [hs.Head.parse(row["head"]) for row in named[:STRONGEST]]


def repeated_tokens(model: Model, *, read: int, n: int, seed: int) -> Prompts:
    """Random tokens shown three times; `read` of the predictable ones are judged."""
    prompts = hs.tasks.repeated_tokens(model, length=_LENGTH, repeats=_REPEATS, n=n, seed=seed)
    return _judged(prompts, prompts.roles["predictable"], read)


def prose(model: Model, *, read: int, n: int) -> tuple[Prompts, Prompts]:
    """Windows of prose of which `read` tokens are judged, and as many for means: none that `headscope heads` read."""
    every = hs.tasks.natural(model, length=_WINDOW, n=_ALL)
    step = len(every) // _NAMED_WINDOWS  # each first of so many is read there
    free = [first + after for first in range(0, step * _NAMED_WINDOWS, step) for after in range(1, step)]
    taken = [free[place * len(free) // (2 * n)] for place in range(2 * n)]
    judged = every.rows(taken[::2])
    return _judged(judged, [range(length - 1) for length in judged.lengths], read), every.rows(taken[1::2])


def _judged(prompts: Prompts, among: Sequence[Sequence[int]], read: int) -> Prompts:
    """With the role of what is read: so many of these positions, evenly spaced."""
    chosen = tuple(
        tuple(places[(2 * place + 1) * len(places) // (2 * read)] for place in range(read)) for places in among
    )
    return replace(prompts, roles={**prompts.roles, READ: chosen})


def _told(each: AgainstRandom) -> dict[str, Any]:
    rise = interval(each.damage.numpy())
    return {
        "heads": list(map(str, each.picked)),
        "rise": [float(rise.mean), float(rise.low), float(rise.high)],
        "random": each.means.tolist(),
        "match": each.match,
        "none": each.none,
    }
