"""A state dict and its config, read without running anything that is in them.

In: a file of torch.save or safetensors, and perhaps a JSON config. Out: a `LensFile`, tensors by name and
the config as a plain dict. A pickle can run code when it is opened; torch's `weights_only` reader knows
tensors and plain values alone and stops at anything else, which is refused here in one sentence.
"""

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from headscope.errors import BadArgument, BrokenWeights, ModelNotFound, UnsafeWeights, UnservedModel

EMBEDDING = "embed.W_E"
# A config that has one of these is one of TransformerLens, not of transformers.
_TELLING = ("d_model", "n_layers", "n_heads", "d_head")


@dataclass(frozen=True)
class LensFile:
    """Tensors by TransformerLens' names; `config` is None where there is none; `name` is for messages.

    `config_path` is where the config was found.
    """

    name: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    config_path: Path | None = None

    @property
    def told(self) -> Mapping[str, Any]:
        """What the config says; nothing where there is none."""
        return {} if self.config is None else self.config

    def shape(self, tensor: str, n_axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there, with that many axes."""
        if tensor not in self.tensors:
            raise BrokenWeights.importing(self.name, f"it has no tensor {tensor!r}.")
        sizes = tuple(self.tensors[tensor].shape)
        if len(sizes) != n_axes:
            why = f"its tensor {tensor!r} should have {n_axes} axes, and its shape is {list(sizes)}."
            raise BrokenWeights.importing(self.name, why)
        return sizes

    def require_shape(self, tensor: str, wanted: tuple[int, ...]) -> None:
        """Raise `BrokenWeights` if a tensor that is there has another shape."""
        actual = list(self.tensors[tensor].shape)
        if actual != list(wanted):
            why = f"its tensor {tensor!r} should have the shape {list(wanted)}, and has {actual}."
            raise BrokenWeights.importing(self.name, why)


def read(path: Path, config: Path | None = None) -> LensFile:
    """The file at `path` with the config at `config`, or with the config.json beside it, or with none.

    Raises:
        ModelNotFound: if there is no such file, or it is no state dict in this naming.
        UnsafeWeights: if it holds more than tensors and plain values.
        BrokenWeights, BadArgument: if the file or the config cannot be read.
    """
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise ModelNotFound.importing(path, f"{what}. Give the file of a state dict (.pth, .pt, .safetensors).")
    held = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    tensors = _tensors(path, _state_dict(path, held))
    beside = path.parent / "config.json"
    place = config if config is not None else beside if beside.is_file() else None
    return LensFile(str(path), tensors, None if place is None else _config(path, place), place)


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        held: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BrokenWeights.importing(path, "it is no whole safetensors file.") from error
    return held


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on unusual files that it then refuses
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a reader of pickles raises on bytes that are none
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            why = (
                "it holds more than tensors and plain values, which can run code when opened. Save the state dict "
                "alone (torch.save(model.state_dict(), FILE)), or as safetensors."
            )
            raise UnsafeWeights.importing(path, why) from error
        why = "it is no whole file of torch.save. Fetch it again, or give another one."
        raise BrokenWeights.importing(path, why) from error


def _state_dict(path: Path, held: Any) -> Mapping[str, Any]:
    """The state dict itself, or the only one inside a checkpoint."""
    inside: dict[str, Mapping[str, Any]] = {}
    if isinstance(held, Mapping):
        every = {"": held} if EMBEDDING in held else held
        inside = {str(key): one for key, one in every.items() if isinstance(one, Mapping) and EMBEDDING in one}
    if len(inside) == 1:
        return next(iter(inside.values()))
    if inside:
        why = f"it holds several state dicts ({', '.join(inside)}). Save one of them alone."
        raise ModelNotFound.importing(path, why)
    has = f"it holds a {type(held).__name__}"
    if isinstance(held, Mapping):
        has = f"its first entry is {str(next(iter(held)))!r}" if held else "it is empty"
    why = (
        f"it is no state dict in TransformerLens' naming ({EMBEDDING!r} is missing; {has}). A model of transformers "
        "is opened as it is, with headscope.load."
    )
    raise ModelNotFound.importing(path, why)


def _tensors(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, value in state.items():
        if not isinstance(value, Tensor):
            why = f"its entry {str(name)!r} is a {type(value).__name__} and no tensor."
            raise BrokenWeights.importing(path, why)
        is_buffer = re.fullmatch(r"blocks\.\d+\.attn\.(mask|IGNORE)", str(name)) is not None
        if not is_buffer and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            why = f"its tensor {str(name)!r} is of type {kind}, and only floating-point weights are read."
            raise UnservedModel.importing(path, why)
        if not is_buffer and not bool(torch.isfinite(value.float()).all()):
            why = f"its tensor {str(name)!r} holds values that are not finite numbers."
            raise BrokenWeights.importing(path, why)
    return {str(name): value.detach() for name, value in state.items()}


def _config(path: Path, place: Path) -> dict[str, Any]:
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArgument(
            f"cannot read the config {str(place)!r} for {str(path)!r}: it is no JSON file. Give one with --config."
        ) from error
    if not isinstance(told, dict) or not any(key in told for key in _TELLING):
        raise BadArgument(
            f"cannot use {str(place)!r} as the config of {str(path)!r}: it is none of TransformerLens (it has no "
            f"{_TELLING[0]!r}). Give another one with --config."
        )
    return told
