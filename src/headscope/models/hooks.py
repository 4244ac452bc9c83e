"""Reading and changing the residual sites and `z` of a forward pass, through hooks on the found modules.

In: the anatomy, and the tap that holds the changes of one run. Out: a context in which it applies them.
Hooks that edit are put before all others, so that `output_hidden_states` and users' own hooks see edited values;
those that capture come after all others, so that what is captured is what the next module is given. A hook on a
module is seen by every thread; each therefore acts only where its run is the current one.

    layer           enters: embed (layer 0), resid_pre                          leaves: resid_post
      attention       q, k, v, pattern are not hooked: models.tap
        projection    enters: z
      attention term                            leaves: attn_out; resid_mid = what entered the layer + attn_out
      MLP term                                  leaves: mlp_out

At each name the tap applies its changes. A capture is one too: the model goes on with what is kept.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from headscope.models.anatomy import Anatomy, Term
from headscope.models.tap import Tap


class SiteHooks:
    """Hooks of one run on the layers of one model, before those of others or after them (`last`)."""

    def __init__(self, anatomy: Anatomy, tap: Tap, *, last: bool = False) -> None:
        self._anatomy, self._tap, self._first = anatomy, tap, not last
        self._stream: dict[int, Tensor] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Edit and capture until the block ends; hooks are removed by an exception too."""
        with ExitStack() as stack:
            for index, layer in enumerate(self._anatomy.layers):
                for handle in self._hooks_of(index, layer):
                    stack.enter_context(handle)
            yield

    def _hooks_of(self, index: int, layer: Any) -> Iterator[Any]:
        touched, enter, leave = partial(self._tap.changes, index), self._before, self._after
        if touched("embed", "resid_pre", "resid_mid"):
            yield enter(layer.module, partial(self._enter_layer, index))
        if touched("resid_post"):
            yield leave(layer.module, partial(self._tap.changed, "resid_post", index))
        if touched("attn_out", "resid_mid"):
            yield leave(layer.attention_term.module, partial(self._leave, "attn_out", index, layer.attention_term))
        if touched("mlp_out"):
            yield leave(layer.mlp_term.module, partial(self._leave, "mlp_out", index, layer.mlp_term))
        if touched("z"):
            yield enter(layer.projection, partial(self._enter_projection, index))

    def _enter_layer(self, layer: int, stream: Tensor) -> Tensor:
        if layer == 0:
            stream = self._tap.changed("embed", 0, stream)
        stream = self._tap.changed("resid_pre", layer, stream)
        if self._tap.changes(layer, "resid_mid"):
            self._stream[layer] = stream
        return stream

    def _leave(self, site: str, layer: int, term: Term, output: Tensor) -> Tensor:
        """What a term of a layer returns, changed as what it adds to the residual stream."""
        scaled = output.reshape(len(self._tap.layout.lengths), -1, output.shape[-1])
        if term.scale != 1.0:
            scaled = scaled * term.scale
        added = self._tap.changed(site, layer, scaled)
        if site == "attn_out" and self._tap.changes(layer, "resid_mid"):
            stream, carry = self._stream.pop(layer), self._anatomy.layers[layer].carry
            assert carry is not None
            carried = stream if carry == 1.0 else stream * carry
            middle = carried + added
            changed = self._tap.changed("resid_mid", layer, middle)
            # Written through the attention term: a hook on the norm that follows would miss the skip path.
            if changed is not middle:
                added = changed - carried
        # Untouched, the module's own output goes on: scaled and unscaled again it could lose a bit.
        if added is scaled:
            return output
        return (added if term.scale == 1.0 else added / term.scale).reshape(output.shape)

    def _enter_projection(self, layer: int, mixed: Tensor) -> Tensor:
        anatomy = self._anatomy.layers[layer]
        by_head = mixed.reshape(len(self._tap.layout.lengths), -1, anatomy.heads, anatomy.head_dim)
        changed = self._tap.changed("z", layer, by_head)
        return mixed if changed is by_head else changed.reshape(mixed.shape)

    def _before(self, module: nn.Module, visit: Callable[[Tensor], Tensor]) -> Any:
        # While one thread removes its hooks, torch may call them in another without keyword arguments.
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            if kwargs is None or not self._tap.is_current:
                return None
            if args:
                return (visit(args[0]), *args[1:]), kwargs
            name = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            return args, {**kwargs, name: visit(kwargs[name])}

        return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=self._first)

    def _after(self, module: nn.Module, visit: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: nn.Module, args: Any, result: Any) -> Any:
            if not self._tap.is_current:
                return None
            if isinstance(result, tuple | list):
                return type(result)([visit(result[0]), *result[1:]])
            return visit(result)

        return module.register_forward_hook(hook, prepend=self._first)
