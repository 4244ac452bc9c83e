"""Cutting: what a head or a site does is removed, and something that carries nothing is left in its place.

`Zero` leaves nothing, which is far from anything the model has seen. `Mean` leaves what is usual over a
*stated* reference; over prompts of the same task the mean itself contains the task. `ToBOS` lets a head
rest. Which of them is right depends on the question, so all are one family with one interface.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.errors import PromptError, UnservedSite
from headscope.interventions.base import Intervention, site_edit
from headscope.interventions.targets import Target
from headscope.models.attention import AttentionCall
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.specs import digest
from headscope.tasks.prompts import Prompts

if TYPE_CHECKING:
    from headscope.models.model import Model


@dataclass(frozen=True, eq=False)
class Zero(Intervention):
    """Put zero in place of a head's output (its slice of z) or of a site."""

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        return site_edit(target, self.positions, lambda value, _: value.new_zeros(()))


@dataclass(frozen=True, eq=False)
class Mean(Intervention):
    """Put the mean over reference prompts in place of a head's output or of a site.

    The mean runs over all real positions of the reference, or over its examples at each position alone
    (`per_position`; the reference must then reach every position). It assumes that the reference does not
    hold what is studied: take prompts of other tasks, or with shuffled labels.
    """

    over: Prompts = field(kw_only=True)
    per_position: bool = field(default=False, kw_only=True)

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> SiteEdit:
        if target.site == "pattern":
            raise UnservedSite("cannot take the mean of 'pattern': prompts do not align its keys.")
        if self.per_position and min(self.over.lengths) < prompts.longest:
            raise PromptError(
                f"cannot take a mean per position: the shortest reference prompt has {min(self.over.lengths)} "
                f"tokens, the longest prompt {prompts.longest}. Give longer reference prompts."
            )
        mean = self._mean(target, model)

        def replacement(value: Tensor, layout: Layout) -> Tensor:
            if not self.per_position:
                return mean
            positions = layout.positions(value.shape[1])
            if layout.growing and bool((positions >= len(mean)).any()):
                raise PromptError(
                    f"cannot take a mean at position {len(mean)}: the reference prompts end there. "
                    "Name positions= within the prompt, or give longer reference prompts."
                )
            return mean[positions.clamp(0, len(mean) - 1)]

        return site_edit(target, self.positions, replacement)

    def _mean(self, target: Target, model: "Model") -> Tensor:
        """[(position,) ...] of the site; computed once per model, site and reference."""
        key = f"mean {target.site} {target.layer} {self.per_position} {digest(self.over)}"
        assert target.layer is not None
        layer = target.layer

        def compute() -> Tensor:
            value = model.run(self.over, capture=(target.site, layer))[target.site, layer]
            real = self.over.real.to(value.device).reshape(*self.over.real.shape, *[1] * (value.ndim - 2))
            total = torch.where(real, value, 0)
            if self.per_position:
                return total.sum(0) / real.sum(0)
            return total.sum((0, 1)) / real.sum()

        return model.remember(key, compute)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class ToBOS(Intervention):
    """Let heads attend to the first token and nothing else, at the given query positions.

    Assumes that attending to the first token is how this head rests, so that what is removed is what it
    does *beyond* resting (Janiak et al. 2023). Where that is doubtful, compare with `Mean`. Values are
    untouched; other positions and heads are untouched. In a layer with a sliding window this reaches the
    first token from where the head itself could not; once a cache has dropped it, that is refused.
    """

    @property
    def verb(self) -> str:
        return "to_bos"

    def edit_of(self, target: Target, model: "Model", prompts: Prompts) -> CallEdit:
        assert target.layer is not None
        if target.site != "z":
            raise UnservedSite(f"cannot redirect {target.site!r} to the first token: name heads or a layer.")
        model.require_service("to_bos", target.layer)
        anatomy = model.layer(target.layer)
        heads = range(anatomy.heads) if target.heads is None else target.heads

        def change(call: AttentionCall, layout: Layout) -> None:
            rows = layout.mask(self.positions, call.out.shape[1])
            cells = layout.key_cell(0, call.keys, rows.any(dim=1))
            for head in heads:
                call.redirect(head, rows, cells)

        return CallEdit(target.layer, change)
