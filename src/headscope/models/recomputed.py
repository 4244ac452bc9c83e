"""Interventions that follow the text: in generation they are prepared anew for every token.

An intervention may take its values from other runs of the very tokens that are being run (patterns frozen
to those of the clean run; path patching). Before every forward pass of a generation it is prepared on the prompts
and all that was generated so far. That costs a full pass per token for each run that it needs: exact, not fast.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from headscope.models.protocols import CallEdit, Edit, SiteEdit
from headscope.tasks.prompts import Prompts

if TYPE_CHECKING:
    from headscope.models.model import Model


class RecomputedEdits:
    """The prepared edits of one generation, replaced before each of its forward passes.

    `given` are the interventions, `first` what they change on the prompts themselves.
    """

    def __init__(
        self, model: "Model", prompts: Prompts, given: Sequence[Edit], first: Sequence[SiteEdit | CallEdit]
    ) -> None:
        self._model, self._prompts, self._given, self._now = model, prompts, given, first
        self._generated: list[list[int]] = [[] for _ in prompts.tokens]
        self._begun = False

    @property
    def edits(self) -> list[SiteEdit | CallEdit]:
        """Edits of the same places that always do what was prepared last."""
        return [self._latest(index, edit) for index, edit in enumerate(self._now)]

    def before(self, ids: Tensor) -> None:
        """Called ahead of each forward pass with its token ids [batch, cell]."""
        if not self._begun:  # the prompts themselves, for which everything is prepared
            self._begun = True
            return
        for row, tokens in zip(self._generated, ids.tolist(), strict=True):
            row.extend(tokens[-1:])
        grown = self._prompts.grown(self._generated)
        self._now = self._model.changes_of(self._given, grown)

    def _latest(self, index: int, first: SiteEdit | CallEdit) -> SiteEdit | CallEdit:
        def change(*given: Any) -> Any:
            return self._now[index].change(*given)

        return replace(first, change=change)  # type: ignore[arg-type]
