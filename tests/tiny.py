"""Tiny random models of the served families, built in code: each trait that matters, in milliseconds.

Weights are drawn large enough that attention patterns are far from uniform; biases and norm gains are
drawn too, since zeros and ones would hide mistakes.
"""

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
)

import headscope as hs

VOCAB = 96
SPECIAL = {"bos_token_id": 0, "eos_token_id": 95, "pad_token_id": 94}
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **SPECIAL,
}


def gpt2() -> PretrainedConfig:
    """Learned positions, Conv1D projections with biases."""
    return GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64, **SPECIAL)


def llama() -> PretrainedConfig:
    """Rotary positions, two query heads to each key head."""
    return LlamaConfig(**COMMON, num_key_value_heads=2)


def llama_multi_query() -> PretrainedConfig:
    """One key head for all."""
    return LlamaConfig(**COMMON, num_key_value_heads=1)


def gpt_neox() -> PretrainedConfig:
    """Attention and MLP in parallel, partial rotary, biases."""
    return GPTNeoXConfig(**COMMON, use_parallel_residual=True)


def gpt_neox_sequential() -> PretrainedConfig:
    """The same family with a stream between attention and MLP."""
    return GPTNeoXConfig(**COMMON, use_parallel_residual=False)


def gemma2() -> PretrainedConfig:
    """Soft-capped scores and logits, norms after attention and MLP, windows in every other layer."""
    return Gemma2Config(**COMMON, num_key_value_heads=2, head_dim=8, sliding_window=5, query_pre_attn_scalar=8)


def mistral() -> PretrainedConfig:
    """A window shorter than the prompts."""
    return MistralConfig(**COMMON, num_key_value_heads=2, sliding_window=5)


FAMILIES = {
    make.__name__: make for make in (gpt2, llama, llama_multi_query, gpt_neox, gpt_neox_sequential, gemma2, mistral)
}


def build(name: str, *, seed: int = 0, attention: str | None = None) -> PreTrainedModel:
    """A random model of a family; the same seed gives the same weights under every attention."""
    torch.manual_seed(seed)
    # Models made from one configuration object share it: without a copy, eager would be compared to eager.
    # Older releases of transformers run gemma2 through a kernel that drops its soft-cap.
    attention = "eager" if name == "gemma2" else attention
    options = {} if attention is None else {"attn_implementation": attention}
    model = AutoModelForCausalLM.from_config(copy.deepcopy(FAMILIES[name]()), **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1.0 + 0.2 * noise if weight.ndim == 1 and bool((weight == 1).all()) else 0.2 * noise
    return model


def opened(name: str, *, seed: int = 0) -> hs.Model:
    """The same model, opened by headscope."""
    return hs.load(build(name, seed=seed))


def ids(batch: int = 2, length: int = 12, *, seed: int = 1) -> torch.Tensor:
    """Random token ids [batch, position] with BOS first."""
    drawn = torch.randint(1, 90, (batch, length), generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] = 0
    return drawn
