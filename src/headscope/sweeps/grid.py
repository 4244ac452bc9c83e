"""Grids: one intervention as a template, and the cells that fill in its layer, head and position.

In: a template ("patch resid_pre from the clean run") and axes. Out: cells, each a set of interventions
with the coordinates under which its result is filed. A cell is plain frozen data with a hash, so a sweep
can be planned, resumed and joined by cell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from headscope.errors import BadArgument
from headscope.interventions.base import Intervention
from headscope.interventions.targets import BY_HEAD
from headscope.vocabulary import Head, whole_numbers

Axis = Sequence[int] | Literal["all"] | None


@dataclass(frozen=True)
class Cell:
    """Interventions that are applied together, and where their result belongs; None = not an axis."""

    interventions: tuple[Intervention, ...]
    layer: int | None = None
    head: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        return "; ".join(map(str, self.interventions))


@dataclass(frozen=True)
class Grid:
    """A template and its axes; "all" is resolved against a model and its prompts by `cells`."""

    template: Intervention
    layers: Axis = None
    heads: Axis = None
    positions: Axis = None

    def cells(self, n_layers: int, heads: Sequence[Head], length: int) -> list[Cell]:
        """All cells, layer by layer."""
        listed = []
        for layer in _along(self.layers, range(n_layers)):
            own = [head.index for head in heads if head.layer == layer]
            for head, position in product(_along(self.heads, own), _along(self.positions, range(length))):
                edit = self.template.at(layer=layer, head=head, position=position)
                listed.append(Cell((edit,), layer, head, position))
        return listed


def grid(template: Intervention, *, layers: Axis = None, heads: Axis = None, positions: Axis = None) -> Grid:
    """Cells for every combination of the given axes: a list of numbers, or "all".

    >>> from headscope.interventions import zero
    >>> cells = grid(zero("attn_out"), layers=[0, 2]).cells(3, [], 10)
    >>> [str(cell.interventions[0]) for cell in cells]
    ['zero attn_out[0]', 'zero attn_out[2]']

    Raises:
        BadArgument: if a template without a layer gets no layers, heads come without layers or with a site
            that has none of its own, or an axis is neither a list of numbers nor "all".
    """
    given = {"layers": layers, "heads": heads, "positions": positions}
    axes = {name: _checked(name, axis) for name, axis in given.items()}
    if template.is_template and layers is None:
        raise BadArgument("cannot build a grid from a template without a layer: pass layers=, for example 'all'.")
    if heads is not None and layers is None:
        raise BadArgument("cannot build a grid over heads without layers: pass layers=, for example 'all'.")
    named = [target for target in template.targets if target.layer is not None]
    if named and layers is not None:
        raise BadArgument(
            f"cannot build a grid over layers from {str(template)!r}: it names its own layer. Name a site alone in "
            "the template, for example 'z', or leave layers= away."
        )
    other = [target.site for target in template.targets if target.site not in BY_HEAD]
    if heads is not None and other:
        raise BadArgument(
            f"cannot build a grid over heads from {str(template)!r}: a head is its slice of 'z', not of "
            f"{other[0]!r}. Name 'z' in the template, or leave heads= away."
        )
    return Grid(template, **axes)


def each_head(template: Intervention, heads: Iterable[Head]) -> list[Cell]:
    """One cell per head, for a template that names any head or `z`."""
    return [
        Cell((template.at(layer=head.layer, head=head.index),), layer=head.layer, head=head.index) for head in heads
    ]


def _checked(name: str, axis: Axis) -> Axis:
    if axis is None or (isinstance(axis, str) and axis == "all"):
        return axis
    numbers = whole_numbers(axis) if isinstance(axis, Iterable) else None
    if numbers is None:
        raise BadArgument(f"cannot use {name}={axis!r}: give a list of numbers, for example [0, 1], or 'all'.")
    return numbers


def _along(axis: Axis, everything: Sequence[int]) -> Sequence[int | None]:
    if axis is None:
        return (None,)
    return everything if isinstance(axis, str) else axis
