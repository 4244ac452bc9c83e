"""What quantised layers keep beside their parameters: the scales that packed weights are multiplied by.

bitsandbytes hangs them on the parameter (`SCB` of 8 bits, `quant_state` of 4), or on the module once it has run. They
decide what a model computes, so they are part of its identity.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def scales(module: nn.Module) -> Iterator[Tensor]:
    """The scales of a module's packed weights; none for a plain one."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    for holder in (weight, vars(module).get("state")):
        if isinstance(getattr(holder, "SCB", None), Tensor):
            yield holder.SCB  # type: ignore[union-attr]
            break
    yield from _within(getattr(weight, "quant_state", None))


def _within(state: Any) -> Iterator[Tensor]:
    """The tensors of a state of 4 bits, whose scales may be quantised too."""
    for _, value in sorted(vars(state).items()) if hasattr(state, "absmax") else ():
        if isinstance(value, Tensor):
            yield value
        else:
            yield from _within(value)
