"""What a tiny configuration says: one value per size field, and the few exceptions by family.

Data only; `configs` applies it. A value in SIZES is used wherever a configuration has that field and does
not leave it empty, so that a feature which a family has switched off stays off. OVERRIDES holds what one
family needs beyond that, each with a word on why.
"""

from typing import Any

LAYERS = 4
HEADS = 4
WINDOW = 5  # shorter than a prompt of 12 tokens, so that a window cuts something off
VOCAB = 128

SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size", "embedding_dim"], 64),
    **dict.fromkeys(["word_embed_proj_dim", "lru_width", "attention_hidden_size"], 64),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"], LAYERS),
    "num_decoder_layers": LAYERS,
    # As many as decoder layers: caches are made for the number of encoder layers, which is one name for both.
    **dict.fromkeys(["encoder_layers", "num_encoder_layers"], LAYERS),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"], HEADS),
    **dict.fromkeys(["decoder_attention_heads", "encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_decoder_attention_heads", "num_encoder_attention_heads"], HEADS),
    **dict.fromkeys(["num_key_value_heads", "num_global_key_value_heads"], 2),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "d_inner"], 128),
    **dict.fromkeys(["decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "dff", "dim_ff"], 128),
    **dict.fromkeys(["dense_intermediate_size", "intermediate_size_mlp", "prompt_mid_dim"], 128),
    **dict.fromkeys(["vocab_size", "vocab_size_per_layer_input"], VOCAB),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"], 128),
    **dict.fromkeys(["max_source_positions", "max_target_positions"], 128),
    **dict.fromkeys(["sliding_window", "attention_window", "attention_window_size", "window_size"], WINDOW),
    **dict.fromkeys(["sliding_window_size", "local_attention_window_len", "attention_chunk_size"], WINDOW),
    "local_attention": 2 * WINDOW,  # counts both sides
    "keep_window_size": 8,
    **dict.fromkeys(["head_dim", "global_head_dim", "d_head", "dim_head", "query_pre_attn_scalar"], 16),
    "rotary_dim": 8,
    # Mixtures of experts.
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k"], 2),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "moe_ffn_hidden_size"], 32),
    **dict.fromkeys(["shared_intermediate_size", "shared_experts_intermediate_size"], 32),
    **dict.fromkeys(["expert_ffn_hidden_size", "moe_shared_expert_intermediate_size"], 32),
    "router_hidden_size": 32,
    "zero_expert_num": 2,
    **dict.fromkeys(["n_group", "topk_group", "first_k_dense_replace", "num_dense_layers"], 1),
    # Latent attention and its indexer.
    **dict.fromkeys(["kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "index_head_dim"], 16),
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "o_lora_rank": 16,
    "index_n_heads": 16,  # with few heads, many keys score exactly 0 and the choice among them is arbitrary
    "index_topk": 6,
    "index_block_size": 4,
    "index_topk_blocks": 2,
    # State-space, convolution and linear-attention layers.
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads", "linear_num_value_heads"], 4),
    **dict.fromkeys(["mamba_d_head", "mamba_head_dim"], 32),
    **dict.fromkeys(["mamba_d_state", "ssm_state_size", "state_size", "chunk_size", "mamba_chunk_size"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"], 16),
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "token_shift_rank": 8,
    # Heads of windowed layers, where a family names them apart.
    "swa_num_attention_heads": HEADS,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    # Embeddings beside the one of tokens.
    **dict.fromkeys(["input_embedding_size", "output_embedding_size"], 64),
    **dict.fromkeys(["pronunciation_embed_dim", "shape_embed_dim"], 16),
    **dict.fromkeys(["pronunciation_vocab_size", "shape_vocab_size", "unpadded_vocab_size"], VOCAB),
    # Residual side channels.
    **dict.fromkeys(["hidden_size_per_layer_input", "laurel_rank", "hc_lowrank"], 16),
    "num_kv_shared_layers": 0,
    # Weights that make attention far from uniform.
    **dict.fromkeys(["initializer_range", "init_std"], 0.1),
}

# Families that have a window but ship without one: with it, the window is tested.
WINDOWED = ("mistral", "mixtral", "phi3", "starcoder2")

_IN_TURN = ["sliding_attention", "full_attention"] * 2
_ROTARY = {"rope_type": "default", "rope_theta": 1e4}

OVERRIDES: dict[str, dict[str, Any]] = {
    # Heads whose width the configuration leaves open, and the model file does not.
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    # Experts: how many and how they are chosen.
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "num_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "zaya": {"num_experts_per_tok": 1},
    # Layers of several kinds.
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe", "attention"], "n_groups": 1},
    "reformer": {"attn_layers": ["local", "lsh"] * 2, "axial_pos_embds": False},
    # State-space sizes that must multiply to the model's width.
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_groups": 1},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "zamba": {
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
        "num_hidden_layers": 6,
        "attention_head_dim": 32,
        "attention_hidden_size": 128,
        "num_key_value_heads": 4,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
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
    # Whatever else is derived from the large original.
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},  # a window in the upper half
    "blt": {"encoder_hash_byte_group_vocab": 64},  # six tables of half a million rows
    "blt_local_encoder": {"hidden_size_global": 64},
    "blt_local_decoder": {"hidden_size_global": 64},
    # Its default attention has no base for rotary positions, and no bound that it then applies.
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8}},
    "dots3_note_vision_encoder": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    "dots3_note_audio_encoder": {"adapter_input_size": 64, "adapter_out_dim": 64},
    "cohere_compass_text": {"rope_parameters": {name: _ROTARY for name in _IN_TURN}},  # one for each kind of layer
    "qwen4_exp_text": {  # ships without the numbers of its indexer
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "dots3_note_text": {  # windowed layers carry a second set of sizes
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 24,
        "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "gemma4_text": {  # heads of two widths, and upper layers that reuse keys and values of lower ones
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "global_head_dim": 32,
    },
    "xlm": {"causal": True},  # else it sees both sides
    "xlnet": {"attn_type": "uni"},  # else it sees both sides
    "xmod": {"default_language": "en_XX"},  # adapters are picked by language
}

# Types whose configuration is not that of a language model that runs by itself.
NOT_ALONE: dict[str, str] = {
    **dict.fromkeys(
        ["gemma4_assistant", "gemma4_unified_assistant"],
        "it drafts for another model and reads that model's keys and values.",
    ),
    **dict.fromkeys(
        ["musicgen", "musicgen_melody"],
        "it is the decoder of an audio model, and its configuration is that of the whole.",
    ),
}
