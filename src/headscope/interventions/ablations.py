"""Ablation: what a head or a site does is removed, and something that carries nothing is left in its place.

`Zero` leaves nothing, which is far from anything the model has seen. `Mean` leaves what is usual over a
*stated* reference; over prompts of the same task the mean itself contains the task. `Resample` leaves what
the site had on some other prompt, which is never unusual by itself, only in this place. Which of them is
right depends on the question, so all are one family with one interface.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from torch import Tensor

from headscope.errors import PromptError, UnservedSite
from headscope.hashing import digest
from headscope.interventions.base import Intervention
from headscope.interventions.references import extent, mean_at, values_at
from headscope.interventions.targets import Target
from headscope.models.layout import Layout
from headscope.models.protocols import SiteEdit
from headscope.tasks.prompts import Prompts

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True, eq=False)
class Zero(Intervention):
    """Put zero in place of a head's output (its slice of z) or of a site."""

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        return self.site_edit(target, lambda value, _: torch.zeros_like(value))


@dataclass(frozen=True, eq=False)
class _FromReference(Intervention):
    """What is put in place comes from a run of the reference prompts `over`."""

    over: Prompts = field(kw_only=True)

    def _reference(self, target: Target, model: "Model") -> Tensor:
        """[reference example, position, ...] of the site."""
        if target.site == "pattern":
            self._refuse_patterns()
        return values_at(model, self.over, [target.place])[target.place]

    def _refuse_patterns(self) -> NoReturn:
        raise UnservedSite(f"cannot {self.verb} 'pattern': prompts do not align its keys.")

    def _require_reach(self, prompts: Prompts) -> None:
        shortest, (_, last) = min(self.over.lengths), extent(prompts, self.positions)
        if last >= shortest:
            raise PromptError(
                f"cannot {self.verb} per position: the shortest reference prompt has {shortest} tokens, and "
                f"position {last} is asked for. Give longer reference prompts."
            )

    def _within_reach(self, layout: Layout, cells: int) -> Tensor:
        """Positions of the cells [batch, cell], where all of the reference reaches them."""
        positions, known = layout.positions(cells), min(self.over.lengths)
        if layout.growing and bool((layout.mask(self.positions, cells) & (positions >= known)).any()):
            raise PromptError(
                f"cannot {self.verb} at position {known}: the reference prompts end there. "
                "Name positions= within the prompt, or give longer reference prompts."
            )
        return positions.clamp(0, known - 1)


@dataclass(frozen=True, eq=False)
class Mean(_FromReference):
    """Put the mean over reference prompts in place of a head's output or of a site.

    The mean runs over all real positions of the reference, or over its examples at each position alone
    (`per_position`; the reference must then reach every position). It assumes that the reference does not
    hold what is studied: take prompts of other tasks, or with shuffled labels.
    """

    per_position: bool = field(default=False, kw_only=True)

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        if target.site == "pattern":
            self._refuse_patterns()
        if not self.per_position:
            overall = mean_at(model, self.over, *target.place)
            return self.site_edit(target, lambda value, _: overall.expand_as(value))
        self._require_reach(prompts)
        by_position = mean_at(model, self.over, *target.place, per_position=True)
        return self.site_edit(target, lambda value, layout: by_position[self._within_reach(layout, value.shape[1])])


@dataclass(frozen=True, eq=False)
class Resample(_FromReference):
    """Put what a site had on another prompt, drawn at random, in its place.

    Each example draws one prompt of the reference, never one of its own tokens, and takes its value at
    the same position; all targets of one intervention draw the same prompt. Without `per_position` every
    position draws a prompt and a position of its own. The draw is decided by `seed` and the example's own
    tokens, whatever batch it stands in. A single draw is noisy: average over prompts, or over seeds.
    """

    seed: int = field(default=0, kw_only=True)
    per_position: bool = field(default=True, kw_only=True)

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        value = self._reference(target, model)
        if not self.per_position:
            return self._scattered(target, value, prompts)
        self._require_reach(prompts)
        drawn = [
            candidates[int(np.random.default_rng(seed).integers(len(candidates)))]
            for seed, candidates in self._draws(prompts)
        ]
        rows = torch.tensor(drawn, device=value.device)[:, None]
        return self.site_edit(
            target, lambda current, layout: value[rows, self._within_reach(layout, current.shape[1])]
        )

    def _scattered(self, target: Target, value: Tensor, prompts: Prompts) -> SiteEdit:
        """Every position of every example takes a cell of the reference, drawn from all but its own prompt."""
        draws = self._draws(prompts)
        flat = value.flatten(0, 1)
        width = value.shape[1]

        def replacement(current: Tensor, layout: Layout) -> Tensor:
            positions = layout.positions(current.shape[1])
            # Numbers are drawn in order of position, so that a longer text begins with the same ones.
            index = torch.zeros(len(draws), layout.cells_seen, dtype=torch.long)
            for row, (seed, candidates) in enumerate(draws):
                cells = np.array([r * width + p for r in candidates for p in range(self.over.lengths[r])])
                numbers = np.random.default_rng(seed).random(layout.cells_seen)
                index[row] = torch.from_numpy(cells[(numbers * len(cells)).astype(int)])
            rows = torch.arange(len(draws), device=positions.device)[:, None]
            return flat[index.to(value.device)[rows, positions.clamp(min=0)]]

        return self.site_edit(target, replacement)

    def _draws(self, prompts: Prompts) -> list[tuple[int, list[int]]]:
        """For each example a seed of its own and the reference prompts that it may draw."""
        draws = []
        for tokens, end in zip(prompts.tokens, prompts.ends, strict=True):
            own = tokens[:end]
            candidates = [row for row, other in enumerate(self.over.tokens) if other != own]
            if not candidates:
                raise PromptError(
                    "cannot resample: the reference holds no prompt but the example's own. Give other prompts."
                )
            draws.append((int(digest((self.seed, own)), 16), candidates))
        return draws
