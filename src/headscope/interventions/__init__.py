"""Interventions as frozen data: `zero`, `mean`, `to_bos`, `patch`, `add`.

Each constructor takes what to act on (a `Head` or "1.4", several heads, a layer's number for all its heads,
or a site and its layer as ("resid_pre", 3)) and where (`positions`: an index, several, a role, "all").
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headscope.interventions.ablations import Mean, ToBOS, Zero
from headscope.interventions.base import Intervention
from headscope.interventions.targets import Target, TargetLike, targets_of
from headscope.interventions.writes import Add, Patch, as_map
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import ALL, Positions, PositionsLike

__all__ = [
    "Add",
    "Intervention",
    "Mean",
    "Patch",
    "Target",
    "ToBOS",
    "Zero",
    "add",
    "mean",
    "patch",
    "targets_of",
    "to_bos",
    "zero",
]


def zero(target: TargetLike, positions: PositionsLike = ALL) -> Zero:
    """Put zero in place of heads or a site.

    >>> str(zero("0.2"))
    'zero 0.2'
    >>> str(zero(3, positions=-1))
    'zero z[3] at -1'
    """
    return Zero(targets_of(target), Positions.of(positions))


def mean(
    target: TargetLike, *, over: PromptsLike, per_position: bool = False, positions: PositionsLike = ALL
) -> Mean:
    """Put the mean over the reference prompts `over` in place of heads or a site; see `Mean`."""
    return Mean(targets_of(target), Positions.of(positions), over=Prompts.of(over), per_position=per_position)


def to_bos(target: TargetLike, positions: PositionsLike = ALL) -> ToBOS:
    """Let heads attend to the first token alone; see `ToBOS`.

    >>> str(to_bos("1.4", positions=[5]))
    'to_bos 1.4 at 5'
    """
    return ToBOS(targets_of(target), Positions.of(positions))


def patch(
    target: TargetLike, *, source: Run | PromptsLike, positions: PositionsLike | Mapping[int, int] = ALL
) -> Patch:
    """Put what `source` had at heads or a site into this run; see `Patch`.

    `positions={source: target}` says which position goes where between prompts of unequal length.
    """
    origin = source if isinstance(source, Run) else Prompts.of(source)
    mapped = as_map(positions)
    where = ALL if isinstance(positions, Mapping) else Positions.of(positions)
    return Patch(targets_of(target), where, source=origin, position_map=mapped)


def add(
    target: TargetLike,
    vector: Tensor | Sequence[float],
    *,
    scale: float = 1.0,
    positions: PositionsLike = ALL,
) -> Add:
    """Add `scale * vector` to heads or a site; see `Add`."""
    return Add(targets_of(target), Positions.of(positions), vector=torch.as_tensor(vector), scale=scale)
