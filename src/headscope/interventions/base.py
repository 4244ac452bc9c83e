"""What all interventions share: they are frozen data with targets, positions, a strength and a canonical hash.

An intervention says *what* is changed and *where*; prepared against a model and its prompts it becomes
edits of single sites (models.protocols). Several are applied in the order of the forward pass, and at one
site in the order given (the pattern, and where heads are made to look, count as one site). Nothing outside
the targets and positions changes, except as a consequence. `strength` mixes what the model computed (0)
with what the intervention puts in its place (1), for dose-response curves.
"""

import re
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from headscope.errors import BadArgument
from headscope.hashing import digest
from headscope.interventions.targets import Target, merged
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, Footprint, SiteEdit
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import ALL, Positions, Rows

if TYPE_CHECKING:
    from headscope.models.model import Model

Replacement = Callable[[Tensor, Layout], Tensor]


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """A change of the forward pass, as data. Equal specifications are equal and hash alike."""

    targets: tuple[Target, ...]
    positions: Positions = ALL
    strength: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.targets:
            raise BadArgument(f"cannot build {type(self).__name__}: it has no target.")
        object.__setattr__(self, "targets", merged(self.targets))
        if isinstance(self.strength, bool) or not 0.0 <= self.strength <= 1.0:
            raise BadArgument(
                f"cannot {self.verb} with strength {self.strength}: it lies between 0 (nothing changes) and 1."
            )
        object.__setattr__(self, "strength", float(self.strength))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and digest(self) == digest(other)

    def __hash__(self) -> int:
        return hash(digest(self))

    def __str__(self) -> str:
        where = "" if self.positions == ALL else f" at {self.positions}"
        mixed = "" if self.strength == 1.0 else f" by {self.strength:g}"
        return f"{self.verb} {' '.join(map(str, self.targets))}{self.details}{where}{mixed}"

    @property
    def verb(self) -> str:
        """The word for it in messages and tables: its class, as in "to_bos"."""
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def details(self) -> str:
        """What else tells this one from another of its kind, as written after its targets."""
        return ""

    @property
    def is_template(self) -> bool:
        """Whether a layer is still to be filled in."""
        return any(target.layer is None for target in self.targets)

    def at(self, *, layer: int | None = None, head: int | None = None, position: int | None = None) -> Self:
        """The same intervention with layer, head or position filled in; see `hs.grid`."""
        targets = tuple(
            Target(target.site, target.layer if layer is None else layer, target.heads if head is None else (head,))
            for target in self.targets
        )
        changed = replace(self, targets=targets)
        return changed if position is None else changed._at_position(position)

    def _at_position(self, position: int) -> Self:
        return replace(self, positions=Positions((position,)))

    def footprint(self) -> Footprint:
        layers = [target.layer if isinstance(target.layer, int) else 0 for target in self.targets]
        return Footprint(min(layers), self.positions)

    def rows(self, chosen: Rows) -> Self:
        """The same intervention for some of the examples."""
        return self

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        return [self.edit_of(target, model, prompts) for target in self._targets_in(model)]

    def _targets_in(self, model: "Model") -> tuple[Target, ...]:
        """The targets on this model, checked, layer by layer and none twice."""
        targets = merged(target for given in self.targets for target in given.within(model))
        for target in targets:
            target.check(model, self.verb)
        if not targets:
            raise BadArgument(f"cannot {self.verb} {self.targets[0]}: no layer of {model.name} has it.")
        return targets

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit | CallEdit:
        """The edit of one target, already checked against the model; unless all are prepared from one run."""
        raise NotImplementedError

    def site_edit(self, target: Target, replacement: Replacement, *, within_window: bool = False) -> SiteEdit:
        """An edit that puts `replacement(value, layout)` at the positions and heads of a target.

        The replacement may be any shape that broadcasts to the value, [batch, cell, (head,) ...]. A pattern that it
        puts is refused, with `within_window`, where it looks outside the window of its layer.
        """
        positions, strength = self._reached(), self.strength

        def change(value: Tensor, layout: Layout) -> Tensor:
            where = layout.mask(positions, value.shape[1])
            where = where.reshape(*where.shape, *[1] * (value.ndim - 2))
            if target.heads is not None:
                chosen = torch.zeros(value.shape[2], dtype=torch.bool, device=value.device)
                chosen[list(target.heads)] = True
                where = where & chosen[:, None]
            put = replacement(value, layout).to(value)
            if strength != 1.0:
                put = torch.lerp(value, put.expand_as(value), strength)
            return torch.where(where, put, value)

        return SiteEdit(*target.place, change, self.verb if within_window else "")

    def _reached(self) -> Positions:
        """The positions whose values change."""
        return self.positions


def heads_in(target: Target, model: "Model") -> Sequence[int]:
    """The heads of a target that names heads or a whole layer."""
    return range(model.layer(target.place[1]).heads) if target.heads is None else target.heads
