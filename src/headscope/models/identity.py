"""What a model is at this moment, so that a change is noticed: cheaply before each use, in full for its identity.

In: a model of transformers. Out: its modules with what each computes, a number that changes whenever weights or the
adapters in force do, and the hash of everything that decides what it computes.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from headscope.models.adapters import switches
from headscope.models.quantized import scales


def state_of(parts: Sequence[Any]) -> int:
    """A number that changes with weights that are seen to change, with `parts` (of `built`) and with adapters.

    It is asked for before every use of a model, so that modules are walked once, in `built`.
    """
    modules: Sequence[nn.Module] = parts[::2]
    tensors = (each for module in modules for each in (*module._parameters.values(), *module._buffers.values()))
    # What offloading moves in inference mode has no version.
    versions = ((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors if t is not None)
    return hash((*map(id, parts), switches(modules), *versions))


def content_hash(hf: Any) -> str:
    """A hash of configuration, weights and modules."""
    sha = hashlib.sha256(hf.config.to_json_string().encode())
    # A module of another class does other things with the same weights.
    sha.update(" ".join(type(module).__qualname__ for module in hf.modules()).encode())
    for module in hf.modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str)}
        sha.update(repr(sorted(plain.items())).encode())
        sha.update(_patched(module))
    sha.update("".join(switches(hf.modules())).encode())
    # Buffers that are not saved (rotary frequencies) decide what a model computes as well.
    tensors = {**dict(hf.named_parameters()), **dict(hf.named_buffers())}
    for path, module in hf.named_modules():
        tensors |= {f"{path} scale {index}": each for index, each in enumerate(scales(module))}
    for name, weights in sorted(tensors.items()):
        sha.update(name.encode())
        if weights.is_meta:  # offloaded: its bytes are elsewhere
            sha.update(str(tuple(weights.shape)).encode())
            continue
        sha.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return "sha256:" + sha.hexdigest()[:16]


def built(hf: nn.Module) -> tuple[Any, ...]:
    """Every module, each followed by what it computes."""
    return tuple(part for module in hf.modules() for part in (module, _forward_of(module)))


def _forward_of(module: nn.Module) -> Any:
    """The forward of a module's class, or one that was assigned on the module itself."""
    own: Any = vars(module).get("forward")
    while hasattr(own, "stands_for"):  # a replay of ours is under way, perhaps in another thread
        own = own.stands_for
    if own is None or (getattr(own, "__self__", None) is module and own.__func__ is type(module).forward):
        return type(module).forward
    return own


def _patched(module: nn.Module) -> bytes:
    """What tells a forward that was assigned on a module from that of its class; nothing of accelerate's, which moves
    weights and computes the same."""
    own = _forward_of(module)
    if own is type(module).forward or getattr(getattr(own, "func", None), "__module__", "") == "accelerate.hooks":
        return b""
    code = getattr(own, "__code__", None)
    return f"{own!r}".split(" at 0x")[0].encode() + (b"" if code is None else code.co_code)
