"""Adapters (LoRA and its kin): opened from a folder, or as they are in memory; which of them are on.

peft puts modules around the projections of a model, which stays a model of transformers: that is what is opened, and
what is proved on it holds for base and adapter together. What peft does outside the layers (tokens of its own before
the prompt, gates that look at the whole prompt) is refused, since positions, heads or logits would be others.
Which adapters are on and how strongly is kept beside the weights: `switches` tells it, so that a change is noticed.
"""

import json
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from headscope.errors import BrokenWeights, HeadscopeError, ModelNotFound, UnsafeWeights, UnservedModel, first_line
from headscope.models.devices import device_of

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
# Which adapters of a module are on, which are merged into its weights, how strong each is.
_SWITCHES = ("_active_adapter", "merged_adapters", "scaling")


def switches(modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """What decides, beside weights, which adapters act in these modules and how strongly."""
    kept = (vars(module) for module in modules)
    return tuple(
        repr((each["_disable_adapters"], [each.get(name) for name in _SWITCHES]))
        for each in kept
        if "_disable_adapters" in each
    )


def model_within(wrapper: nn.Module, name: str) -> nn.Module:
    """The model of transformers in what peft or torch.compile wraps, which has the same weights; else itself.

    Raises:
        UnservedModel: if peft does more than change modules within it.
    """
    compiled = getattr(wrapper, "_orig_mod", wrapper)
    if not (hasattr(compiled, "get_base_model") and hasattr(compiled, "peft_config")):
        return compiled  # type: ignore[no-any-return]
    configs: list[Any] = list(compiled.peft_config.values())  # type: ignore[operator,union-attr]
    _refuse_prompts_of_its_own(configs, name)
    inner: nn.Module = compiled.get_base_model()  # type: ignore[operator]
    # Some act only once the prompt holds tokens that invoke them.
    invoking = [getattr(each, "alora_invocation_tokens", None) or [] for each in configs]
    ids = torch.tensor([[0, *sum(invoking, [1])]], device=device_of(inner))
    compiled.eval()
    with torch.no_grad():
        same = torch.equal(compiled(input_ids=ids).logits, inner(input_ids=ids).logits)
    if not same:
        raise UnservedModel(
            f"cannot open {name!r}: its adapter acts outside the layers as well, where the model within gives other "
            "logits. Merge it (merge_and_unload) and open that."
        )
    return inner


def base_of(folder: Path, name: str) -> tuple[str, str | None]:
    """The model that the adapter in a folder was made for, and its revision on the hub.

    Raises:
        ModelNotFound: if the folder does not say.
    """
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base = told["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelNotFound(
            f"cannot read the adapter {name!r}: its {CONFIG} is broken ({first_line(error)})"
        ) from error
    if not base:
        raise ModelNotFound(
            f"cannot open the adapter {name!r}: its {CONFIG} names no base model (base_model_name_or_path)."
        )
    return str(base), told.get("revision")


def with_adapter(hf: Any, folder: Path, name: str) -> Any:
    """A model of transformers with the adapter of a folder put into its layers.

    Embeddings that the adapter brings with more or fewer tokens than the base has resize it.

    Raises:
        UnservedModel: without the package peft, or for prompt tuning and its like.
        UnsafeWeights, BrokenWeights: for pickles, and for weights that are not those of this adapter on this base.
    """
    _require_files(folder, name)
    peft: Any = import_module("peft")
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        _refuse_prompts_of_its_own([config], name)
        _resize(hf, folder)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of peft about transformers
            wrapped = peft.PeftModel(hf, config)
            told = wrapped.load_adapter(str(folder), "default", torch_device=str(device_of(hf)))
    except HeadscopeError:
        raise
    except Exception as error:  # whatever peft says of files that do not fit
        raise BrokenWeights(f"cannot put the adapter {name!r} on its base model: {first_line(error)}") from error
    # Of resized embeddings peft writes copies under these names beside the one that it reads.
    beside = (".modules_to_save.", ".original_module.")
    unknown = [key for key in told.unexpected_keys if not any(name in key for name in beside)]
    for keys, what in ((told.missing_keys, "have no weights for"), (unknown, "hold what its base has not:")):
        if keys:
            more = " and others" if len(keys) > 1 else ""
            raise BrokenWeights(
                f"cannot use the adapter {name!r}: its files {what} {min(keys)!r}{more}. Save it again."
            )
    return model_within(wrapped, name)


def _require_files(folder: Path, name: str) -> None:
    if find_spec("peft") is None:
        raise UnservedModel(
            f"cannot open the adapter {name!r}: it needs the package peft. Install headscope[adapters]."
        )
    if (folder / _WEIGHTS).is_file():
        return
    if (folder / "adapter_model.bin").is_file():
        raise UnsafeWeights(
            f"cannot load the adapter {name!r}: its weights are a pickle file (adapter_model.bin), which can run "
            "code when opened. Save it as safetensors (save_pretrained) and load that."
        )
    raise ModelNotFound(f"cannot load the adapter {name!r}: it holds no {_WEIGHTS}.")


def _refuse_prompts_of_its_own(configs: Iterable[Any], name: str) -> None:
    for config in configs:
        if config.is_prompt_learning or getattr(config, "is_adaption_prompt", False):
            kind = str(getattr(config.peft_type, "value", config.peft_type))
            raise UnservedModel(
                f"cannot open {name!r}: {kind} puts tokens of its own beside those of the prompt, so that positions "
                "would lose their meaning. Adapters within the layers (LoRA, DoRA, IA3) are served."
            )


def _resize(hf: Any, folder: Path) -> None:
    """Give the base as many tokens as the embeddings that the adapter brings, where it brings them whole."""
    ends = {id(module): path for path, module in hf.named_modules()}
    embedding = ends[id(hf.get_input_embeddings())]
    with safe_open(folder / _WEIGHTS, framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - no mapping
            if key.endswith(f"{embedding}.weight"):
                rows = weights.get_slice(key).get_shape()[0]
                if rows != hf.get_input_embeddings().weight.shape[0]:
                    hf.resize_token_embeddings(rows, mean_resizing=False)
