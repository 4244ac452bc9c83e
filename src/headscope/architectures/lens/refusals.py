"""What a config may say that our architecture cannot do, and what must agree with the tensors.

In: a `LensFile` with a config, and the sizes that its tensors give. Out: nothing, or one sentence. A setting
that TransformerLens knows and that changes a forward pass stands in the table below or is read in `settings`;
everything else in a config (training, hooks, devices) changes no logit.
"""

import math
from typing import Any

from headscope.architectures.lens.file import LensFile
from headscope.architectures.lens.shapes import Sizes
from headscope.errors import BadArgument, UnservedModel

# Setting -> the values that we have, and what any other one means. Unset (None) is always fine.
_SERVED: dict[str, tuple[tuple[Any, ...], str]] = {
    "attention_dir": (("causal",), "attention that sees the future"),
    "use_attn_scale": ((True,), "attention scores that are not divided by sqrt(d_head)"),
    "scale_attn_by_inverse_layer_idx": ((False,), "attention scores divided by the number of the layer"),
    "use_local_attn": ((False,), "local attention"),
    "parallel_attn_mlp": ((False,), "attention and MLP in parallel"),
    "gated_mlp": ((False,), "a gated MLP"),
    "post_embedding_ln": ((False,), "a norm after the embedding"),
    "use_normalization_before_and_after": ((False,), "norms after attention and MLP"),
    "rmsnorm_uses_offset": ((False,), "RMS norms with an offset"),
    "use_qk_norm": ((False,), "norms of queries and keys"),
    "use_NTK_by_parts_rope": ((False,), "rescaled rotary positions"),
    "use_yarn_rope": ((False,), "rescaled rotary positions"),
    "load_in_4bit": ((False,), "quantised weights"),
    "factored_embed": ((False,), "a factored embedding"),
    "num_experts": ((0,), "a mixture of experts"),
    "relative_attention_max_distance": ((), "relative positional biases"),
}
# Settings that turn something off by any number that is not positive.
_OFF_UNLESS_POSITIVE = {"attn_scores_soft_cap": "soft-capped scores", "output_logits_soft_cap": "soft-capped logits"}
# Settings of the MLP alone, in configs of the published SoLU and GELU models.
_MLP_ONLY = {"neuron_scale": "a scaled MLP", "neuron_temp": "a temperature before the activation"}
_SIZES = ("n_layers", "d_model", "n_heads", "d_head", "d_vocab", "d_mlp")


def check_config(file: LensFile, sizes: Sizes) -> None:
    """The config asks for nothing that we lack, and its sizes are those of the tensors."""
    if file.config is None:
        return
    for setting, value in file.config.items():
        if setting in _SERVED and value is not None and value not in _SERVED[setting][0]:
            raise _unserved(file, setting, _SERVED[setting][1])
        if setting in _OFF_UNLESS_POSITIVE and _number(file, setting) > 0:
            raise _unserved(file, setting, _OFF_UNLESS_POSITIVE[setting])
        if setting in _MLP_ONLY and sizes.d_mlp and _number(file, setting, unset=1.0) != 1.0:
            raise _unserved(file, setting, _MLP_ONLY[setting])
    _check_attention(file, sizes)
    _check_sizes(file, sizes)


def check_final_norm(file: LensFile, norm: str) -> None:
    """Our architecture has one kind of norm; `final_rms` is a second one where the others are LayerNorms."""
    if file.told.get("final_rms") and norm in ("LN", "LNPre"):
        raise _unserved(file, "final_rms", "a final norm that differs from the others")


def _check_attention(file: LensFile, sizes: Sizes) -> None:
    scale = _number(file, "attn_scale", unset=-1.0)
    if scale > 0 and not math.isclose(scale, math.sqrt(sizes.d_head), rel_tol=1e-6):
        raise _unserved(file, "attn_scale", "attention scores that are not divided by sqrt(d_head)")
    if _number(file, "n_key_value_heads", unset=sizes.n_heads) != sizes.n_heads:
        raise _unserved(file, "n_key_value_heads", "keys and values shared by several heads")
    is_rotary = file.told.get("positional_embedding_type") == "rotary"
    if _number(file, "rotary_dim", unset=sizes.d_head) != sizes.d_head and is_rotary:
        raise _unserved(file, "rotary_dim", "rotary positions in a part of each head")
    if _number(file, "d_vocab_out", unset=-1) not in (-1, sizes.d_vocab):
        raise _unserved(file, "d_vocab_out", "another vocabulary for its output than for its input")


def _check_sizes(file: LensFile, sizes: Sizes) -> None:
    attention_only = file.told.get("attn_only")
    if attention_only is not None and bool(attention_only) != (sizes.d_mlp == 0):
        has = "MLPs" if sizes.d_mlp else "none"
        raise _disagreeing(file, "attn_only", has)
    for setting in _SIZES:
        if setting == "d_mlp" and not sizes.d_mlp:
            continue
        actual = getattr(sizes, setting)
        if _number(file, setting, unset=-1) not in (-1, actual):
            raise _disagreeing(file, setting, actual)


def _number(file: LensFile, setting: str, unset: float = 0.0) -> float:
    value = file.told.get(setting)
    if value is None:
        return unset
    if isinstance(value, bool) or not isinstance(value, int | float):
        why = f"its config says {setting}={value!r}, which is no number. Mend it, or give another one with --config."
        raise BadArgument.importing(file.name, why)
    return float(value)


def _disagreeing(file: LensFile, setting: str, actual: object) -> BadArgument:
    why = f"its config says {setting}={file.told[setting]}, and its tensors have {actual}."
    return BadArgument.importing(file.name, f"{why} Give the config that belongs to it with --config.")


def _unserved(file: LensFile, setting: str, meaning: str) -> UnservedModel:
    why = f"its config says {setting}={file.told[setting]!r}, that is {meaning}"
    return UnservedModel.importing(file.name, f"{why}, and our architecture has no such thing.")
