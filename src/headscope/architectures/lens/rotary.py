"""Angles of rotary positions as TransformerLens stores them, and what they show.

In: the tables `rotary_sin` and `rotary_cos` [position, head_dim] of every block. Out: which dimensions turn
together. Dimension pairs are neighbours (2i, 2i + 1), as in GPT-J, or halves (i, i + head_dim / 2), as in
GPT-NeoX and in our architecture; early releases of TransformerLens used neighbours for models of one's own,
later ones halves, and configs of both look alike. Column 1 of the tables tells them apart: it repeats column
0 or goes on to the next angle.
"""

import torch
from torch import Tensor

from headscope.architectures.lens.file import LensFile
from headscope.architectures.lens.shapes import ROTARY_TABLES, Sizes
from headscope.errors import BadArgument, BrokenWeights, UnservedModel

DEFAULT_BASE = 10_000.0
PAIRS = ("halves", "adjacent")
# Angles grow with the position, and tables may be stored in half precision.
_TOLERANCE = 1e-2


def pairs_in(file: LensFile, sizes: Sizes, *, base: float, n_ctx: int) -> list[str]:
    """The kinds of pairs whose angles, with this base, are those of the tables in all blocks; never empty.

    Both kinds fit where a head has two dimensions.
    """
    fitting = list(PAIRS)
    for layer in range(sizes.n_layers):
        sines, cosines = (_table(file, f"blocks.{layer}.attn.{name}", sizes, n_ctx) for name in ROTARY_TABLES)
        turned = {kind: angles(kind, sizes.d_head, base, n_ctx) for kind in fitting}
        fitting = [kind for kind, by in turned.items() if _same(sines, by.sin()) and _same(cosines, by.cos())]
    if not fitting:
        why = f"its stored rotary angles are not those of the base {base:g}. Give another one with --rotary-base."
        raise BadArgument.importing(file.name, why)
    return fitting


def angles(kind: str, d_head: int, base: float, n_ctx: int) -> Tensor:
    """By how much each dimension turns at each position, radians [position, head_dim], float64."""
    frequencies = base ** -(torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    by_dimension = frequencies.repeat_interleave(2) if kind == "adjacent" else frequencies.repeat(2)
    return torch.arange(n_ctx, dtype=torch.float64)[:, None] * by_dimension


def halves_order(d_head: int) -> Tensor:
    """The order that brings neighbouring pairs into halves: 0, 2, 4, ... and then 1, 3, 5, ...

    >>> halves_order(6).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    return torch.arange(d_head).view(-1, 2).T.flatten()


def _table(file: LensFile, name: str, sizes: Sizes, n_ctx: int) -> Tensor:
    positions, turned = file.shape(name, 2)
    if turned != sizes.d_head or turned % 2:
        part = f"{turned} of the {sizes.d_head} dimensions of each head (rotary_dim)"
        why = f"its rotary positions turn {part}, and our architecture turns all of them, in pairs."
        raise UnservedModel.importing(file.name, why)
    if positions != n_ctx:
        why = f"its tensor {name!r} has {positions} positions, and its context {n_ctx}."
        raise BrokenWeights.importing(file.name, why)
    return file.tensors[name]


def _same(table: Tensor, expected: Tensor) -> bool:
    return bool((table.double() - expected).abs().max() < _TOLERANCE)
