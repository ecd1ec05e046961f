"""One small model of each architecture that llama.cpp loads, with whatever its blocks can have.

Widths are chosen so that some rows divide into blocks of 256 and some do not.
"""

from __future__ import annotations

from typing import Any

from tagfit.facts import Architecture

BASE: dict[str, Any] = {
    "block_count": 17,
    "context_length": 4096,
    "embedding_length": 512,
    "vocab_size": 1000,
    "feed_forward_length": 1408,
    "head_count": 8,
    "head_count_kv": 2,
    "key_length": 64,
    "value_length": 64,
    "rope_dimension_count": 64,
}
MOE: dict[str, Any] = {
    "expert_count": 16,
    "expert_used_count": 4,
    "expert_feed_forward_length": 384,
}
SHARED: dict[str, Any] = MOE | {
    "expert_shared_count": 2,
    "expert_shared_feed_forward_length": 768,
    "leading_dense_block_count": 2,
}
MLA: dict[str, Any] = {
    "head_count_kv": 1,
    "q_lora_rank": 192,
    "kv_lora_rank": 256,
    "key_length": 256 + 32,
    "value_length": 256,
    "key_length_mla": 96,
    "value_length_mla": 64,
    "rope_dimension_count": 32,
}
DELTA: dict[str, Any] = {
    "ssm_conv_kernel": 4,
    "ssm_inner_size": 1024,
    "ssm_state_size": 128,
    "ssm_time_step_rank": 8,
    "ssm_group_count": 4,
    "full_attention_interval": 4,
    "key_length": 128,
    "value_length": 128,
}
MAMBA: dict[str, Any] = {
    "ssm_conv_kernel": 4,
    "ssm_inner_size": 1024,
    "ssm_state_size": 128,
    "ssm_time_step_rank": 16,
    "ssm_group_count": 1,
}
TIED: dict[str, Any] = {"has_output": False}
EVERY_FOURTH = tuple(2 if block % 4 == 3 else 0 for block in range(17))
NEMOTRON_H: dict[str, Any] = MAMBA | {
    "head_count_kv": tuple(2 if block % 6 == 5 else 0 for block in range(17)),
    "feed_forward_length": tuple(1408 if block % 2 else 0 for block in range(17)),
}
NEMOTRON_H["feed_forward_length"] = tuple(
    0 if kv else length
    for kv, length in zip(
        NEMOTRON_H["head_count_kv"], NEMOTRON_H["feed_forward_length"], strict=True
    )
)

DIFFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "arcee": ("arcee", {}),
    "baichuan": ("baichuan", {"head_count_kv": 8}),
    "bert": ("bert", TIED | {"head_count_kv": 8, "token_type_count": 2}),
    "bloom": ("bloom", {"head_count_kv": 8}),
    "chatglm": ("chatglm", {}),
    "cohere2": ("cohere2", TIED | {"sliding_window": 512}),
    "cohere2moe": ("cohere2moe", SHARED | {"sliding_window": 512}),
    "command-r": ("command-r", TIED),
    "command-r with qk-norm": ("command-r", TIED | {"block_count": 64}),
    "dbrx": ("dbrx", MOE | {"expert_feed_forward_length": 1408}),
    "deepseek": ("deepseek", SHARED),
    "deepseek2-ocr": ("deepseek2-ocr", SHARED | {"head_count_kv": 8, "block_count": 12}),
    "deepseek2": ("deepseek2", MLA | SHARED),
    "deepseek2 before the split": (
        "deepseek2",
        MLA
        | SHARED
        | {"key_length_mla": 0, "value_length_mla": 0, "head_count_kv": 8}
        | {"key_length": 96, "value_length": 64},
    ),
    "deepseek2 lite": ("deepseek2", MLA | SHARED | {"q_lora_rank": 0, "block_count": 27}),
    "deepseek2 v3": (
        "deepseek2",
        MLA | SHARED | {"expert_probs_bias": True, "nextn_predict_layers": 1},
    ),
    "exaone": ("exaone", {"rope_freqs": True}),
    "exaone4": ("exaone4", {"rope_freqs": True}),
    "falcon": ("falcon", {"attn_norm_2": True}),
    "gemma": ("gemma", TIED | {"key_length": 128, "value_length": 128}),
    "gemma-embedding": (
        "gemma-embedding",
        TIED | {"sliding_window": 512, "dense_2_feat_out": 1024, "dense_3_feat_in": 1024},
    ),
    "gemma2": ("gemma2", TIED | {"sliding_window": 512}),
    "gemma3": ("gemma3", TIED | {"sliding_window": 512}),
    "gemma3n": (
        "gemma3n",
        TIED | {"sliding_window": 512, "embedding_length_per_layer_input": 256, "block_count": 30},
    ),
    "gemma4": (
        "gemma4",
        TIED
        | {
            "block_count": 18,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "key_length": 128,
            "value_length": 128,
            "key_length_swa": 64,
            "value_length_swa": 64,
            "embedding_length_per_layer_input": 96,
            "shared_kv_layers": 6,
            "rope_freqs": True,
            "rope_dimension_count": 128,
        },
    ),
    "gemma4 moe": (
        "gemma4",
        TIED
        | MOE
        | {
            "block_count": 18,
            "sliding_window": 512,
            "sliding_window_pattern": 6,
            "key_length": 128,
            "value_length": 128,
            "key_length_swa": 64,
            "value_length_swa": 64,
            "head_count_kv": (2, 2, 2, 2, 2, 1) * 3,
            "attention_k_eq_v": True,
            "rope_freqs": True,
            "rope_dimension_count": 128,
        },
    ),
    "glm4": ("glm4", {}),
    "glm4moe": (
        "glm4moe",
        SHARED
        | {
            "expert_probs_bias": True,
            "nextn_predict_layers": 1,
            "qk_norm": True,
            "attention_bias": True,
            "expert_shared_count": 1,
            "expert_shared_feed_forward_length": 0,
        },
    ),
    "gpt-oss": (
        "gpt-oss",
        MOE | {"sliding_window": 128, "embedding_length": 480},
    ),
    "gpt2": ("gpt2", {"head_count_kv": 8}),
    "gptneox": ("gptneox", {"head_count_kv": 8, "use_parallel_residual": True}),
    "granite": ("granite", TIED),
    "granitehybrid": (
        "granitehybrid",
        MAMBA
        | MOE
        | {
            "head_count_kv": EVERY_FOURTH,
            "expert_shared_feed_forward_length": 768,
            "feed_forward_length": 384,
            "expert_feed_forward_length": 0,
        },
    ),
    "granitemoe": ("granitemoe", TIED | MOE | {"feed_forward_length": 384}),
    "internlm2": ("internlm2", {}),
    "lfm2": (
        "lfm2",
        TIED | {"shortconv_l_cache": 3, "head_count_kv": EVERY_FOURTH},
    ),
    "lfm2moe": (
        "lfm2moe",
        TIED
        | MOE
        | {
            "shortconv_l_cache": 3,
            "head_count_kv": EVERY_FOURTH,
            "leading_dense_block_count": 2,
            "expert_probs_bias": True,
        },
    ),
    "laguna": (
        "laguna",
        SHARED
        | {
            "expert_probs_bias": True,
            "sliding_window": 512,
            "block_count": 16,
            "head_count": (6, 8, 8, 8) * 4,
        },
    ),
    "llama": ("llama", {"rope_freqs": True}),
    "llama with biases": ("llama", {"attention_bias": True, "block_count": 80}),
    "llama with every bias": ("llama", {"attention_bias": True, "linear_bias": True}),
    "llama4": (
        "llama4",
        MOE
        | {
            "interleave_moe_layer_step": 2,
            "expert_shared_count": 1,
            "rope_freqs": True,
            "block_count": 48,
        },
    ),
    "minicpm": ("minicpm", TIED),
    "minicpm3": (
        "minicpm3",
        MLA
        | TIED
        | {
            "key_length_mla": 0,
            "value_length_mla": 0,
            "head_count_kv": 8,
            "key_length": 96,
            "value_length": 64,
            "rope_factors": 16,
        },
    ),
    "mistral3": ("mistral3", {}),
    "mixtral": ("llama", MOE | {"expert_count": 8, "expert_feed_forward_length": 0}),
    "mpt": ("mpt", TIED | {"head_count_kv": 8}),
    "nemotron": ("nemotron", {}),
    "nemotron_h": ("nemotron_h", NEMOTRON_H),
    "nemotron_h_moe": (
        "nemotron_h_moe",
        NEMOTRON_H
        | MOE
        | {
            "expert_shared_count": 1,
            "expert_shared_feed_forward_length": 768,
            "expert_probs_bias": True,
            "moe_latent_size": 256,
        },
    ),
    "nomic-bert": ("nomic-bert", TIED | {"head_count_kv": 8, "token_type_count": 2}),
    "nomic-bert-moe": (
        "nomic-bert-moe",
        TIED
        | {
            "head_count_kv": 8,
            "token_type_count": 1,
            "expert_count": 8,
            "expert_used_count": 2,
            "moe_every_n_layers": 2,
        },
    ),
    "olmo2": ("olmo2", {}),
    "orion": ("orion", {}),
    "phi2": ("phi2", {"head_count_kv": 8, "rope_dimension_count": 32}),
    "phi2 fused": ("phi2", {"head_count_kv": 8, "rope_dimension_count": 32, "fused_qkv": True}),
    "phi3": ("phi3", {"rope_factors": 32}),
    "qwen": ("qwen", {"head_count_kv": 8, "feed_forward_length": 2816}),
    "qwen2": ("qwen2", TIED),
    "qwen2moe": ("qwen2moe", MOE | {"expert_shared_feed_forward_length": 768}),
    "qwen2vl": ("qwen2vl", {}),
    "qwen3": (
        "qwen3",
        {"key_length": 128, "value_length": 128, "rope_dimension_count": 128},
    ),
    "qwen35": ("qwen35", DELTA | TIED | {"block_count": 16}),
    "qwen35 with predictor": ("qwen35", DELTA | {"nextn_predict_layers": 1}),
    "qwen35moe": (
        "qwen35moe",
        DELTA | MOE | {"block_count": 16, "expert_shared_feed_forward_length": 384},
    ),
    "qwen3moe": ("qwen3moe", MOE),
    "qwen3next": (
        "qwen3next",
        DELTA | MOE | {"block_count": 16, "expert_shared_feed_forward_length": 384},
    ),
    "qwen3vl": ("qwen3vl", TIED),
    "qwen3vlmoe": ("qwen3vlmoe", MOE),
    "refact": ("refact", {"head_count_kv": 1}),
    "seed_oss": ("seed_oss", {"attention_bias": True}),
    "smollm3": ("smollm3", TIED),
    "stablelm": ("stablelm", {"attention_bias": True}),
    "stablelm 12b": ("stablelm", {"qk_norm": True, "use_parallel_residual": True}),
    "starcoder": ("starcoder", {"head_count_kv": 1}),
    "starcoder2": ("starcoder2", TIED),
    "xverse": ("xverse", {"head_count_kv": 8}),
}

