"""Which cell of a padded batch is which position of which example.

A forward pass works on *cells*: columns of a padded batch, or the few new columns of one step of a cached
generation. A user thinks in *positions*: real tokens counted from 0. The layout is the map between the two, and
the only place where padding is known. It is advanced once per forward pass, so that positions stay absolute.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from headscope.errors import UnservedSite
from headscope.tasks.prompts import Prompts, Role
from headscope.vocabulary import Positions


class Layout:
    """Positions of the cells of the forward pass that is under way.

    `lengths` are those of the examples; `ends`, where it differs, is where negative positions count from.
    `growing` is for generation, which pads on the left and goes beyond the prompts.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        roles: Mapping[str, Role],
        *,
        ends: Sequence[int] | None = None,
        growing: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.lengths = torch.tensor(lengths, device=device)
        self._ends = torch.tensor(ends or lengths, device=device)
        self._roles = roles
        self._pads = self.lengths.max() - self.lengths if growing else torch.zeros_like(self.lengths)
        self.growing = growing
        self.cells_seen = 0
        self.cells_now = 0

    @classmethod
    def of(cls, prompts: Prompts, device: torch.device | str, *, growing: bool = False) -> "Layout":
        """For one forward pass over right-padded prompts, or a generation that starts from left-padded ones."""
        return cls(prompts.lengths, prompts.roles, ends=prompts.ends, growing=growing, device=device)

    def advance(self, cells: int) -> None:
        """A forward pass over the next `cells` columns begins."""
        self.cells_seen += cells
        self.cells_now = cells

    def positions(self, cells: int) -> Tensor:
        """Position of each of the last `cells` cells so far, int64 [batch, cell]; -1 at padding."""
        last = torch.arange(self.cells_seen - cells, self.cells_seen, device=self.lengths.device)
        positions = last[None] - self._pads[:, None]
        real = positions >= 0
        if not self.growing:
            real &= positions < self.lengths[:, None]
        return torch.where(real, positions, -1)

    def mask(self, wanted: Positions, cells: int) -> Tensor:
        """Which of the last `cells` cells are at these positions, bool [batch, cell]."""
        positions = self.positions(cells)
        if wanted.role is not None:
            mask = torch.zeros_like(positions, dtype=torch.bool)
            for row, marked in enumerate(self._roles[wanted.role]):
                mask[row] = torch.isin(
                    positions[row], torch.tensor(marked, device=positions.device, dtype=positions.dtype)
                )
            return mask
        if wanted.indices is None:
            return positions >= 0
        mask = torch.zeros_like(positions, dtype=torch.bool)
        for index in wanted.indices:
            target = self._ends + index if index < 0 else torch.full_like(self._ends, index)
            mask |= positions == target[:, None]
        return mask

    def key_cells(self, wanted: Tensor, keys: int, needed: Tensor) -> Tensor:
        """Where positions stand on a key axis of `keys` cells, int64 of the shape of `wanted` [batch, query].

        `needed`, bool of the same shape, says where it matters; elsewhere any cell may come back.

        Raises:
            UnservedSite: if a windowed cache has already dropped a needed one.
        """
        cells = wanted + self._pads[:, None] - (self.cells_seen - keys)
        # Only a cache can drop keys; asking the device elsewhere would make it wait for nothing.
        if self.growing and bool(((cells < 0) & needed).any()):
            position = int(wanted[(cells < 0) & needed].min())
            raise self.dropped(f"redirect attention to position {position}")
        return cells.clamp(0, keys - 1)

    @staticmethod
    def dropped(doing: str) -> UnservedSite:
        """The error for a key that a sliding-window cache no longer holds."""
        return UnservedSite(
            f"cannot {doing}: the sliding-window cache of this model has dropped it. Generate fewer tokens than "
            "the window, or run without a cache."
        )
