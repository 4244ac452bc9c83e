"""Opening a model: what models.sources reads, or a transformers model that is already in memory.

One probe pass finds the model's anatomy, and the certificate is made or remembered. A model that is broken, or of a
family that is not served, is refused by one sentence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

import headscope.architectures  # noqa: F401 - registers our own models with transformers
from headscope.errors import BadArgument, BrokenWeights, HeadscopeError, UnservedModel, first_line
from headscope.models.adapters import model_within
from headscope.models.anatomy import Anatomy, dissect
from headscope.models.certificate import key_of
from headscope.models.devices import on_one_thread
from headscope.models.model import Model
from headscope.models.probe import probe
from headscope.models.proofs import Proofs
from headscope.models.sources import files_of, read_model, refuse_encoders
from headscope.models.tap import aside


def load(
    source: str | Path | nn.Module,
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
) -> Model:
    """Open a model for study.

    `source`: `zoo:NAME`, a local folder (of a model or an adapter), a GGUF file, a Hub id, or a model object of
    transformers or peft (used as it is, put in evaluation mode; give its `tokenizer`). `revision`: a branch, tag or
    commit on the hub; a step of training ("step-700") for a zoo name or a folder that keeps them (models.history
    lists them). `dtype="auto"` is float32 on a CPU, where half precision is several per cent wrong, and the
    checkpoint's own precision on a GPU.

    Raises:
        ModelNotFound, UnsafeWeights, BrokenWeights, UnservedModel: each names what to do.
        UnknownName: for a step that is not kept; the message lists those that are.
    """
    if isinstance(source, nn.Module):
        name = getattr(getattr(source, "config", None), "name_or_path", "") or type(source).__name__
        return _open(model_within(source, name).eval(), tokenizer, name=name)
    where = torch.device(_device(device))
    precision = torch.float32 if dtype == "auto" and where.type == "cpu" else _dtype(dtype)
    read = read_model(str(source), revision=revision, dtype=precision, trust_remote_code=trust_remote_code)
    # Quantised models may refuse to be moved, even to where they are.
    there = read.hf.device.type == where.type and where.index in (None, read.hf.device.index)
    return _open(
        (read.hf if there else read.hf.to(where)).eval(),
        tokenizer if tokenizer is not None else read.tokenizer(),
        name=str(source),
        language=read.language,
        files=read.files,
        commit=read.commit,
    )


def _open(
    hf: nn.Module,
    tokenizer: Any,
    *,
    name: str,
    language: Mapping[str, Any] | None = None,
    files: Path | None = None,
    commit: str | None = None,
) -> Model:
    config = getattr(hf, "config", None)
    refuse_encoders(config, name)
    if not isinstance(hf, PreTrainedModel) or config is None or hf.get_output_embeddings() is None:
        raise UnservedModel(
            f"cannot open a {type(hf).__name__}: it is no causal language model of transformers. "
            "Pass a model of a ...ForCausalLM class."
        )
    model = Model(hf, _anatomy(hf, name), name=name, tokenizer=tokenizer, language=language, commit=commit)
    # Hashing the weights of a large model takes as long as reading them: its files stand for them.
    key = key_of(model, model.identity if files is None else _signature(files))
    Proofs.begin(model, key, on_disk=files is not None or commit is not None)
    model.prove = _prove_again
    return model


def _anatomy(hf: nn.Module, name: str) -> Anatomy:
    """What a probe pass finds, or one sentence."""
    _refuse_broken(hf, name)
    try:
        text: Any = hf.config.get_text_config()  # type: ignore[operator,union-attr]
        context = getattr(text, "max_position_embeddings", None) or 2**31
        with on_one_thread(hf):
            return dissect(hf, probe(hf, text.vocab_size, context))
    except HeadscopeError:
        raise
    except Exception as error:  # whatever a model file raises on twelve plain tokens
        raise UnservedModel(
            f"cannot open {name!r}: a plain forward pass over a few tokens fails with {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error


def _prove_again(model: Model) -> None:
    """The anatomy of a model whose modules were exchanged, and proofs anew: its files say nothing of it now."""
    with aside(), model.unedited():
        model.anatomy = _anatomy(model.hf, model.name)
    Proofs.begin(model, key_of(model, model.identity))


def _signature(place: Path) -> str:
    """Names, sizes and times of the files of a local model."""
    return str([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files_of(place)])


def _refuse_broken(hf: nn.Module, name: str) -> None:
    for weight, values in hf.named_parameters():
        if values.device.type != "meta" and not bool(torch.isfinite(values).all()):
            raise BrokenWeights(
                f"cannot use {name!r}: its weight {weight!r} holds values that are not finite numbers. "
                "Fetch or save the model again."
            )


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise BadArgument(f"cannot use the device {device!r}: write cpu, cuda, cuda:1 or mps.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise BadArgument(f"cannot use the device {device!r}: this torch sees no CUDA device. Use cpu.")
    return device


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise BadArgument(f"cannot use the dtype {dtype!r}: write auto, {', '.join(known)}.")
    return known[dtype]