SPECIMENS: dict[str, Architecture] = {
    title: Architecture(architecture=name, **(BASE | different))
    for title, (name, different) in DIFFERENCES.items()
}

ONLY_OLLAMA = {"gptoss", "mllama", "qwen25vl", "solar"}
"""Architectures of Ollama's own conversions, which llama.cpp does not load."""

EXTRA_KEYS: dict[str, dict[str, Any]] = {
    "laguna": {"rope.dimension_count_swa": 64, "rope.freq_base_swa": 10000.0},
    "deepseek2-ocr": {"expert_weights_norm": False},
    "granitehybrid": {"rope.scaling.finetuned": False},
    "dbrx": {"attention.clamp_kqv": 8.0},
    "qwen2vl": {"rope.dimension_sections": [16, 24, 24, 0]},
    "qwen3vl": {"rope.dimension_sections": [16, 24, 24, 0], "n_deepstack_layers": 3},
    "qwen3vlmoe": {"rope.dimension_sections": [16, 24, 24, 0], "n_deepstack_layers": 3},
    "qwen35": {"rope.dimension_sections": [16, 24, 24, 0]},
    "qwen35moe": {"rope.dimension_sections": [16, 24, 24, 0]},
}
"""Metadata that llama.cpp insists on and that no size depends on, by architecture."""
