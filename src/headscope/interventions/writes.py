"""Writing: what another run had at a place is put there (patching), or a vector is added.

`Patch` moves activations of a source run into this one, the causal test of "is the information here?"
(activation patching, Meng et al. 2022, Zhang & Nanda 2024). Between prompts of unequal length there is no
natural way to say which position goes where, so a map is demanded. `Add` is steering.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from headscope.errors import BadArgument, OutOfRange, PositionMapNeeded, UnservedSite
from headscope.interventions.base import Intervention
from headscope.interventions.references import by_cell, onto_keys, require_positions, values_at
from headscope.interventions.targets import Target
from headscope.models.layout import Layout
from headscope.models.protocols import SiteEdit
from headscope.models.run import Run
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions, Rows

if TYPE_CHECKING:
    from headscope.models.model import Model

PositionMap = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Patch(Intervention):
    """Put what a source run had at a target into this run.

    `source` is a run that captured the site, or prompts to be run for it (unedited); it has one example
    for each example here, or one for all; a run of another model of the same shape is taken as it is, for
    patching between checkpoints. `position_map` pairs source and target positions, negative
    ones counted from the end of each example; without it both have equal lengths and `positions` apply. A pattern
    that looks outside the window of its layer (one made by `ToBOS`, or by another model) needs `beyond_window`.
    """

    source: Run | Prompts = field(kw_only=True)
    position_map: PositionMap | None = field(default=None, kw_only=True)
    beyond_window: bool = field(default=False, kw_only=True)

    @property
    def details(self) -> str:
        return " beyond its window" if self.beyond_window else ""

    def __post_init__(self) -> None:
        super().__post_init__()
        into = [target for _, target in self.position_map or ()]
        if twice := sorted({target for target in into if into.count(target) > 1}):
            raise BadArgument(f"cannot patch two source positions into position {twice[0]}: name one of them.")

    def _at_position(self, position: int) -> Self:
        if self.position_map is not None:
            raise BadArgument("cannot fill in positions of a patch that has a position map: give one of them.")
        return super()._at_position(position)

    def rows(self, chosen: Rows) -> Self:
        count = len(self._source_prompts)
        if count == 1:
            return self
        stop = chosen.stop if isinstance(chosen, slice) else max(chosen) + 1
        if stop is not None and stop > count:
            raise self._other_count("more")
        return replace(self, source=self.source.rows(chosen))

    @property
    def _source_prompts(self) -> Prompts:
        return self.source.prompts if isinstance(self.source, Run) else self.source

    def _other_count(self, into: object) -> BadArgument:
        count = len(self._source_prompts)
        return BadArgument(f"cannot patch {count} source examples into {into}: give one for each, or one for all.")

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        source = self._source_prompts
        if len(source) not in (1, len(prompts)):
            raise self._other_count(len(prompts))
        if target.site == "pattern" and (self.position_map or not _aligned(source, prompts)):
            raise UnservedSite("cannot patch 'pattern' between prompts of unequal length: its keys do not align.")
        if isinstance(self.source, Run):
            value = by_cell(target.site, self.source[target.place])
        else:
            value = values_at(model, source, [target.place])[target.place]
        require_positions(value, target.place, source)
        lookup = self._lookup(source, prompts).to(value.device)

        def replacement(current: Tensor, layout: Layout) -> Tensor:
            cells = layout.positions(current.shape[1])
            rows = torch.arange(len(cells), device=cells.device)[:, None]
            origin = lookup[rows, cells.clamp(0, lookup.shape[1] - 1)]
            # Tokens generated beyond the source have nothing to take: they stay as they are.
            known = (cells >= 0) & (cells < lookup.shape[1]) & (origin >= 0)
            known = known.reshape(*known.shape, *[1] * (current.ndim - 2))
            taken = value[rows if len(value) > 1 else 0, origin.clamp(min=0)]
            if target.site == "pattern":
                wanted = layout.mask(self.positions, current.shape[1])[:, :, None, None]
                taken = onto_keys(torch.where(known & wanted, taken, 0), layout, current.shape[3])
            return torch.where(known, taken.to(current), current)

        return self.site_edit(target, replacement, within_window=target.site == "pattern" and not self.beyond_window)

    def _reached(self) -> Positions:
        if self.position_map is None:
            return self.positions
        return Positions(tuple(into for _, into in self.position_map))

    def _lookup(self, source: Prompts, prompts: Prompts) -> Tensor:
        """Source position of each target position, int64 [batch, position]; -1 where none is named."""
        lengths = source.lengths * (len(prompts) if len(source) == 1 else 1)
        if self.position_map is None:
            if not _aligned(source, prompts):
                raise PositionMapNeeded.between(lengths, prompts.lengths)
            every = torch.arange(prompts.longest).expand(len(prompts), -1)
            return torch.where(every < torch.tensor(lengths)[:, None], every, -1)
        lookup = torch.full((len(prompts), prompts.longest), -1)
        for row, (given, own) in enumerate(zip(lengths, prompts.lengths, strict=True)):
            end = prompts.ends[row]
            for origin, into in self.position_map:
                for index, length, what in ((origin, given, "source"), (into, own, "target")):
                    if not -length <= index < length:
                        raise OutOfRange.index("patch", f"{what} position", index, length, f"example {row}")
                lookup[row, into if into >= 0 else end + into] = origin % given
        return lookup


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """Add `scale` times a vector to a site, or to a head's slice of z.

    `vector` is [model] at a site of the residual stream, [head_dim] for heads.
    """

    vector: Tensor = field(kw_only=True)
    scale: float = field(default=1.0, kw_only=True)

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        if not bool(self.vector.isfinite().all()):
            raise BadArgument(f"cannot add a vector with infinite or undefined entries at {target}.")

        def replacement(value: Tensor, _: Layout) -> Tensor:
            if self.vector.shape != value.shape[-1:]:
                raise BadArgument(
                    f"cannot add a vector of shape {tuple(self.vector.shape)} at {target}: "
                    f"expected ({value.shape[-1]},)."
                )
            return value + self.scale * self.vector.to(value)

        return self.site_edit(target, replacement)


def _aligned(source: Prompts, prompts: Prompts) -> bool:
    """Whether positions need no map: sources as long as the whole, or as the prompts before what was generated."""
    lengths = source.lengths * (len(prompts) if len(source) == 1 else 1)
    return lengths in (prompts.lengths, prompts.ends)
