"""Input that a toy transformer would answer wrongly, refused by name.

Each function returns nothing or raises an `ArchitectureError`; none of them changes a tensor. They are few:
only what would otherwise give a plausible number for another question than the one that was asked.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from headscope.architectures.config import ArchitectureError, ToyConfig


def require_one_input(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> None:
    """Exactly one of the two ways to say what the tokens are."""
    if (input_ids is None) == (inputs_embeds is None):
        got = "neither" if input_ids is None else "both"
        raise ArchitectureError(
            f"cannot run a toy transformer: expected input_ids or inputs_embeds, got {got}. Pass one."
        )


def require_eager(config: ToyConfig, output_attentions: Any) -> None:
    """Patterns exist only where attention is written out."""
    if output_attentions and config._attn_implementation != "eager":
        raise ArchitectureError(
            f"cannot return attention patterns under attn_implementation={config._attn_implementation!r}: "
            "load the model with attn_implementation='eager', or capture 'pattern' in a run of headscope."
        )


def require_all_logits(logits: Tensor, labels: Tensor) -> None:
    """A loss needs the logits of every labelled position."""
    if logits.shape[1] != labels.shape[1]:
        raise ArchitectureError(
            f"cannot compute the loss of {labels.shape[1]} labels from logits at {logits.shape[1]}: "
            "leave out logits_to_keep where labels are given."
        )


def check_positions(config: ToyConfig, position_ids: Tensor) -> None:
    """Trained position vectors end at `n_ctx`."""
    last = int(position_ids.max())
    if last >= config.n_ctx:
        raise ArchitectureError(
            f"cannot place a token at position {last}: the model has {config.n_ctx} {config.positions} "
            f"positions, numbered 0 to {config.n_ctx - 1}. Use shorter input."
        )


def check_cache(
    config: ToyConfig, past_key_values: Cache | None, attention_mask: Tensor | None, n_past: int, n_queries: int
) -> None:
    """The cache grows by concatenation, the mask covers it, and no padding stands between real tokens."""
    if getattr(past_key_values, "is_compileable", False):
        raise ArchitectureError(
            f"cannot use a {type(past_key_values).__name__}: it returns keys not filled yet, and the "
            "positions of keys are found by counting them. Pass a DynamicCache, the default of generate."
        )
    if attention_mask is None:
        return
    expected = n_past + n_queries
    if attention_mask.ndim != 2 or attention_mask.shape[1] != expected:
        raise ArchitectureError(
            f"cannot use an attention mask of shape {tuple(attention_mask.shape)}: expected "
            f"[batch, {expected}], one entry for each of {n_past} cached and {n_queries} new tokens."
        )
    counts_back = config.positions == "rotary" and n_past > 0
    if (config.smeared_keys or counts_back) and _has_gap(attention_mask):
        raise ArchitectureError(
            "cannot run with padding between real tokens: the key before a key (smeared keys) and the "
            "positions of cached keys (rotary) are found by counting. Pad a batch on the left to continue it."
        )


def _has_gap(attention_mask: Tensor) -> bool:
    """Whether, in any row, real tokens (1) begin more than once."""
    real = (attention_mask != 0).long()
    begins = real[:, 0] + (real[:, 1:] > real[:, :-1]).sum(1)
    return bool((begins > 1).any())
