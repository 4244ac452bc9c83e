"""A tiny random model of every causal language model type that transformers has.

In: a model type. Out: a model of about four layers, four heads and a vocabulary of 128, in milliseconds;
or one sentence on why there is none. The rule is general (shrink every size field that the configuration
has); what single families need beyond it is data in `overrides`.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.families.overrides import HEADS, LAYERS, NOT_ALONE, OVERRIDES, SIZES, WINDOWED

MOST_PARAMETERS = 40_000_000
LEAST_SPREAD = 0.05  # standard deviation below which a matrix hardly changes anything
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class CannotBuild(Exception):
    """A type of which there is no tiny model; the message is one sentence."""


def model_types() -> list[str]:
    """Every type in the causal language model mapping of the installed transformers."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build(
    model_type: str, *, seed: int = 0, attention: str | None = None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A tiny random model of this type, in evaluation mode; the same seed gives the same weights.

    Raises:
        CannotBuild: if the type needs a library that is not here, wraps another model, or stays large.
    """
    if model_type in NOT_ALONE:
        raise CannotBuild(NOT_ALONE[model_type])
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = config_of(model_type)
            _refuse_large(config, options)
            # Models made from one configuration object share it, hence a copy for each.
            with _uninitialized_is_nan():
                model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    except CannotBuild:
        raise
    except Exception as error:
        raise CannotBuild(_sentence(error)) from error
    _liven(model, torch.Generator().manual_seed(seed))
    return (model if dtype is None else model.to(dtype)).eval()


def config_of(model_type: str) -> PreTrainedConfig:
    """The tiny configuration of a type: sizes by the general rule, then what this family needs."""
    return _shrunk(CONFIG_MAPPING[model_type], model_type, {})


def _shrunk(kind: type[PreTrainedConfig], model_type: str, more: dict[str, Any]) -> PreTrainedConfig:
    """A tiny configuration of one kind; `more` is what the model around it asks of it."""
    exceptions = OVERRIDES.get(model_type, {}) | more
    default = kind()
    stored = default.to_dict()

    def is_on(name: str) -> bool:
        """Whether this is a field of the configuration (no derived property) that is not left empty."""
        return stored.get(_field(kind, name)) not in (None, [])

    values = {_field(kind, name): size for name, size in SIZES.items() if is_on(name)}
    values |= {name: token for name, token in _SPECIAL.items() if name in stored}
    if "is_decoder" in stored:
        values["is_decoder"] = True
    if model_type in WINDOWED:
        values["sliding_window"] = SIZES["sliding_window"]
    if "kv_lora_rank" in values:  # latent attention has no grouped heads; its head_dim is the rotary part
        values["num_key_value_heads"] = HEADS
        if is_on("head_dim"):
            values["head_dim"] = SIZES["qk_rope_head_dim"]
    for name in ("layer_types", "mlp_layer_types"):
        if is_on(name):
            values[_field(kind, name)] = _kinds_of_layers(stored[_field(kind, name)])
    for name in kind.sub_configs:
        part = getattr(default, name, None)
        if isinstance(part, PreTrainedConfig):
            values[name] = _shrunk(type(part), part.model_type, exceptions.get(name, {}))
    return kind(**values | {name: value for name, value in exceptions.items() if name not in kind.sub_configs})


def _field(kind: type[PreTrainedConfig], name: str) -> str:
    """The field behind a name: families rename fields (n_embd for hidden_size) and keep the common name."""
    return kind.attribute_map.get(name, name)


def _kinds_of_layers(every: list[str]) -> list[str]:
    """Each kind of layer in turn, so that few layers show all kinds."""
    kinds = list(dict.fromkeys(every))
    return (kinds * LAYERS)[:LAYERS]


def _refuse_large(config: PreTrainedConfig, options: dict[str, str]) -> None:
    with torch.device("meta"):
        sketch = AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)
    count = sum(weight.numel() for weight in sketch.parameters())
    if count > MOST_PARAMETERS:
        raise CannotBuild(f"still has {count / 1e6:,.0f} million parameters at its smallest.")


def _liven(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Make every weight matter: redraw what is zero or undefined, move gains and biases, raise the faint."""
    for weight in model.parameters():
        if not weight.is_floating_point() or not weight.numel():
            continue
        noise = torch.randn(weight.shape, generator=generator)
        spread = weight.data.std(correction=0).item()
        if not math.isfinite(spread) or not weight.any():
            weight.data = LEAST_SPREAD * noise
        elif weight.ndim <= 1 or spread == 0:
            weight.data = weight.data + 0.1 * noise
        elif spread < LEAST_SPREAD:
            weight.data = weight.data * (LEAST_SPREAD / spread)


@contextmanager
def _uninitialized_is_nan() -> Iterator[None]:
    """Memory that a model leaves unfilled would differ from run to run; as NaN, it is found and drawn."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that transformers logs for a configuration nobody trained."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _sentence(error: Exception) -> str:
    """What an error says, as one sentence of bounded length."""
    first = " ".join(str(error).split()).split(". ")[0][:200].rstrip(".")
    return f"{type(error).__name__}: {first or 'no message'}."
