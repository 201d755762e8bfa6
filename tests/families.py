"""Small random models of every family that a scorer runs fast, with what is peculiar to the family switched on."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOWED = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"] * 2}
TYPED_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
}
SCALED = {"embedding_multiplier": 3.0, "attention_multiplier": 0.4, "residual_multiplier": 0.7, "logits_scaling": 2.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PER_LAYER = {"vocab_size_per_layer_input": 260, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2}
CARRYING = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 32,
}
CONVOLVED = {"layer_types": ["conv", "full_attention"] * 2}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
# What is peculiar to a family, switched on.
QUIRKS = {
    "apertus": {},
    "arcee": {"attention_bias": True, "mlp_bias": True},
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3]},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.3},
    "cohere2": {**WINDOWED, "logit_scale": 0.3},
    "cwm": WINDOWED,
    "ernie4_5": {"use_bias": True},
    "exaone4": WINDOWED,
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128, "lm_head_multiplier": 0.5, "attention_in_multiplier": 0.7},
    "gemma": {},
    "gemma2": {**WINDOWED, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 9},
    "gemma3_text": {**WINDOWED, "rope_parameters": TYPED_ROPE, "final_logit_softcapping": 20.0},
    "gemma3n_text": {**WINDOWED, **PER_LAYER, "laurel_rank": 8, "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0]},
    "gemma4_text": {**WINDOWED, **PER_LAYER, "global_head_dim": 32, "final_logit_softcapping": 20.0},
    "glm": {"partial_rotary_factor": 0.5, "attention_bias": True},
    "glm4": {"partial_rotary_factor": 0.5, "attention_bias": True},
    "glm4_moe": {
        **EXPERTS,
        "num_experts": 4,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
    },
    "gpt_neox": {"rotary_pct": 0.5, "use_parallel_residual": True},
    "gpt_oss": {
        **WINDOWED,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attention_bias": True,
        "rope_parameters": YARN,
    },
    "granite": {**SCALED, "attention_bias": True},
    "granitemoe": {**SCALED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoehybrid": {
        **SCALED,
        **MAMBA,
        "layer_types": ["mamba", "attention"] * 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 48,
    },
    "helium": {},
    "hunyuan_v1_dense": {},
    "internlm3": {"qkv_bias": True, "bias": True},
    "iquestcoder": {},
    "lfm2": {**CONVOLVED, "conv_bias": True, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {**CONVOLVED, **EXPERTS, "num_dense_layers": 1, "use_expert_bias": True},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "ministral": WINDOWED,
    "ministral3": {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 64}},
    "mistral": {"sliding_window": 24},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24},
    "nemotron_h": {
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 2,
        "chunk_size": 32,
        "layers_block_type": ["mamba", "attention", "mamba", "moe"],
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 48,
    },
    "olmo": {"clip_qkv": 0.5},
    "olmo2": {"attention_bias": True},
    "olmo3": WINDOWED,
    "olmo_hybrid": CARRYING,
    "olmoe": {**EXPERTS, "clip_qkv": 0.5, "norm_topk_prob": True},
    "phi": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "phi3": {"sliding_window": 24, "partial_rotary_factor": 0.5},
    "qwen2": {**WINDOWED, "use_sliding_window": True},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 2},
    "qwen3": {**WINDOWED, "use_sliding_window": True, "attention_bias": True},
    "qwen3_5_moe_text": {**CARRYING, **EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3_5_text": CARRYING,
    "qwen3_moe": {**EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "qwen3_next": {**CARRYING, **EXPERTS, "shared_expert_intermediate_size": 48, "mlp_only_layers": [1]},
    "seed_oss": {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1], "use_sliding_window": True, **WINDOWED},
    "starcoder2": {"sliding_window": 24, "use_bias": True},
    "vaultgemma": {**WINDOWED, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
    "zamba2": {
        "mamba_d_state": 16,
        "mamba_headdim": 16,
        "n_mamba_heads": 8,
        "mamba_ngroups": 2,
        "chunk_size": 32,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "num_mem_blocks": 1,
        "attention_head_dim": 32,
    },
}


def quirky(family, **more):
    """A random model of a family, `more` in its configuration, with weights large enough that its distributions are far from
    flat."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **{**SMALL, **QUIRKS.get(family, {}), **more})
    ).float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.15)
            else:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()
