"""Which keys count for which query: the (query, key) pairs that define each detector.

In: prompts. Out: `KeySets`, one set of keys for each query that is judged. A detector is nothing but its
pairs, the prompts it looks at, and its null; what attention does with them is read elsewhere, so a faster
reading never touches a definition. Definitions and parameters: Olsson et al. 2022, Bansal et al. 2022.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.tasks.prompts import Prompts


@dataclass(frozen=True)
class KeySets:
    """`pairs[b, q, k]`: key k counts for query q; `queries[b, q]`: this query is judged.

    `others` are what the keys are compared with, each a weight for every key; without them, all other visible keys.
    """

    pairs: Bool[Tensor, "batch query key"]
    queries: Bool[Tensor, "batch query"]
    others: tuple[Float[Tensor, "batch query key"], ...] = ()


def previous_token(prompts: Prompts) -> KeySets:
    """The key before the query. Query 1 is left out: its previous token is also the first."""
    return _lookback(prompts, 1, first=2)


def lookback(prompts: Prompts, distance: int) -> KeySets:
    """The key `distance` before the query; queries with no such key are left out, never clamped."""
    return _lookback(prompts, distance, first=distance)


def current_token(prompts: Prompts) -> KeySets:
    """The query's own key; query 0 sees nothing else and is left out."""
    return _lookback(prompts, 0, first=1)


def first_token(prompts: Prompts) -> KeySets:
    """Key 0, for every later query."""
    pairs = torch.zeros(len(prompts), prompts.longest, prompts.longest, dtype=torch.bool)
    pairs[:, :, 0] = True
    return _of(pairs, prompts, first=1)


def duplicate_token(prompts: Prompts) -> KeySets:
    """Earlier copies of the query's own token."""
    return _of(_same_token_before(prompts), prompts, first=1)


def prefix_matching(prompts: Prompts) -> KeySets:
    """The token *after* each earlier copy of the query's token: where an induction head looks.

    A perfect induction head scores 1. (Olsson et al. word the offset so that it reads as -1; what their
    heads attend to, and what is meant, is +1.) Where prompts mark `repeated` positions, only those are
    judged: the first showing of a segment has nothing to match.
    """
    copies = _same_token_before(prompts)
    pairs = torch.zeros_like(copies)
    pairs[:, :, 1:] = copies[:, :, :-1]
    return _of(pairs, prompts, first=1, role="repeated")


def _lookback(prompts: Prompts, distance: int, *, first: int) -> KeySets:
    positions = torch.arange(prompts.longest)
    pairs = positions[:, None] - positions[None] == distance
    return _of(pairs.expand(len(prompts), -1, -1).clone(), prompts, first=first)


def _same_token_before(prompts: Prompts) -> Bool[Tensor, "batch query key"]:
    ids = prompts.ids
    before = torch.ones(prompts.longest, prompts.longest, dtype=torch.bool).tril(-1)
    return (ids[:, :, None] == ids[:, None, :]) & before


def _of(pairs: Bool[Tensor, "batch query key"], prompts: Prompts, *, first: int, role: str | None = None) -> KeySets:
    queries = prompts.real & (torch.arange(prompts.longest) >= first)[None] & pairs.any(-1)
    if role is not None and role in prompts.roles:
        queries = queries & prompts.where(role)
    return KeySets(pairs & queries[:, :, None], queries)
