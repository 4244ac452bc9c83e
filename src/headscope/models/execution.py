"""Running a model with edits and captures: what `run`, `generate` and `read` have in common.

In: the model's anatomy, prepared edits, the sites to keep. Out: a context in which every forward pass of
this thread is edited and captured, positions being right in each pass of a cached generation too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headscope.errors import UnservedSite
from headscope.models.anatomy import Anatomy
from headscope.models.attention import AttentionCall
from headscope.models.devices import uncompiled
from headscope.models.hooks import SiteHooks
from headscope.models.inline import watching
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.models.tap import Tap, aside

Reader = Callable[[AttentionCall], None]


@contextmanager
def edited(
    root: nn.Module,
    anatomy: Anatomy,
    layout: Layout,
    *,
    edits: Sequence[SiteEdit | CallEdit] = (),
    wanted: Sequence[tuple[str, int]] = (),
    reader: Reader | None = None,
    before: Callable[[Tensor], None] | None = None,
) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Edit and capture every forward pass of `root` until the block ends; yields what is captured.

    `reader` sees the finished attention call of every layer. `before` is called with the token ids of every
    forward pass ahead of it; what it runs itself is neither edited nor captured.
    """
    captured: dict[tuple[str, int], Tensor] = {}
    kept: list[SiteEdit | CallEdit] = []
    last: list[SiteEdit] = []
    readers: dict[int, list[Reader]] = defaultdict(list)
    for site, layer in wanted:
        keep = SiteEdit(site, layer, partial(_keep, captured, (site, layer)))
        if site in ("q", "k", "v"):
            # After all edits, before the kernel, so that gradients pass through the copy.
            kept.append(keep)
        elif site != "pattern":
            last.append(keep)
        elif torch.is_grad_enabled():
            # A pattern read beside the kernel has no part in the logits: for gradients it must be written.
            kept.append(CallEdit(layer, partial(_keep_pattern, captured)))
        else:
            readers[layer].append(partial(_keep_pattern, captured))
    if reader is not None:
        for layer in anatomy.attending:
            readers[layer].append(reader)
    tap = Tap(anatomy.through_interface, layout, edits=[*edits, *kept], readers=readers)
    keeper = Tap({}, layout, edits=last)
    with (
        uncompiled(root),
        tap.active(),
        keeper.active(),
        _counting_cells(root, tap, before),
        SiteHooks(anatomy, tap).active(),
        SiteHooks(anatomy, keeper, last=True).active(),
        watching(tap, anatomy.inline),
    ):
        yield captured
    for edit in edits:
        place = ("call" if isinstance(edit, CallEdit) else edit.site, edit.layer)
        if place not in tap.reached:
            raise UnservedSite(
                f"the intervention on {place[0]!r} in layer {place[1]} was never reached by the forward pass: "
                "this model does not come by there. Nothing was changed."
            )


def _keep(captured: dict[tuple[str, int], Tensor], place: tuple[str, int], value: Tensor, _: Layout) -> Tensor:
    captured[place] = value.clone()
    # Where gradients must reach the copy, the model goes on with one made from it. Not the copy itself: model files
    # that add to it in place (falcon) would change what is kept.
    return captured[place].clone() if value.requires_grad else value


def _keep_pattern(captured: dict[tuple[str, int], Tensor], call: AttentionCall, layout: Layout | None = None) -> None:
    captured["pattern", call.layer] = pattern = call.pattern().clone()
    if layout is not None:  # called as an edit
        call.write_pattern(pattern)


@contextmanager
def _counting_cells(root: nn.Module, tap: Tap, before: Callable[[Tensor], None] | None) -> Iterator[None]:
    """Advance the tap's layout at the start of every forward pass of `root`."""

    # While one thread removes its hook, torch may call it in another without keyword arguments.
    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if kwargs is None or not tap.is_current:
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        cells = (kwargs["inputs_embeds"] if ids is None else ids).shape[1]
        # Nothing is cached, or a model without a cache is handed one all the same: it starts at the first cell again.
        if kwargs.get("past_key_values") is None or cells > 1:
            tap.layout.cells_seen = 0
        tap.layout.advance(cells)
        if before is not None and ids is not None:
            with aside():
                before(ids)

    with root.register_forward_pre_hook(begin, with_kwargs=True, prepend=True):
        yield


def gradients(wanted: bool) -> torch.no_grad | torch.enable_grad:
    """No gradients unless they are asked for.

    Not inference mode: what it returns can neither be changed in place nor meet a trained weight again.
    """
    return torch.enable_grad() if wanted else torch.no_grad()
