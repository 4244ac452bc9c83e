"""Many edits side by side: each block of rows of one batch gets its own.

In: blocks, each some rows of a batch with the edits that hold there and the layout of its own prompts. Out:
edits of the whole batch, one per place, ready for `models.execution.edited`. An edit sees its own rows and
nothing else, as if they were the batch, so that no intervention needs to know that others stand beside it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.models.attention import AttentionCall, spliced
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.models.tap import rewriting


@dataclass(frozen=True)
class Block:
    """Rows of a batch, the edits that hold there, and the layout of these rows."""

    rows: slice
    edits: Sequence[SiteEdit | CallEdit]
    layout: Layout


def stacked(blocks: Sequence[Block], *, growing: bool = False) -> list[SiteEdit | CallEdit]:
    """The edits of all blocks as edits of the batch.

    With `growing` the blocks' layouts follow that of the batch from pass to pass.
    """
    parts: dict[tuple[str, int], list[tuple[Block, list[Any]]]] = defaultdict(list)
    for block in blocks:
        own: dict[tuple[str, int], list[Any]] = defaultdict(list)
        for edit in block.edits:
            # Whatever concerns the pattern keeps the order in which it was given.
            if isinstance(edit, CallEdit):
                own["call", edit.layer].append(edit.change)
            elif edit.site == "pattern":
                own["call", edit.layer].append(rewriting(edit))
            else:
                own[edit.site, edit.layer].append(edit.change)
        for place, changes in own.items():
            parts[place].append((block, changes))
    return [
        CallEdit(layer, _of_call(every, growing))
        if site == "call"
        else SiteEdit(site, layer, _of_site(every, growing))
        for (site, layer), every in parts.items()
    ]


def _of_site(parts: list[tuple[Block, list[Any]]], growing: bool) -> Any:
    def change(value: Tensor, layout: Layout) -> Tensor:
        changed = []
        for block, changes in parts:
            piece = value[block.rows]
            for own in changes:
                piece = own(piece, _layout(block, layout, growing))
            changed.append((block.rows, piece))
        return spliced(value, changed)

    return change


def _of_call(parts: list[tuple[Block, list[Any]]], growing: bool) -> Any:
    def change(call: AttentionCall, layout: Layout) -> None:
        changed = []
        for block, changes in parts:
            part = call.part(_layout(block, layout, growing), rows=block.rows)
            for own in changes:
                own(part, part.layout)
            changed.append((block.rows, part))
        call.join(changed)

    return change


def _layout(block: Block, whole: Layout, growing: bool) -> Layout:
    if growing:
        block.layout.cells_seen, block.layout.cells_now = whole.cells_seen, whole.cells_now
    return block.layout
