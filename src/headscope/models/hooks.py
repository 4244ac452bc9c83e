"""Reading and changing the residual sites and `z` of a forward pass, through hooks on the found modules.

In: the anatomy, the prepared edits of sites, and the sites that someone wants to keep. Out: a context in
which one run is edited and captured. Hooks are put before all others, so that `output_hidden_states` and
users' own hooks see edited values, and reads are cloned, since some families change them in place. A hook
on a module is seen by every thread; each therefore acts only where its run is the current one.

    layer           enters: embed (layer 0), resid_pre                          leaves: resid_post
      attention       q, k, v, pattern are not hooked: models.tap
        projection    enters: z
      attention term                            leaves: attn_out; resid_mid = what entered the layer + attn_out
      MLP term                                  leaves: mlp_out

At each name `_visit` first changes the value, then keeps a copy: what is captured is what the model goes on with.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from headscope.models.anatomy import Anatomy, Term
from headscope.models.layout import Layout
from headscope.models.protocols import SiteEdit
from headscope.models.tap import Tap

Change = Callable[[Tensor, Layout], Tensor]
Captured = dict[tuple[str, int], Tensor]


def kept_copy(value: Tensor) -> tuple[Tensor, Tensor]:
    """A copy to keep, and what the model goes on with: made from the copy where gradients must reach it.

    Not the copy itself: model files that add to it in place (falcon) would change what is kept.
    """
    copy = value.clone()
    return copy, (copy.clone() if value.requires_grad else value)


class SiteHooks:
    """Hooks of one run on the layers of one model.

    `captured` is filled as the run goes: (site, layer) -> [batch, position, ...].
    """

    def __init__(
        self, anatomy: Anatomy, tap: Tap, edits: Sequence[SiteEdit], wanted: Sequence[tuple[str, int]]
    ) -> None:
        self._anatomy, self._tap = anatomy, tap
        self._changes: dict[tuple[str, int], list[Change]] = defaultdict(list)
        for edit in edits:
            self._changes[edit.site, edit.layer].append(edit.change)
        self._wanted = frozenset(wanted)
        self._stream: dict[int, Tensor] = {}
        self.captured: Captured = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Edit and capture until the block ends; hooks are removed by an exception too."""
        with ExitStack() as stack:
            for index, layer in enumerate(self._anatomy.layers):
                for handle in self._hooks_of(index, layer):
                    stack.callback(handle.remove)
            yield

    def _hooks_of(self, index: int, layer: Any) -> Iterator[Any]:
        keeps_stream = self._touches("resid_mid", index)
        if self._touches("resid_pre", index) or self._touches("embed", index) or keeps_stream:
            yield self._before(layer.module, index, self._enter_layer)
        if self._touches("resid_post", index):
            yield self._after(layer.module, index, self._leave_layer)
        if self._touches("attn_out", index) or keeps_stream:
            yield self._after(layer.attention_term.module, index, self._leave_attention)
        if self._touches("mlp_out", index):
            yield self._after(layer.mlp_term.module, index, self._leave_mlp)
        if self._touches("z", index):
            yield self._before(layer.projection, index, self._enter_projection)

    def _touches(self, site: str, layer: int) -> bool:
        return (site, layer) in self._changes or (site, layer) in self._wanted

    def _visit(self, site: str, layer: int, value: Tensor) -> Tensor:
        """Change and keep the value of one site."""
        for change in self._changes.get((site, layer), ()):
            self._tap.reached.add((site, layer))
            value = change(value, self._tap.layout)
        if (site, layer) in self._wanted:
            self.captured[site, layer], value = kept_copy(value)
        return value

    def _enter_layer(self, layer: int, stream: Tensor) -> Tensor:
        if layer == 0:
            stream = self._visit("embed", 0, stream)
        stream = self._visit("resid_pre", layer, stream)
        if self._touches("resid_mid", layer):
            self._stream[layer] = stream
        return stream

    def _leave_layer(self, layer: int, stream: Tensor) -> Tensor:
        return self._visit("resid_post", layer, stream)

    def _leave_attention(self, layer: int, output: Tensor) -> Tensor:
        anatomy = self._anatomy.layers[layer]
        term = anatomy.attention_term
        assert term is not None
        assert anatomy.carry is not None
        scaled = self._scaled(term, output)
        added = self._visit("attn_out", layer, scaled)
        if self._touches("resid_mid", layer):
            stream = self._stream.pop(layer)
            carried = stream if anatomy.carry == 1.0 else stream * anatomy.carry
            middle = carried + added
            changed = self._visit("resid_mid", layer, middle)
            # Written through the attention term: a hook on the norm that follows would miss the skip path.
            if changed is not middle:
                added = changed - carried
        # Untouched, the module's own output goes on: scaled and unscaled again it could lose a bit.
        return output if added is scaled else self._unscaled(term, added, output)

    def _leave_mlp(self, layer: int, output: Tensor) -> Tensor:
        term = self._anatomy.layers[layer].mlp_term
        assert term is not None
        scaled = self._scaled(term, output)
        added = self._visit("mlp_out", layer, scaled)
        return output if added is scaled else self._unscaled(term, added, output)

    def _enter_projection(self, layer: int, mixed: Tensor) -> Tensor:
        anatomy = self._anatomy.layers[layer]
        rows = len(self._tap.layout.lengths)
        by_head = mixed.reshape(rows, -1, anatomy.heads, anatomy.head_dim)
        changed = self._visit("z", layer, by_head)
        return mixed if changed is by_head else changed.reshape(mixed.shape)

    def _scaled(self, term: Term, output: Tensor) -> Tensor:
        rows = len(self._tap.layout.lengths)
        output = output.reshape(rows, -1, output.shape[-1])
        return output if term.scale == 1.0 else output * term.scale

    def _unscaled(self, term: Term, added: Tensor, like: Tensor) -> Tensor:
        return (added if term.scale == 1.0 else added / term.scale).reshape(like.shape)

    def _before(self, module: nn.Module, layer: int, visit: Callable[[int, Tensor], Tensor]) -> Any:
        # While one thread removes its hooks, torch may call them in another without keyword arguments.
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            if kwargs is None or not self._tap.is_current:
                return None
            if args:
                return (visit(layer, args[0]), *args[1:]), kwargs
            name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            return args, {**kwargs, name: visit(layer, kwargs[name])}

        return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)

    def _after(self, module: nn.Module, layer: int, visit: Callable[[int, Tensor], Tensor]) -> Any:
        def hook(_: nn.Module, args: Any, result: Any) -> Any:
            if not self._tap.is_current:
                return None
            if isinstance(result, tuple | list):
                return type(result)([visit(layer, result[0]), *result[1:]])
            return visit(layer, result)

        return module.register_forward_hook(hook, prepend=True)
