"""What all interventions share: they are frozen data with targets, positions and a canonical hash.

An intervention says *what* is changed and *where*; prepared against a model and its prompts it becomes
edits of single sites (models.protocols). Several are applied in the order of the forward pass, and at one
site in the order given. Nothing outside the targets and positions changes, except as a consequence.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from headscope.errors import BadArgument
from headscope.interventions.targets import Target
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, Footprint, SiteEdit
from headscope.specs import digest
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import ALL, Positions

if TYPE_CHECKING:
    from headscope.models.model import Model

Replacement = Callable[[Tensor, Layout], Tensor]


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """A change of the forward pass, as data. Equal specifications are equal and hash alike."""

    targets: tuple[Target, ...]
    positions: Positions = ALL

    def __post_init__(self) -> None:
        if not self.targets:
            raise BadArgument(f"cannot build {type(self).__name__}: it has no target.")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and digest(self) == digest(other)

    def __hash__(self) -> int:
        return hash(digest(self))

    def __str__(self) -> str:
        where = "" if self.positions == ALL else f" at {self.positions}"
        return f"{self.verb} {' '.join(map(str, self.targets))}{where}"

    @property
    def verb(self) -> str:
        """The word for it in messages and tables."""
        return type(self).__name__.lower()

    @property
    def is_template(self) -> bool:
        """Whether a layer is still to be filled in."""
        return any(target.layer is None for target in self.targets)

    def at(self, *, layer: int | None = None, head: int | None = None, position: int | None = None) -> Self:
        """The same intervention with layer, head or position filled in; see `hs.grid`."""
        targets = tuple(
            Target(
                target.site,
                target.layer if layer is None else layer,
                target.heads if head is None else (head,),
            )
            for target in self.targets
        )
        changed = replace(self, targets=targets)
        return changed if position is None else changed._at_position(position)

    def _at_position(self, position: int) -> Self:
        return replace(self, positions=Positions((position,)))

    def footprint(self) -> Footprint:
        layers = [target.layer for target in self.targets if target.layer is not None]
        sites = frozenset(target.site for target in self.targets)
        return Footprint(min(layers, default=0), self.positions, sites)

    def rows(self, chosen: slice) -> Self:
        """The same intervention for some of the examples."""
        return self

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        edits: list[SiteEdit | CallEdit] = []
        for target in self.targets:
            target.check(model, self.verb)
            edits.append(self.edit_of(target, model, prompts))
        return edits

    @abstractmethod
    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit | CallEdit:
        """The edit of one target, already checked against the model."""


def site_edit(target: Target, positions: Positions, replacement: Replacement) -> SiteEdit:
    """An edit that puts `replacement(value, layout)` at the positions and heads of a target.

    The replacement may be any shape that broadcasts to the value, [batch, cell, (head,) ...].
    """
    assert target.layer is not None

    def change(value: Tensor, layout: Layout) -> Tensor:
        where = layout.mask(positions, value.shape[1])
        where = where.reshape(*where.shape, *[1] * (value.ndim - 2))
        if target.heads is not None:
            chosen = torch.zeros(value.shape[2], dtype=torch.bool, device=value.device)
            chosen[list(target.heads)] = True
            where = where & chosen[:, None]
        return torch.where(where, replacement(value, layout).to(value), value)

    return SiteEdit(target.site, target.layer, change)
