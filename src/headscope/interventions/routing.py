"""Routing: where heads look is changed, and what stands there is left alone.

`ToBOS` and `FixedOffset` let a head attend to one key alone, `SetPattern` writes a pattern out, `KnockOut`
takes chosen keys away from chosen queries. Values are untouched, so that what changes is which of them a
head moves. In a layer with a sliding window, what lies outside of it is no key: no query is sent there, not in part
either, unless one asks what would be if it could (`beyond_window`), and even then not where a cache has dropped it.
"""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headscope.errors import BadArgument, PromptError, UnservedSite
from headscope.hashing import digest
from headscope.interventions.base import Intervention, heads_in
from headscope.interventions.references import extent, onto_keys
from headscope.interventions.targets import Target
from headscope.models.attention import AttentionCall
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import ALL, Positions, Rows

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True, eq=False)
class _Routing(Intervention):
    """Acts on the pattern of heads; its targets name heads or layers, as `z` does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for target in self.targets:
            if target.site not in ("z", "pattern"):
                raise UnservedSite(
                    f"cannot {self.verb} {target.site!r}: where to look is a matter of heads. Name heads or a layer."
                )


@dataclass(frozen=True, eq=False)
class _Redirect(_Routing):
    """Lets heads attend to one key per query; a row with one key needs no pattern, only that key's value."""

    beyond_window: bool = field(default=False, kw_only=True)

    @property
    def details(self) -> str:
        return " beyond its window" if self.beyond_window else ""

    @abstractmethod
    def key_of(self, queries: Tensor) -> Tensor:
        """The position each query [batch, query] is to look at; negative: it stays as it is."""

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> CallEdit:
        _, layer = target.place
        model.require_site("z", layer, edited=True)
        model.require_service("to_bos", layer)
        heads = heads_in(target, model)

        def change(call: AttentionCall, layout: Layout) -> None:
            wanted = self.key_of(layout.positions(call.queries))
            rows = layout.mask(self.positions, call.queries) & (wanted >= 0)
            cells = layout.key_cells(wanted, call.keys, rows)
            if not self.beyond_window and call.hides:
                looking = torch.zeros(len(rows), *rows.shape[1:], call.keys, dtype=torch.bool, device=rows.device)
                call.require_seen(looking.scatter(2, cells[:, :, None], rows[:, :, None]), layout, self.verb)
            for head in heads:
                call.redirect(head, rows, cells, self.strength)

        return CallEdit(layer, change)


@dataclass(frozen=True, eq=False)
class ToBOS(_Redirect):
    """Let heads attend to the first token and nothing else, at the given query positions.

    Assumes that attending to the first token is how this head rests, so that what is removed is what it
    does *beyond* resting (Janiak et al. 2023). Where that is doubtful, compare with `Mean`. Values are
    untouched; other positions and heads are untouched.
    """

    def key_of(self, queries: Tensor) -> Tensor:
        return torch.zeros_like(queries)


@dataclass(frozen=True, eq=False)
class FixedOffset(_Redirect):
    """Let heads attend to the token `offset` back and nothing else.

    Queries with fewer than `offset` tokens before them stay as they are: they are never made to look at the
    first token instead.
    """

    offset: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.offset) is not int or self.offset < 0:
            raise BadArgument(f"cannot look {self.offset} tokens back: give a whole number from 0.")

    @property
    def details(self) -> str:
        return f" {self.offset} back{super().details}"

    def key_of(self, queries: Tensor) -> Tensor:
        return queries - self.offset


