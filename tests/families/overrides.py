"""What a tiny configuration says: one value per size field, and the few exceptions by family.

Data only; `configs` applies it. A value in SIZES is used wherever a configuration has that field and does
not leave it empty, so that a feature which a family has switched off stays off. OVERRIDES holds what one
family needs beyond that, each with a word on why; `DEFAULT` there means: do not touch this field.
"""

from typing import Any

DEFAULT: Any = object()
LAYERS = 4
HEADS = 4
WINDOW = 5  # shorter than a prompt of 12 tokens, so that a window cuts something off
VOCAB = 128

SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size", "embedding_dim"], 64),
    **dict.fromkeys(["word_embed_proj_dim", "lru_width", "attention_hidden_size"], 64),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"], LAYERS),
    "num_decoder_layers": LAYERS,
    **dict.fromkeys(["encoder_layers", "num_encoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"], HEADS),
    **dict.fromkeys(["decoder_attention_heads", "encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_decoder_attention_heads", "num_encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "num_global_key_value_heads"], 2),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "d_inner"], 128),
    **dict.fromkeys(["decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size"], 128),
    **dict.fromkeys(["vocab_size", "vocab_size_per_layer_input"], VOCAB),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"], 128),
    **dict.fromkeys(["sliding_window", "attention_window", "attention_window_size", "window_size"], WINDOW),
    **dict.fromkeys(["head_dim", "global_head_dim", "d_head", "dim_head", "query_pre_attn_scalar"], 16),
    "rotary_dim": 8,
    # Mixtures of experts.
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k"], 2),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "moe_ffn_hidden_size"], 32),
    **dict.fromkeys(["expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"], 32),
    **dict.fromkeys(["n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"], 1),
    # Latent attention and its indexer.
    **dict.fromkeys(["kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "index_head_dim"], 16),
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 6,
    # State-space, convolution and linear-attention layers.
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads", "linear_num_value_heads"], 4),
    **dict.fromkeys(["mamba_d_head", "mamba_head_dim"], 32),
    **dict.fromkeys(["mamba_d_state", "ssm_state_size", "state_size", "chunk_size", "mamba_chunk_size"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 16),
    "linear_num_key_heads": 2,
    "token_shift_rank": 8,
    # Residual side channels.
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    # Weights that make attention far from uniform.
    **dict.fromkeys(["initializer_range", "init_std"], 0.1),
}

# Families that have a window but ship without one: with it, the window is tested.
WINDOWED = ("mistral", "mixtral", "phi3", "starcoder2")

_WAVES = ["sliding_attention", "full_attention"] * 2

OVERRIDES: dict[str, dict[str, Any]] = {
    # Heads whose width the configuration leaves open, and the model file does not.
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16},
    "qwen4_exp_text": {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2},
    # Experts: how many and how they are chosen.
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "num_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "zaya": {"num_experts_per_tok": 1},
    # Layers of several kinds.
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "moe", "attention"],
        "layer_types": DEFAULT,
        "n_groups": 1,
    },
    "reformer": {"attn_layers": ["local", "lsh"] * 2, "axial_pos_embds": False},
    # State-space sizes that must multiply to the model's width.
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_groups": 1},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "zamba": {
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
        "layer_types": DEFAULT,
        "num_hidden_layers": 6,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "num_key_value_heads": 4,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
        "layer_types": DEFAULT,
        "num_hidden_layers": 6,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "num_key_value_heads": 4,
        "num_mem_blocks": 1,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 32,
        "adapter_rank": 8,
    },
    # Settings of their own.
    "xmod": {"default_language": "en_XX"},
}
