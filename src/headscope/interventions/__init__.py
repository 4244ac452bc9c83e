"""Interventions as frozen data: ablation, routing, freezing, patching, steering; one interface for all.

Each constructor takes what to act on (a `Head` or "1.4", several heads, layers as 2 or [0, 2] for all
their heads, or a site and its layers as ("resid_pre", 3) or ("v", "all")), where (`positions`: an index,
several, a role, "all") and how far (`strength`, 0 to 1). `str` names an intervention in messages and tables.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from headscope.errors import BadArgument
from headscope.interventions.ablations import Mean, Resample, Zero
from headscope.interventions.base import Intervention
from headscope.interventions.freezing import Freeze, PathPatch, frozen
from headscope.interventions.routing import FixedOffset, KnockOut, SetPattern, ToBOS
from headscope.interventions.set_values import SetValues
from headscope.interventions.targets import EVERY, Target, TargetLike, targets_of
from headscope.interventions.writes import Add, Patch
from headscope.interventions.written import from_json, tensors_of, to_json
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts, PromptsLike
from headscope.vocabulary import ALL, Positions, PositionsLike

__all__ = [
    "Add",
    "FixedOffset",
    "Freeze",
    "Intervention",
    "KnockOut",
    "Mean",
    "Patch",
    "PathPatch",
    "Resample",
    "SetPattern",
    "SetValues",
    "Target",
    "ToBOS",
    "Zero",
    "add",
    "fixed_offset",
    "freeze",
    "freeze_pattern",
    "from_json",
    "knock_out",
    "mean",
    "patch",
    "path_patch",
    "pattern_preserving",
    "resample",
    "set_pattern",
    "set_values",
    "targets_of",
    "tensors_of",
    "to_bos",
    "to_json",
    "value_preserving",
    "zero",
]

Several = Intervention | Iterable[Intervention]


def zero(target: TargetLike, positions: PositionsLike = ALL, *, strength: float = 1.0) -> Zero:
    """Put zero in place of heads or a site.

    >>> str(zero("0.2"))
    'zero 0.2'
    >>> str(zero(3, positions=-1, strength=0.5))
    'zero z[3] at -1 by 0.5'
    """
    return Zero(targets_of(target), Positions.of(positions), strength=strength)


def mean(
    target: TargetLike,
    *,
    over: PromptsLike,
    per_position: bool = False,
    positions: PositionsLike = ALL,
    strength: float = 1.0,
) -> Mean:
    """Put the mean over the reference prompts `over` in place of heads or a site; see `Mean`."""
    reference, where = Prompts.given(over), Positions.of(positions)
    return Mean(targets_of(target), where, over=reference, per_position=per_position, strength=strength)


def resample(
    target: TargetLike,
    *,
    over: PromptsLike,
    seed: int = 0,
    per_position: bool = True,
    positions: PositionsLike = ALL,
    strength: float = 1.0,
) -> Resample:
    """Put what heads or a site had on another prompt, drawn from `over`, in their place; see `Resample`."""
    reference, where = Prompts.given(over), Positions.of(positions)
    return Resample(
        targets_of(target), where, over=reference, seed=seed, per_position=per_position, strength=strength
    )


def to_bos(
    target: TargetLike, positions: PositionsLike = ALL, *, strength: float = 1.0, beyond_window: bool = False
) -> ToBOS:
    """Let heads attend to the first token alone, `beyond_window` also where a window hides it; see `ToBOS`.

    >>> str(to_bos("1.4", positions=[5]))
    'to_bos 1.4 at 5'
    """
    return ToBOS(targets_of(target), Positions.of(positions), strength=strength, beyond_window=beyond_window)


def fixed_offset(
    target: TargetLike,
    offset: int,
    positions: PositionsLike = ALL,
    *,
    strength: float = 1.0,
    beyond_window: bool = False,
) -> FixedOffset:
    """Let heads attend to the token `offset` back alone, `beyond_window` also outside a window; see `FixedOffset`.

    >>> str(fixed_offset("0.2", 100))
    'fixed_offset 0.2 100 back'
    """
    where = Positions.of(positions)
    return FixedOffset(targets_of(target), where, offset=offset, strength=strength, beyond_window=beyond_window)


def set_pattern(
    target: TargetLike,
    pattern: Tensor | Sequence[Sequence[float]],
    positions: PositionsLike = ALL,
    *,
    strength: float = 1.0,
    beyond_window: bool = False,
) -> SetPattern:
    """Give heads a pattern written out, [query, key], [head, query, key] or with a batch axis; see `SetPattern`."""
    given = pattern if isinstance(pattern, Tensor) else torch.tensor(pattern, dtype=torch.float32)
    where = Positions.of(positions)
    return SetPattern(targets_of(target), where, pattern=given, strength=strength, beyond_window=beyond_window)


def knock_out(
    target: TargetLike,
    queries: PositionsLike,
    keys: PositionsLike,
    *,
    renormalise: bool = True,
    edges: int | None = None,
    seed: int = 0,
    strength: float = 1.0,
) -> KnockOut:
    """Take keys away from queries, all or only `edges` of them for each query; see `KnockOut`.

    >>> str(knock_out("1.4", queries="query", keys="example", edges=3))
    'knock_out 1.4 -> example, 3 of each query at query'
    """
    return KnockOut(
        targets_of(target),
        Positions.of(queries),
        keys=Positions.of(keys),
        renormalise=renormalise,
        edges=edges,
        seed=seed,
        strength=strength,
    )


def freeze(
    target: TargetLike, *, under: Several = (), positions: PositionsLike = ALL, strength: float = 1.0
) -> Freeze:
    """Force sites to what they had in the clean run of the same tokens, or in one `under` interventions."""
    return Freeze(targets_of(target), Positions.of(positions), under=_listed(under), strength=strength)


def freeze_pattern(
    target: TargetLike = ("pattern", EVERY),
    *,
    under: Several = (),
    positions: PositionsLike = ALL,
    strength: float = 1.0,
) -> Freeze:
    """Force the patterns of heads (by default of all) to those of the clean run; see `Freeze`.

    >>> str(freeze_pattern("1.4")), str(freeze_pattern())
    ('freeze pattern[1.4]', 'freeze pattern[all]')
    """
    targets = tuple(target.at_site("pattern") for target in targets_of(target))
    return Freeze(targets, Positions.of(positions), under=_listed(under), strength=strength)


def pattern_preserving(ablation: Several) -> tuple[Intervention, ...]:
    """An ablation that leaves every pattern as it was: what heads *move*, not where others look because of it."""
    return (freeze_pattern(), *_listed(ablation))


def value_preserving(ablation: Several, *, mlps: str = "recomputed") -> tuple[Intervention, ...]:
    """An ablation that acts on patterns alone: values stay, and what is ablated no longer enters queries and keys.

    `mlps` says whether MLPs between take part in the ablated run from which the patterns come.
    """
    held = freeze(("v", EVERY))
    still = (freeze(("mlp_out", EVERY)),) if frozen(mlps) else ()
    return (freeze_pattern(under=(held, *still, *_listed(ablation))), held)


def path_patch(
    senders: Several | TargetLike,
    receivers: TargetLike,
    *,
    source: Run | PromptsLike | None = None,
    mlps: str = "recomputed",
    positions: PositionsLike = ALL,
    strength: float = 1.0,
) -> PathPatch:
    """Let senders act on receivers directly and on nothing else; see `PathPatch`.

    Senders are interventions, or heads and sites that are patched from `source`. Receivers are heads (their queries,
    keys and values), ("q", layer) and the like, patterns, or a place in the residual stream; what reaches the last
    `resid_post` reaches the logits.

    >>> str(path_patch(zero("0.3"), "1.0"))
    'path_patch [zero 0.3] -> 1.0, MLPs recomputed'
    """
    if isinstance(senders, Intervention):
        acting: tuple[Intervention, ...] = (senders,)
    elif source is not None:
        acting = (patch(senders, source=source),)  # type: ignore[arg-type]
    else:
        acting = _listed(senders)  # type: ignore[arg-type]
    where = Positions.of(positions)
    return PathPatch(targets_of(receivers), where, senders=acting, mlps=mlps, strength=strength)


def patch(
    target: TargetLike,
    *,
    source: Run | PromptsLike,
    positions: PositionsLike | Mapping[int, int] = ALL,
    strength: float = 1.0,
    beyond_window: bool = False,
) -> Patch:
    """Put what `source` had at heads or a site into this run; see `Patch`.

    `positions={source: target}` says which position goes where between prompts of unequal length.
    """
    origin = source if isinstance(source, Run) else Prompts.given(source)
    mapped, where = None, ALL
    if isinstance(positions, Mapping):
        mapped = tuple((int(a), int(b)) for a, b in positions.items())
    else:
        where = Positions.of(positions)
    return Patch(
        targets_of(target), where, source=origin, position_map=mapped, strength=strength, beyond_window=beyond_window
    )


def add(
    target: TargetLike,
    vector: Tensor | Sequence[float],
    *,
    scale: float = 1.0,
    positions: PositionsLike = ALL,
    strength: float = 1.0,
) -> Add:
    """Add `scale * vector` to heads or a site; see `Add`."""
    where = Positions.of(positions)
    return Add(targets_of(target), where, vector=torch.as_tensor(vector), scale=scale, strength=strength)


def set_values(
    target: TargetLike, values: Tensor, *, added: bool = False, positions: PositionsLike = ALL, strength: float = 1.0
) -> SetValues:
    """Put values written out, [example, width], in place of heads or a site, or add them; see `SetValues`.

    >>> str(set_values(("resid_pre", 2), torch.ones(1, 8), positions=-1))
    'set values resid_pre[2] at -1'
    """
    where = Positions.of(positions)
    return SetValues(targets_of(target), where, values=values, added=added, strength=strength)


def _listed(given: Several) -> tuple[Intervention, ...]:
    listed = (given,) if isinstance(given, Intervention) else tuple(given)
    for edit in listed:
        if not isinstance(edit, Intervention):
            raise BadArgument(
                f"cannot take {edit!r} for an intervention: build one, for example hs.zero('0.1'), or name a "
                "source= from which heads or sites are patched."
            )
    return listed
