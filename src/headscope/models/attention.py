"""One attention call as headscope sees it: queries, keys, values, the pattern, and the output of every head.

In: the arguments with which a model file calls its attention kernel (after rotary and q/k norms, cache
included), and the file's own eager function. Out: the pattern, computed *beside* the kernel so that
looking never moves the logits, with the model's own soft-caps, sinks, scales and windows. Only an edit of
the pattern itself replaces what the kernel returned, in that call alone.

Here tensors stand as kernels want them: [batch, head, query or key, head_dim].
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from headscope.errors import UnservedSite
from headscope.models.layout import Layout

Kernel = Callable[..., tuple[Tensor, Tensor | None]]

# What these kernels get as a mask can be handed to the eager function; others (flash) encode it elsewhere.
READABLE_KERNELS = frozenset({"sdpa", "eager"})


@dataclass(eq=False)
class AttentionCall:
    """One call of one layer's attention kernel.

    `q` [batch, head, query, head_dim], `k` and `v` [batch, kv_head, key, head_dim]; `out`, once the
    kernel has run, [batch, query, head, head_dim].
    """

    layer: int
    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    options: Mapping[str, Any]
    kernel: Kernel
    eager: Kernel
    layout: Layout
    fused_inline: bool = False
    out: Tensor = field(default_factory=lambda: torch.empty(0))
    _pattern: Tensor | None = None
    # Redirects whose pattern nobody has asked for yet.
    _redirects: list[tuple[int, Tensor, Tensor, float]] = field(default_factory=list)
    # Examples that were changed by themselves, and what became of them.
    _joined: "list[tuple[slice, AttentionCall]]" = field(default_factory=list)

    @property
    def keys(self) -> int:
        """How many keys a query may at most see: the length of the key axis."""
        return self.k.shape[2]

    @property
    def queries(self) -> int:
        """How many queries are under way: the cells of this forward pass."""
        return self.q.shape[2]

    @property
    def queries_per_key(self) -> int:
        """How many query heads share one key/value head."""
        return self.q.shape[1] // self.k.shape[1]

    def part(self, layout: Layout, *, rows: slice = slice(None), queries: slice = slice(None)) -> Self:
        """The same call for some examples and some queries, with the keys that stand before the last of them.

        Views: an edit of the part replaces what the part holds and leaves this call as it is. `queries`
        count from the first one, with as many keys as queries.
        """
        part = copy.copy(self)
        part.layout, part._redirects, part._joined, part._pattern = layout, [], [], None
        keys = slice(0, queries.stop)
        part.q = self.q[rows, :, queries]
        part.k, part.v = self.k[rows, :, keys], self.v[rows, :, keys]
        part.out = self.out[rows, queries] if self.out.ndim == 4 else self.out
        if self.mask is not None:
            of_rows = rows if len(self.mask) > 1 else slice(None)
            part.mask = self.mask[of_rows, :, queries, keys]
        elif queries != slice(None):
            # Without a mask a kernel aligns queries with the first keys: here they are the last ones.
            part.mask = part._before()[None, None]
        if self._pattern is not None:
            part._pattern = self._pattern[rows, :, queries, keys]
        return part

    def join(self, parts: "Sequence[tuple[slice, AttentionCall]]") -> None:
        """Take what became of some examples (see `part`), in their order."""
        self.out = spliced(self.out, [(rows, part.out) for rows, part in parts])
        if self._redirects or self._joined:
            self.pattern()  # what was pending concerns the examples as they were before
        self._joined = list(parts)

    def run_kernel(self) -> Tensor | None:
        """Run the model's own kernel; sets `out` and returns the weights that it returned, if any."""
        self.out, weights = self.kernel(self.module, self.q, self.k, self.v, self.mask, **self.options)
        return weights

    def pattern(self) -> Tensor:
        """Attention probabilities [batch, head, query, key], edits included.

        Raises:
            UnservedSite: under a kernel whose mask cannot be read.
        """
        if self._pattern is None:
            told = getattr(getattr(self.module, "config", None), "_attn_implementation", "eager")
            kind = "sdpa" if self.fused_inline else told
            if kind not in READABLE_KERNELS:
                raise UnservedSite(
                    f"cannot read attention patterns under the attention implementation {kind!r}: "
                    "load the model with attn_implementation='sdpa' or 'eager'."
                )
            mask = additive_mask(self.mask, self.q, self.k, causal=self._is_causal())
            if mask is None:  # some eager functions add it unasked
                mask = self.q.new_zeros(1, 1, self.q.shape[2], self.k.shape[2])
            weights = self.eager(self.module, self.q, self.k, self.v, mask, **self.options)[1]
            if weights is None:
                raise UnservedSite(f"the eager attention of layer {self.layer} returns no pattern.")
            self._pattern = weights
        for head, rows, cells, strength in self._redirects:
            self._pattern = redirected(self._pattern, head, rows, cells, strength)
        self._redirects.clear()
        if self._joined:
            self._pattern = self._pattern.clone()
            for own, part in self._joined:
                self._pattern[own] = part.pattern()
            self._joined.clear()
        return self._pattern

    @property
    def window(self) -> int | None:
        """How many keys back its kernel is told to look; None: as far as the mask goes, if there is one."""
        told = self.options.get("sliding_window")
        return told if isinstance(told, int) and 0 < told < self.keys else None

    @property
    def hides(self) -> bool:
        """Whether an earlier key may be hidden from a query; asks nothing of the device."""
        return self.mask is not None or self.window is not None

    def visible(self) -> Tensor:
        """Which keys each query may see, bool [batch or 1, query, key]: causality, windows, padding."""
        if self.mask is None and self.window is not None:
            return self._before()[None]
        if self.mask is not None and self.mask.ndim == 2:  # flash: which keys are tokens
            return self._before()[None] & self.mask[:, None, -self.keys :].bool()
        mask = additive_mask(self.mask, self.q, self.k, causal=self._is_causal())
        if mask is None:
            return torch.ones(1, self.q.shape[2], self.k.shape[2], dtype=torch.bool, device=self.q.device)
        return mask[:, 0] > torch.finfo(mask.dtype).min / 2

    def require_seen(self, wanted: Tensor, layout: Layout, doing: str) -> None:
        """Raise UnservedSite if a query is to look, `wanted` [batch, query, key], at a key outside its window."""
        hidden = wanted & ~self.visible()
        if not bool(hidden.any()):
            return
        queries, keys = layout.positions(self.queries), layout.positions(self.keys)
        query = int(queries[hidden.any(2)].min())
        key = int(keys[(hidden & (queries == query)[:, :, None]).any(1)].min())
        raise UnservedSite(
            f"cannot {doing} in layer {self.layer} at position {query}: a query there does not see position {key}, "
            "which lies outside the window of this layer. Name positions= that see it, or ask for what would be if "
            "they could with beyond_window=True."
        )

    def write_pattern(self, pattern: Tensor) -> None:
        """Replace the pattern, and with it what the heads return in the rows that it changes.

        Rows that stay as they were keep the kernel's own output, bit by bit; under gradients every row is
        written, so that they flow through the pattern.
        """
        changed = (pattern != self.pattern()).any(dim=-1).transpose(1, 2)
        values = self.v.repeat_interleave(self.queries_per_key, dim=1)
        mixed = (pattern.to(values.dtype) @ values).transpose(1, 2)
        kept = mixed if pattern.requires_grad else torch.where(changed[..., None], mixed, self.out)
        self.out = kept.contiguous()  # model files view it as one vector per token
        self._pattern = pattern

    def redirect(self, head: int, rows: Tensor, cells: Tensor, strength: float = 1.0) -> None:
        """Let a head attend to one key alone, in the queries `rows`, bool [batch, query].

        `cells`, int64 [batch, query], is that key's cell. A row that attends to one key returns that key's
        value, so no pattern is needed. `strength` mixes what was with what is put there.
        """
        batch = torch.arange(len(cells), device=cells.device)[:, None]
        own = self.out[:, :, head]
        value = self.v[batch, head // self.queries_per_key, cells].to(own)
        moved = value if strength == 1.0 else torch.lerp(own, value, strength)
        replaced = torch.where(rows[:, :, None], moved, own)
        self.out = torch.cat([self.out[:, :, :head], replaced[:, :, None], self.out[:, :, head + 1 :]], dim=2)
        self._redirects.append((head, rows, cells, strength))

    def _before(self) -> Tensor:
        """Which keys stand before a query and in its window, bool [query, key]; the last query has the last key."""
        ends = self.keys - self.queries
        seen = torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.q.device).tril(ends)
        return seen if self.window is None else seen.triu(ends - self.window + 1)

    def _is_causal(self) -> bool:
        given = self.options.get("is_causal")
        return bool(getattr(self.module, "is_causal", True) if given is None else given)


