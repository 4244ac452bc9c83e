"""Running a model with edits and captures: what `run`, `generate` and `read` have in common.

In: the model's anatomy, prepared edits, the sites to keep. Out: a context in which every forward pass of
this thread is edited and captured. The layout is advanced by a hook on the model itself, so positions are
right in the one pass of a run and in the many of a cached generation alike.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headscope.errors import UnservedSite
from headscope.models.anatomy import Anatomy
from headscope.models.attention import AttentionCall
from headscope.models.devices import uncompiled
from headscope.models.hooks import SiteHooks, kept_copy
from headscope.models.inline import watching
from headscope.models.layout import Layout
from headscope.models.protocols import CallEdit, SiteEdit
from headscope.models.tap import CallChange, Tap, aside, rewriting
from headscope.vocabulary import ATTENTION_SITES

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
    changes: dict[tuple[str, int], list[Any]] = defaultdict(list)
    call_changes: dict[int, list[tuple[str, CallChange]]] = defaultdict(list)
    readers: dict[int, list[Reader]] = defaultdict(list)
    on_modules: list[SiteEdit] = []
    for edit in edits:
        if isinstance(edit, CallEdit):
            call_changes[edit.layer].append(("call", edit.change))
        elif edit.site == "pattern":
            call_changes[edit.layer].append(("pattern", rewriting(edit.change)))
        elif edit.site in ATTENTION_SITES:
            changes[edit.site, edit.layer].append(edit.change)
        else:
            on_modules.append(edit)
    captured: dict[tuple[str, int], Tensor] = {}
    for site, layer in wanted:
        if site == "pattern" and torch.is_grad_enabled():
            # A pattern read beside the kernel has no part in the logits: for gradients it must be written.
            call_changes[layer].append(("pattern", rewriting(_keep_written_pattern(layer, captured))))
        elif site == "pattern":
            readers[layer].append(_keep_pattern(layer, captured))
        elif site in ATTENTION_SITES:
            # After all edits of the site, and before the kernel, so that gradients pass through the copy.
            changes[site, layer].append(_keep(site, layer, captured))
    if reader is not None:
        for layer in anatomy.attending:
            readers[layer].append(reader)
    tap = Tap(anatomy.through_interface, layout, changes=changes, call_changes=call_changes, readers=readers)
    hooks = SiteHooks(anatomy, tap, on_modules, [item for item in wanted if item[0] not in ATTENTION_SITES])
    with (
        uncompiled(root),
        tap.active(),
        _counting_cells(root, tap, before),
        hooks.active(),
        watching(tap, anatomy.inline),
    ):
        yield captured
    captured.update(hooks.captured)
    for edit in edits:
        place = ("call" if isinstance(edit, CallEdit) else edit.site, edit.layer)
        if place not in tap.reached:
            raise UnservedSite(
                f"the intervention on {place[0]!r} in layer {place[1]} was never reached by the forward pass: "
                "this model does not come by there. Nothing was changed."
            )


def _keep(site: str, layer: int, captured: dict[tuple[str, int], Tensor]) -> Any:
    def keep(value: Tensor, _: Layout) -> Tensor:
        captured[site, layer], value = kept_copy(value)
        return value

    return keep


def _keep_written_pattern(layer: int, captured: dict[tuple[str, int], Tensor]) -> Any:
    def keep(value: Tensor, _: Layout) -> Tensor:
        captured["pattern", layer] = value.transpose(1, 2).clone()
        return captured["pattern", layer].transpose(1, 2)

    return keep


def _keep_pattern(layer: int, captured: dict[tuple[str, int], Tensor]) -> Reader:
    def keep(call: AttentionCall) -> None:
        captured["pattern", layer] = call.pattern().clone()

    return keep


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

    handle = root.register_forward_pre_hook(begin, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def gradients(wanted: bool) -> torch.no_grad | torch.enable_grad:
    """No gradients unless they are asked for.

    Not inference mode: what it returns can neither be changed in place nor meet a trained weight again,
    which is the first thing that is done with a captured stream.
    """
    return torch.enable_grad() if wanted else torch.no_grad()
