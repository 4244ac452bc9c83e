"""Where models come from: a zoo name, a folder, a Hub id, a GGUF file, the folder of an adapter.

In: what a user typed. Out: a model of transformers in evaluation mode, with a way to its tokenizer. Weights are read
from safetensors and GGUF only, code of a model's author runs only when asked for, and what is not there, is broken or
is of a family that is not served is refused by one sentence. Nothing is proved here (models.loading).
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file

from headscope import zoo
from headscope.errors import BrokenWeights, ModelNotFound, UnsafeWeights, UnservedModel, first_line
from headscope.models import adapters, gguf_file
from headscope.tasks.language import LANGUAGES
from headscope.zoo.checkpoints import HISTORY, card_in, checkpoint

_ZOO = "zoo:"
_GGUF, _WEIGHTS = ".gguf", ".safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Source:
    """A model that was read, `tokenizer()` reads what belongs to it; None where it has none.

    `files` is the folder or file on this machine that it stands in, if all of it does; `commit` the one on the hub;
    `language` the synthetic language that it was trained on, where a card of ours beside it names one.
    """

    hf: Any
    tokenizer: Callable[[], Any]
    files: Path | None = None
    commit: str | None = None
    language: Mapping[str, Any] | None = None


def read_model(source: str, *, revision: str | None, dtype: str | torch.dtype, trust_remote_code: bool) -> Source:
    """The model that `source` names.

    Raises:
        ModelNotFound, UnsafeWeights, BrokenWeights, UnservedModel: each names what to do.
    """
    place = _place(source, revision)
    folder = Path(place)
    if folder.is_file() and folder.suffix == _WEIGHTS:
        return _of_history(folder, source, dtype)
    if folder.is_file():
        config = gguf_file.read_config(folder, source)
        refuse_encoders(config, source)
        return Source(
            gguf_file.read_model(folder, source, config, dtype),
            lambda: gguf_file.read_tokenizer(folder, source),
            files=folder,
        )
    if _is_adapter(folder):
        base, base_revision = adapters.base_of(folder, source)
        on_hub = None if Path(base).exists() else base_revision  # a folder here is what it is
        read = read_model(base, revision=on_hub, dtype=dtype, trust_remote_code=trust_remote_code)
        return Source(
            adapters.with_adapter(read.hf, folder, source),
            lambda: _tokenizer(place, None, trust_remote_code) or read.tokenizer(),
            files=folder if read.files else None,
            language=read.language,
        )
    _check_config(place, source, revision, trust_remote_code)
    hf = _weights(place, source, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code)
    return Source(
        hf,
        lambda: _tokenizer(place, revision, trust_remote_code),
        files=folder if folder.is_dir() else None,
        commit=None if folder.is_dir() else getattr(hf.config, "_commit_hash", None),
        language=_language(folder),
    )


def files_of(place: Path) -> Iterator[Path]:
    """The files that a model on this machine is read from; with those of its base for an adapter."""
    if place.is_file():
        yield place
        return
    yield from sorted(file for file in place.iterdir() if file.suffix in (".safetensors", ".json", ".py"))
    if _is_adapter(place):
        yield from files_of(Path(_place(adapters.base_of(place, str(place))[0], None)))


def refuse_encoders(config: Any, name: str) -> None:
    """Raise where tokens are read by an encoder, for a decoder that attends to it."""
    if getattr(config, "is_encoder_decoder", False):
        raise UnservedModel(
            f"cannot open {name!r}: {config.model_type!r} is an encoder-decoder model, whose decoder attends to what "
            "an encoder read from both sides; heads of causal language models are served. Open a decoder-only model."
        )


def _is_adapter(folder: Path) -> bool:
    return (folder / adapters.CONFIG).is_file()


def _place(source: str, revision: str | None) -> str:
    """Where transformers should look: a folder or file that is there, or an id on the hub."""
    place = zoo.path(source.removeprefix(_ZOO)) if source.startswith(_ZOO) else Path(source).expanduser()
    if place.is_file() and place.suffix == _GGUF:
        return str(place)
    if place.is_dir() and revision is not None:
        return str(checkpoint(place, revision, source))
    if place.exists() and not _is_adapter(place) and not (place / "config.json").is_file():
        raise ModelNotFound(
            f"cannot open {source!r} as a model: it holds no config.json. Give a folder written by "
            "save_pretrained, a GGUF file, a Hub id, or a zoo name (headscope models lists them)."
        )
    if place.exists():
        return str(place)
    return _from_hub(source, revision) if place.suffix == _GGUF else source


def _of_history(file: Path, name: str, dtype: str | torch.dtype) -> Source:
    """A model of which only the weights are kept at this step; what belongs to them stands beside its last ones."""
    home = file.parents[1] if file.parent.name == HISTORY else file.parent
    with TemporaryDirectory(prefix="headscope-") as whole:
        shutil.copyfile(home / "config.json", Path(whole) / "config.json")
        shutil.copyfile(file, Path(whole) / "model.safetensors")
        hf = _weights(whole, name, revision=None, dtype=dtype, trust_remote_code=False)
    # What a model is called is part of its identity; the folder that was made for reading it is not.
    for module in (hf.config, *hf.modules()):
        for attribute in ("_name_or_path", "name_or_path"):
            if hasattr(module, attribute):
                setattr(module, attribute, str(home))
    return Source(hf, lambda: _tokenizer(str(home), None, False), files=file, language=_language(home))


def _from_hub(source: str, revision: str | None) -> str:
    """Where the GGUF file OWNER/REPOSITORY/FILE of the hub is kept on this machine, once fetched."""
    repository, file = "/".join(source.split("/")[:2]), "/".join(source.split("/")[2:])
    on_hub = bool(file) and source[0] not in "/.~"
    try:
        found = cached_file(repository, file, revision=revision) if on_hub else None
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"cannot find {source!r}: it is no file here, and no hub gave it ({first_line(error)})"
        ) from error
    if found is None:
        raise ModelNotFound(
            f"cannot find {source!r}: there is no such file. On the hub it is OWNER/REPOSITORY/FILE.gguf."
        )
    return str(found)


def _weights(place: str, name: str, **options: Any) -> Any:
    """The model with its weights, all of them from safetensors."""
    try:
        hf, told = AutoModelForCausalLM.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, **options
        )
    except ImportError as error:
        raise UnservedModel(
            f"cannot open {name!r}: {first_line(error)} Quantised models need the package that they were made with "
            "(headscope[quantized] has bitsandbytes and optimum-quanto)."
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _weights_error(place, name, error) from error
    if told["missing_keys"]:
        # transformers would fill them with random numbers and only warn.
        raise BrokenWeights(
            f"cannot use {name!r}: its files have no weights for {min(told['missing_keys'])!r}"
            f"{' and others' if len(told['missing_keys']) > 1 else ''}. Give the folder of a whole language model."
        )
    return hf


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
            raise ModelNotFound(f"cannot read the configuration of {name!r}: {first_line(error)}") from error
        at = f" at revision {revision!r}" if revision else ""
        raise ModelNotFound(
            f"cannot find a model {name!r}{at}: it is no folder here, no zoo name "
            f"({', '.join(_ZOO + known for known in zoo.names())}), and no hub gave it ({first_line(error)})"
        ) from error
    refuse_encoders(config, name)


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
    return ModelNotFound(f"cannot load the weights of {name!r}: {first_line(error)}")


def _tokenizer(place: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The model's tokenizer, or None where it has none (token ids still work)."""
    folder = Path(place)
    if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(
            f"cannot read the tokenizer of {place!r}: {first_line(error)} Pass tokenizer=, or mend the files."
        ) from error


def _language(folder: Path) -> Mapping[str, Any] | None:
    """The synthetic language that a model was trained on, where a card or a recipe of ours beside it names one."""
    told = card_in(folder).get("prompts")
    recipe = folder.parent / "recipe.json"
    if told is None and recipe.is_file():  # a checkpoint of headscope train
        parameters = json.loads(recipe.read_text(encoding="utf-8")).get("data", {})
        told = {"generator": parameters.pop("generator", None), "parameters": parameters}
    return told if isinstance(told, dict) and told.get("generator") in LANGUAGES else None
