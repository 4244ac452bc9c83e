"""Opening a model: a zoo name, a folder, a Hub id, or a transformers model that is already in memory.

Weights are read from safetensors only, code of a model's author runs only when asked for, and a model is
refused by one sentence when it is not there, is broken, or is of a family that is not served. Opening
ends with one probe pass that finds the model's anatomy.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import headscope.architectures  # noqa: F401 - registers our own models with transformers
from headscope import zoo
from headscope.errors import BadArgument, BrokenWeights, HeadscopeError, ModelNotFound, UnsafeWeights, UnservedModel
from headscope.models.anatomy import Anatomy, dissect
from headscope.models.certificate import key_of
from headscope.models.devices import on_one_thread
from headscope.models.model import Model
from headscope.models.probe import probe
from headscope.models.proofs import Proofs
from headscope.models.tap import aside
from headscope.tasks.language import LANGUAGES

_ZOO = "zoo:"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


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

    `source`: `zoo:NAME`, a local folder, a Hub id, or a transformers model object (used as it is, put in
    evaluation mode; give its `tokenizer`). `dtype="auto"` is float32 on a CPU, where half precision is
    several per cent wrong, and the checkpoint's own precision on a GPU.

    Raises:
        ModelNotFound, UnsafeWeights, BrokenWeights, UnservedModel: each names what to do.
    """
    if isinstance(source, nn.Module):
        # torch.compile wraps the model: what it wraps has the same weights, and edits bite there.
        source = getattr(source, "_orig_mod", source)
        name = getattr(getattr(source, "config", None), "name_or_path", "") or type(source).__name__
        return _open(source.eval(), tokenizer, name=name)
    place, name = _place(str(source))
    where = torch.device(_device(device))
    _check_config(place, name, revision, trust_remote_code)
    if dtype == "auto" and where.type == "cpu":
        dtype = torch.float32
    try:
        hf, told = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=_dtype(dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _weights_error(place, name, error) from error
    if told["missing_keys"]:
        # transformers would fill them with random numbers and only warn.
        raise BrokenWeights(
            f"cannot use {name!r}: its files have no weights for {min(told['missing_keys'])!r}"
            f"{' and others' if len(told['missing_keys']) > 1 else ''}. Give the folder of a whole language model."
        )
    tokenizer = tokenizer if tokenizer is not None else _tokenizer(place, revision, trust_remote_code)
    files = Path(place) if Path(place).is_dir() else None
    commit = None if files is not None else getattr(hf.config, "_commit_hash", None)
    return _open(
        hf.to(where).eval(), tokenizer, name=name, language=_language(Path(place)), files=files, commit=commit
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
    _refuse_encoders(config, name)
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
            f"{_first_line(error)}"
        ) from error


def _prove_again(model: Model) -> None:
    """The anatomy of a model whose modules were exchanged, and proofs anew: its files say nothing of it now."""
    with aside(), model.unedited():
        model.anatomy = _anatomy(model.hf, model.name)
    Proofs.begin(model, key_of(model, model.identity))


def _signature(folder: Path) -> str:
    """Names, sizes and times of the files of a local model."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".py"))
    return str([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _place(source: str) -> tuple[str, str]:
    """Where transformers should look, and what the model is called."""
    if source.startswith(_ZOO):
        return str(zoo.path(source.removeprefix(_ZOO))), source
    folder = Path(source).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        raise ModelNotFound(
            f"cannot open {source!r} as a model: it holds no config.json. Give a folder written by "
            "save_pretrained, a Hub id, or a zoo name (headscope models lists them)."
        )
    return str(folder) if folder.exists() else source, source


def _check_config(place: str, name: str, revision: str | None, trust_remote_code: bool) -> None:
    """Raise, with what to do, unless there is a configuration that transformers knows."""
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UnservedModel(
                f"cannot open {name!r}: it brings code of its own. Read that code, then pass "
                "trust_remote_code=True (--trust-remote-code)."
            ) from error
        if Path(place).exists():
            raise ModelNotFound(f"cannot read the configuration of {name!r}: {_first_line(error)}") from error
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFound(
            f"cannot find a model {name!r}{at}: it is no folder here, no zoo name "
            f"({', '.join(_ZOO + known for known in zoo.names())}), and no hub gave it ({_first_line(error)})"
        ) from error
    _refuse_encoders(config, name)


def _refuse_encoders(config: Any, name: str) -> None:
    """Raise where tokens are read by an encoder, for a decoder that attends to it."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnservedModel(
            f"cannot open {name!r}: {config.model_type!r} is an encoder-decoder model, whose decoder attends to what "
            "an encoder read from both sides; heads of causal language models are served. Open a decoder-only model."
        )


def _refuse_broken(hf: nn.Module, name: str) -> None:
    for weight, values in hf.named_parameters():
        if values.device.type != "meta" and not bool(torch.isfinite(values).all()):
            raise BrokenWeights(
                f"cannot use {name!r}: its weight {weight!r} holds values that are not finite numbers. "
                "Fetch or save the model again."
            )


def _weights_error(place: str, name: str, error: Exception) -> Exception:
    if "Unrecognized configuration class" in str(error):
        return UnservedModel(
            f"cannot open {name!r}: transformers has no causal language model of its type. Open a decoder-only model."
        )
    folder = Path(place)
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not list(folder.glob("*.safetensors")):
        return UnsafeWeights(
            f"cannot load {name!r}: its weights are pickle files ({pickles[0]}), which can run code when "
            "opened. Save the model as safetensors (save_pretrained) and load that."
        )
    if not folder.is_dir() and "safetensors" in str(error):
        return UnsafeWeights(
            f"cannot load {name!r}: it has no safetensors weights, and pickle files can run code when opened. "
            "Use a revision that has them, or convert the model."
        )
    return ModelNotFound(f"cannot load the weights of {name!r}: {_first_line(error)}")


def _tokenizer(place: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The model's tokenizer, or None where it has none (token ids still work)."""
    folder = Path(place)
    if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(
            f"cannot read the tokenizer of {place!r}: {_first_line(error)} Pass tokenizer=, or mend the files."
        ) from error


def _language(folder: Path) -> Mapping[str, Any] | None:
    """The synthetic language that a model was trained on, where a card of ours beside it names one."""
    card = folder / "card.json"
    if not card.is_file():
        return None
    told = json.loads(card.read_text(encoding="utf-8")).get("prompts")
    return told if isinstance(told, dict) and told.get("generator") in LANGUAGES else None


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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") + "." if str(error).strip() else type(error).__name__
