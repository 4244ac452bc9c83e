"""Models kept as one GGUF file, llama.cpp's format, opened as plain transformers models with dense weights.

In: the file. Out: the model and its tokenizer. transformers unpacks the blocks and turns the tensors into those of
its own architecture (package gguf, extra `gguf`); what is left of that is taken off, so that the model is like any
other. transformers passes over tensors that its architecture has no place for (factors of rotary frequencies, biases)
and draws those that are missing at random: here both are refused, since the model would be another.
"""

import mmap
import re
import struct
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from headscope.errors import BrokenWeights, UnservedModel, first_line

# Bytes of each type of value in the header; 8 is a string, 9 a list.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _LIST = 8, 9


def read_config(file: Path, name: str) -> Any:
    """The configuration that a GGUF file holds.

    Raises:
        UnservedModel: without the package gguf, or for an architecture that transformers does not read.
        BrokenWeights: if it is no GGUF file, or not a whole one.
    """
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise UnservedModel(
                f"cannot open {name!r}: GGUF files need the package {package}. Install headscope[gguf]."
            )
    try:
        return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # whatever the reader of a binary file meets in it
        raise _refusal(name, error) from error


def read_model(file: Path, name: str, config: Any, dtype: torch.dtype | str) -> PreTrainedModel:
    """The model of a GGUF file, with dense weights.

    Raises:
        BrokenWeights: if tensors are missing, or hold what the architecture has no place for.
    """
    unpacked = getattr(transformers, "GgufConfig", None)  # older releases always unpack
    options = {} if unpacked is None else {"quantization_config": unpacked(dequantize=True)}
    _heed_progress_bars()
    try:
        hf, told = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=dtype, output_loading_info=True, **options
        )
        keys, held = contents_of(file)
    except Exception as error:
        raise _refusal(name, error) from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise BrokenWeights(
            f"cannot use {name!r}: it has no weights for {missing[0]!r}{' and others' if missing[1:] else ''}. "
            "Give a file that holds a whole language model (parts are to be merged first: gguf-split --merge)."
        )
    if any(key.endswith(".rope.scaling.factor") for key in keys) and "factor" not in str(
        getattr(config, "rope_parameters", "")
    ):
        raise UnservedModel(
            f"cannot open {name!r}: it scales rotary positions by a factor that transformers does not read from "
            "GGUF, so that this would be another model. Open the model's safetensors instead."
        )
    over = sum(held.values()) - sum(weight.numel() for weight in hf.parameters())
    if over:
        raise BrokenWeights(
            f"cannot use {name!r}: transformers has no place in its {type(hf).__name__} for {over} of the numbers in "
            f"it{_suspects(held)}, so that this would be another model. Open the model's safetensors instead."
        )
    _take_off_quantization(hf)
    return hf  # type: ignore[no-any-return]


def read_tokenizer(file: Path, name: str) -> Any:
    """The tokenizer of a GGUF file, or None where it has none (token ids still work).

    Raises:
        BrokenWeights: if it has one that transformers does not read.
    """
    if "tokenizer.ggml.tokens" not in contents_of(file)[0]:
        return None
    try:
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:
        raise UnservedModel(
            f"cannot read the tokenizer in {name!r}: {first_line(error)} Pass tokenizer=, the original model's."
        ) from error


def contents_of(file: Path) -> tuple[set[str], dict[str, int]]:
    """The keys in the header of a GGUF file, and how many numbers each tensor holds, by name.

    Raises:
        ValueError, KeyError, struct.error: if it is no GGUF file, or its header is not whole.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _Header(data)
        tensors, values = header.counts()
        keys = set()
        for _ in range(values):
            keys.add(header.string())
            header.skip(header.number("<I", 4))
        return keys, dict(header.tensor() for _ in range(tensors))


class _Header:
    """Reads the header of a GGUF file from front to back."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def number(self, layout: str, size: int) -> int:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += size
        return int(value)

    def counts(self) -> tuple[int, int]:
        """How many tensors it announces, and how many keys with values."""
        magic, version = self._data[:4], struct.unpack_from("<I", self._data, 4)[0]
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"it begins with {magic!r} and version {version}, not with GGUF and version 2 or 3")
        self._at = 8
        return self.number("<Q", 8), self.number("<Q", 8)

    def string(self) -> str:
        length = self.number("<Q", 8)
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", "replace")

    def skip(self, kind: int) -> None:
        """Pass over a value of this type."""
        if kind == _STRING:
            length = self.number("<Q", 8)
            self._at += length
        elif kind == _LIST:
            inner, count = self.number("<I", 4), self.number("<Q", 8)
            if inner in _SIZES:
                self._at += count * _SIZES[inner]
            else:
                for _ in range(count):
                    self.skip(inner)
        else:
            self._at += _SIZES[kind]

    def tensor(self) -> tuple[str, int]:
        """The name of the next tensor, and how many numbers it holds."""
        name = self.string()
        shape = [self.number("<Q", 8) for _ in range(self.number("<I", 4))]
        self._at += 4 + 8  # its type, its offset
        return name, prod(shape)


def _suspects(held: dict[str, int]) -> str:
    """The tensors that no layer and no embedding has, in words."""
    known = re.compile(r"blk\.\d+\..*|(token_embd|output|output_norm|position_embd)\.(weight|bias)")
    odd = sorted(name for name in held if not known.fullmatch(name))
    return f" ({', '.join(odd[:3])})" if odd else ""


def _take_off_quantization(hf: PreTrainedModel) -> None:
    """Leave a model that saves, copies and identifies like any other: its weights are packed no more."""
    quantizer = getattr(hf, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(hf)
    elif hasattr(hf.config, "quantization_config"):
        del hf.config.quantization_config


def _heed_progress_bars() -> None:
    """Let transformers' switch for progress bars hold for its reader of GGUF files too, which asks nobody."""
    reader = sys.modules.get("transformers.modeling_gguf_pytorch_utils")
    if reader is not None:
        reader.tqdm = transformers.utils.logging.tqdm  # type: ignore[attr-defined]


def _refusal(name: str, error: Exception) -> Exception:
    if "not supported" in str(error) or isinstance(error, NotImplementedError):
        return UnservedModel(
            f"cannot open {name!r}: transformers does not read it ({first_line(error)}) "
            "Open the model's safetensors instead."
        )
    return BrokenWeights(
        f"cannot read {name!r}: it is no GGUF file, or not a whole one ({first_line(error)}) Fetch it again."
    )
