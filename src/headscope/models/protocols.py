"""The two small protocols through which everything else reaches into a forward pass.

An *Edit* changes what happens: prepared against a model and its prompts, it yields edits of single sites.
A *Reading* takes from each attention call what it wants. The model knows nothing of who implements them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from headscope.models.attention import AttentionCall
from headscope.models.layout import Layout
from headscope.tasks.prompts import Prompts
from headscope.vocabulary import Positions, Rows

if TYPE_CHECKING:
    from headscope.models.model import Model

SiteChange = Callable[[Tensor, Layout], Tensor]
CallChange = Callable[[AttentionCall, Layout], None]


@dataclass(frozen=True)
class Footprint:
    """What an edit can change at the earliest: nothing before `layer` nor before its `positions`.

    `recompute_each_token`: it takes its values from other runs of the very tokens that are being run, so that in
    generation it has to be prepared anew for every token.
    """

    layer: int
    positions: Positions
    recompute_each_token: bool = False


@dataclass(frozen=True)
class SiteEdit:
    """A change of one site in one layer.

    `change(value, layout)` returns the new value; it must not write into the old one. Shapes are those
    of the site, the second axis being cells throughout: `pattern` comes as [batch, cell, head, key].
    With `within_window`, the verb for what is done, a pattern that looks outside the window of its layer is refused.
    """

    site: str
    layer: int
    change: SiteChange
    within_window: str = ""


@dataclass(frozen=True)
class CallEdit:
    """A change of one attention call as a whole, after its kernel has run; see `AttentionCall.redirect`."""

    layer: int
    change: CallChange


class Edit(Protocol):
    """An intervention, as the model sees it."""

    def footprint(self) -> Footprint:
        """The earliest layer and the positions it can change."""
        ...

    def prepare(self, model: "Model", prompts: Prompts) -> Sequence[SiteEdit | CallEdit]:
        """The edits of single sites for these prompts; runs of its own (means, sources) happen here.

        Raises:
            HeadscopeError: if a head, layer, position or site does not exist on this model.
        """
        ...

    def rows(self, chosen: Rows) -> "Edit":
        """The same edit for some of the examples; itself unless it carries one value per example."""
        ...


class Reading(Protocol):
    """What wants to see attention calls."""

    def read(self, call: AttentionCall, rows: slice) -> None:
        """Take what is wanted from one layer's call on the examples `rows` of the prompts."""
        ...