@dataclass(frozen=True, eq=False)
class SetPattern(_Routing):
    """Give heads a pattern written out: probabilities [query, key], [head, query, key] or with a batch axis.

    The head axis runs over the heads of each target in their order. Rows may sum to less than 1 (the rest
    goes nowhere), not to more, and no query may look ahead, nor, without `beyond_window`, outside a window.
    """

    pattern: Tensor = field(kw_only=True)
    beyond_window: bool = field(default=False, kw_only=True)

    @property
    def details(self) -> str:
        return " beyond its window" if self.beyond_window else ""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.pattern
        if given.ndim not in (2, 3, 4) or given.shape[-1] != given.shape[-2] or not given.is_floating_point():
            raise BadArgument(
                f"cannot set a pattern of shape {tuple(given.shape)} and type {given.dtype}: give probabilities "
                "[query, key], [head, query, key] or [batch, head, query, key] over the same positions."
            )
        slack = max(1e-3, 4 * torch.finfo(given.dtype).eps)  # rounding of rows that were computed
        if not bool((given >= 0).all() & (given.sum(-1) <= 1 + slack).all()):
            raise BadArgument("cannot set this pattern: its rows must be probabilities, of sum 1 at most.")
        if bool(given.triu(1).any()):
            raise BadArgument("cannot set this pattern: a query in it looks at a later token.")

    def rows(self, chosen: Rows) -> "SetPattern":
        if self.pattern.ndim < 4 or len(self.pattern) == 1:
            return self
        return replace(self, pattern=self.pattern[chosen])

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        _, layer = target.place
        model.require_site("pattern", layer, edited=True)
        heads, known = heads_in(target, model), self.pattern.shape[-1]
        given = self.pattern.to(model.device).reshape(*[1] * (4 - self.pattern.ndim), *self.pattern.shape)
        if given.shape[0] not in (1, len(prompts)) or given.shape[1] not in (1, len(heads)):
            raise BadArgument(
                f"cannot set a pattern of shape {tuple(self.pattern.shape)} for {len(heads)} heads in "
                f"{len(prompts)} examples: its axes are (batch,) (head,) query, key."
            )
        if extent(prompts, self.positions)[1] >= known:
            raise self._too_short(known)
        every = torch.zeros(given.shape[0], model.layer(layer).heads, known, known).to(given)
        every[:, list(heads)] = given
        by_query = every.transpose(1, 2)

        def replacement(value: Tensor, layout: Layout) -> Tensor:
            queries = layout.positions(value.shape[1])
            wanted = layout.mask(self.positions, value.shape[1])
            if layout.growing and bool((wanted & (queries >= known)).any()):
                raise self._too_short(known)
            batch = torch.arange(len(queries), device=queries.device)[:, None] if len(by_query) > 1 else 0
            # Rows that stay as they are ask nothing of the keys.
            rows = torch.where(wanted[:, :, None, None], by_query[batch, queries.clamp(0, known - 1)], 0)
            return onto_keys(rows, layout, value.shape[3])

        return self.site_edit(replace(target, site="pattern"), replacement, within_window=not self.beyond_window)

    def _too_short(self, known: int) -> PromptError:
        return PromptError(
            f"cannot set the pattern of position {known}: it was given for {known} positions. "
            "Name positions= within it, or give a larger one."
        )


@dataclass(frozen=True, eq=False)
class KnockOut(_Routing):
    """Take the keys at `keys` away from the queries at `positions`.

    With `renormalise` what is left of a row is scaled up as if its softmax had never seen those keys
    (attention knockout, Geva et al. 2023). What the row lacked of 1 before, be it a sink's share or what another
    intervention took, counts like a key that is kept; a row that loses everything attends to nothing. Without
    it the row just loses them. `edges` takes only so many of those keys that each query sees, drawn by `seed`,
    the example and the query: those of k are among those of k + 1, so that doses nest.
    """

    keys: Positions = field(default=ALL, kw_only=True)
    renormalise: bool = field(default=True, kw_only=True)
    edges: int | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edges is not None and (type(self.edges) is not int or self.edges < 0):
            raise BadArgument(f"cannot knock out {self.edges} edges of each query: give a whole number from 0.")

    @property
    def details(self) -> str:
        dose = "" if self.edges is None else f", {self.edges} of each query"
        return f" -> {self.keys}{dose}{'' if self.renormalise else ', not renormalised'}"

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        model.require_site("pattern", target.place[1], edited=True)
        # Keys are checked on the prompts: a position of the text to come cannot be a key of theirs.
        prompts.check(self.keys)
        seeds = [
            int(digest((self.seed, tokens[:end])), 16)
            for tokens, end in zip(prompts.tokens, prompts.ends, strict=True)
        ]

        def replacement(value: Tensor, layout: Layout) -> Tensor:
            taken = self._edges(layout, value, seeds)[:, :, None]
            kept = value.masked_fill(taken, 0)
            if not self.renormalise:
                return kept
            before, after = value.sum(-1, keepdim=True), kept.sum(-1, keepdim=True)
            # What a row lacks of 1 is a sink's share, which the softmax would keep; less is rounding.
            sink = 1 - before
            sink = torch.where(sink > 4 * torch.finfo(value.dtype).eps * value.shape[3] ** 0.5, sink, 0)
            left = after + sink
            return kept * torch.where(after > 0, (before + sink) / torch.where(after > 0, left, 1), 0)

        return self.site_edit(replace(target, site="pattern"), replacement)

    def _edges(self, layout: Layout, value: Tensor, seeds: list[int]) -> Tensor:
        """Which keys are taken from which queries, bool [batch, query, key]."""
        rows, columns = layout.mask(self.positions, value.shape[1]), layout.mask(self.keys, value.shape[3])
        taken = rows[:, :, None] & columns[:, None]
        if self.edges is None:
            return taken
        # Doses are shares of what is seen: a masked key has no probability in any head.
        taken &= (value > 0).any(dim=2)
        numbers = torch.ones(taken.shape, dtype=torch.float64)
        at, of = layout.positions(value.shape[1]).cpu(), layout.positions(value.shape[3]).cpu()
        for row, query in taken.any(2).cpu().nonzero().tolist():
            # A stream of its own for each query, in order of key: a longer text changes nothing before it.
            position = int(at[row, query])
            drawn = torch.from_numpy(np.random.default_rng((seeds[row], position)).random(position + 1))
            numbers[row, query] = drawn[of[row].clamp(0, position)]
        ranked = numbers.to(taken.device).masked_fill(~taken, 2.0).argsort(dim=2).argsort(dim=2)
        return taken & (ranked < self.edges)