def spliced(value: Tensor, parts: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """`value` with these rows, in their order, put in place of its own."""
    pieces, done = [], 0
    for rows, part in parts:
        pieces += [value[done : rows.start], part]
        done = rows.stop
    return torch.cat([*pieces, value[done:]])


def redirected(pattern: Tensor, head: int, rows: Tensor, cells: Tensor, strength: float) -> Tensor:
    """The pattern [batch, head, query, key] with the named rows of one head on one key each."""
    own = pattern[:, head]
    target = torch.zeros_like(own).scatter(2, cells[:, :, None], 1.0)
    moved = target if strength == 1.0 else torch.lerp(own, target, strength)
    changed = torch.where(rows[:, :, None], moved, own)
    return torch.cat([pattern[:, :head], changed[:, None], pattern[:, head + 1 :]], dim=1)


def additive_mask(mask: Tensor | None, q: Tensor, k: Tensor, *, causal: bool) -> Tensor | None:
    """Any mask that a kernel may receive, as what an eager function adds: [batch or 1, 1, query, key].

    None means causal to a fused kernel (aligned at the first key) unless there is a single query.
    """
    if mask is None:
        if not causal or q.shape[2] == 1:
            return None
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
    if mask.dtype == torch.bool:
        lowest = torch.finfo(q.dtype).min
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, lowest)
    return mask[..., : k.shape[2]]
