"""Attention held fixed while a model trains: what is needed for a change, where smeared keys ask what helps it.

In: a model and `Clamp`s, each with the step from which it holds. Out: nothing; inside the context the model computes
with them, and gradients flow through all the rest. Either the induction edges are gone (no query attends to what
followed earlier copies of its own token; the rest of the pattern shares the mass), or a head attends in a fixed way
whatever it reads, so that only its values and its output can learn. Singh et al. 2024, "What needs to go right for an
induction head?", clamp activations in training to find which parts of the circuit a change waits for.

A clamp is part of a recipe and not of the weights: a checkpoint that is opened later computes without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from headscope.architectures import ToyForCausalLM
from headscope.architectures.attention import ToyAttention, visible_keys
from headscope.errors import BadArgument

ClampKind = Literal["no_induction_edges", "previous_token", "uniform", "first_token"]
"""`no_induction_edges` takes edges away; the others are patterns that a head is given."""


@dataclass(frozen=True)
class Clamp:
    """What is held from step `start` on (0: from the beginning), in which heads.

    `heads` names heads ("1.2") and whole layers ("1"); empty means every layer but the first.

    Raises:
        BadArgument: for an unknown kind, a negative step, or a name that is neither head nor layer.
    """

    kind: ClampKind
    heads: tuple[str, ...] = ()
    start: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(ClampKind):
            raise BadArgument(f"cannot clamp {self.kind!r} in training: expected {', '.join(get_args(ClampKind))}.")
        if self.start < 0:
            raise BadArgument(f"cannot clamp from step {self.start} on: expected 0 or more.")
        for name in self.heads:
            if not all(part.isdecimal() for part in name.split(".")) or name.count(".") > 1:
                raise BadArgument(f"cannot clamp {name!r}: expected a head (1.2) or a layer (1).")

    def heads_of(self, layer: int, n_heads: int) -> list[int]:
        """The heads of a layer that it holds."""
        if not self.heads:
            return list(range(n_heads)) if layer > 0 else []
        named = [name.split(".") for name in self.heads if int(name.split(".")[0]) == layer]
        if any(len(parts) == 1 for parts in named):
            return list(range(n_heads))
        return sorted(int(parts[1]) for parts in named)

    def require(self, n_layers: int, n_heads: int, name: str) -> None:
        """Raise BadArgument unless a model of these sizes has what it names."""
        held = self.heads or tuple(map(str, range(1, n_layers)))
        for each in held or ("1",):
            layer, _, head = each.partition(".")
            if int(layer) >= n_layers or int(head or 0) >= n_heads:
                raise BadArgument(
                    f"cannot train {name!r} with a clamp on {each!r}: it has {n_layers} layers of {n_heads} heads, "
                    "numbered from 0. Name heads or layers that it has."
                )


def after_copies(tokens: Tensor) -> Tensor:
    """Whether a key follows an earlier copy of the query's own token, bool [example, query, key].

    >>> after_copies(torch.tensor([[5, 6, 5]]))[0, 2].tolist()
    [False, True, False]
    """
    same = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)
    return nn.functional.pad(same, (1, 0))[..., :-1]


@contextmanager
def clamped(model: ToyForCausalLM, clamps: tuple[Clamp, ...], step: int) -> Iterator[None]:
    """Hold those clamps whose step has come; also in copies of the model that are made meanwhile."""
    holding = [clamp for clamp in clamps if clamp.start <= step]
    if not holding:
        yield
        return
    tokens = _Tokens()
    with ExitStack() as hooks:
        hooks.enter_context(model.model.register_forward_pre_hook(tokens.see, with_kwargs=True))
        for module in model.modules():
            if isinstance(module, ToyAttention):
                _Held.of(module, holding, tokens).hook(module, hooks)
        yield


class _Tokens:
    """The tokens of the forward pass under way; a copy of a model has its own."""

    ids: Tensor

    def see(self, module: nn.Module, given: Any, named: Mapping[str, Any]) -> None:
        self.ids = named["input_ids"]


class _Held:
    """What is held in one layer. Its hooks are methods, so that copying the model copies them with their state."""

    def __init__(self, cut: list[int], patterns: dict[int, ClampKind], head_dim: int, tokens: _Tokens) -> None:
        self.cut, self.patterns, self.head_dim, self.tokens = cut, patterns, head_dim, tokens
        self.values: Tensor | None = None

    @classmethod
    def of(cls, module: ToyAttention, clamps: list[Clamp], tokens: _Tokens) -> "_Held":
        cut: set[int] = set()
        patterns: dict[int, ClampKind] = {}
        for clamp in clamps:
            heads = clamp.heads_of(module.layer_idx, module.config.n_heads)
            if clamp.kind == "no_induction_edges":
                cut.update(heads)
            else:
                patterns |= dict.fromkeys(heads, clamp.kind)
        return cls(sorted(cut), patterns, module.head_dim, tokens)

    def hook(self, module: ToyAttention, hooks: ExitStack) -> None:
        if self.cut:
            hooks.enter_context(module.register_forward_pre_hook(self.without_edges, with_kwargs=True))
        if self.patterns:
            hooks.enter_context(module.v_proj.register_forward_hook(self.keep_values))
            hooks.enter_context(module.o_proj.register_forward_pre_hook(self.mixed_by_pattern))
            hooks.enter_context(module.register_forward_hook(self.shown_pattern))

    def without_edges(self, module: ToyAttention, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A mask without the edges, [example, head, query, key]. BOS follows nothing, so that no row is empty."""
        edges, mask = after_copies(self.tokens.ids)[:, None], named["attention_mask"]
        n = edges.shape[-1]
        if mask is None:
            mask = visible_keys(n, n, None, edges.device)
        if len(self.cut) < module.config.n_heads:
            chosen = torch.zeros(module.config.n_heads, dtype=torch.bool, device=edges.device)
            chosen[self.cut] = True
            edges = edges & chosen[:, None, None]
        gone = mask & ~edges if mask.dtype == torch.bool else mask.masked_fill(edges, torch.finfo(mask.dtype).min)
        return given, {**named, "attention_mask": gone}

    def keep_values(self, module: nn.Module, given: Any, values: Tensor) -> None:
        self.values = values

    def mixed_by_pattern(self, projection: nn.Linear, given: tuple[Tensor]) -> tuple[Tensor]:
        """The heads' outputs [example, position, head * head_dim], those of held heads by their fixed patterns."""
        (mixed,), values = given, self.values
        assert values is not None
        by_head = torch.split(values, self.head_dim, dim=-1)
        parts = list(torch.split(mixed, self.head_dim, dim=-1))
        for head, kind in self.patterns.items():
            parts[head] = pattern_of(kind, values.shape[1], values) @ by_head[head]
        return (torch.cat(parts, dim=-1),)

    def shown_pattern(
        self, module: ToyAttention, given: Any, result: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """The pattern as it was used, where the attention implementation shows it."""
        out, pattern = result
        if pattern is not None:
            pattern = pattern.clone()
            for head, kind in self.patterns.items():
                pattern[:, head] = pattern_of(kind, pattern.shape[-1], pattern)
        return out, pattern


def pattern_of(kind: ClampKind, n: int, like: Tensor) -> Tensor:
    """The fixed pattern [query, key] over `n` positions, in the precision of `like`; query 0 attends to itself."""
    pattern = torch.zeros(n, n, dtype=like.dtype, device=like.device)
    if kind == "uniform":
        return (torch.ones_like(pattern) / torch.arange(1, n + 1).to(pattern)[:, None]).tril()
    keys = torch.zeros(n, dtype=torch.long) if kind == "first_token" else (torch.arange(n) - 1).clamp(min=0)
    pattern[torch.arange(n), keys] = 1
    return pattern
