"""GGUF files that are all header: real tensors by name and shape, their data a hole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tagfit.facts import Architecture, TensorGroup, Weights
from tagfit.sizing.ggml import row_bytes
from tagfit.sizing.kv_cache import SLIDING_PATTERNS
from tagfit.sizing.roles import source_type
from tagfit.sizing.tensors import tensor_groups

ALIGNMENT = 32
PREFIXES = {
    "attention": [
        "head_count",
        "head_count_kv",
        "key_length",
        "value_length",
        "key_length_swa",
        "value_length_swa",
        "sliding_window",
        "sliding_window_pattern",
        "shared_kv_layers",
        "q_lora_rank",
        "kv_lora_rank",
        "key_length_mla",
        "value_length_mla",
    ],
    "rope": ["dimension_count"],
    "ssm": ["conv_kernel", "inner_size", "state_size", "time_step_rank", "group_count"],
    "shortconv": ["l_cache"],
}
PLAIN = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "leading_dense_block_count",
    "interleave_moe_layer_step",
    "moe_every_n_layers",
    "full_attention_interval",
    "nextn_predict_layers",
    "use_parallel_residual",
    "dense_2_feat_out",
    "dense_3_feat_in",
    "embedding_length_per_layer_input",
    "moe_latent_size",
    "vocab_size",
]
ALWAYS = {
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "logit_scale": 1.0,
    "expert_weights_scale": 1.0,
    "altup.num_inputs": 4,
    "altup.active_idx": 0,
}
"""Keys that some architecture insists on and that no size depends on."""
ZERO_TOO = {"attention.head_count_kv", "embedding_length_per_layer_input"}


def keys(arch: Architecture) -> dict[str, Any]:
    """Metadata of a model, by GGUF key without the architecture's prefix."""
    found: dict[str, Any] = {name: getattr(arch, name) for name in PLAIN}
    for prefix, names in PREFIXES.items():
        for name in names:
            field = name if prefix == "attention" else f"{prefix}_{name}"
            found[f"{prefix}.{name}"] = getattr(arch, field)
    found |= ALWAYS
    if arch.expert_probs_bias:
        found["expert_gating_func"] = 2
    if arch.architecture == "gemma4":
        period = arch.sliding_window_pattern or SLIDING_PATTERNS["gemma4"]
        found |= {
            "attention.sliding_window_pattern": [
                block % period < period - 1 for block in range(arch.block_count)
            ],
            "rope.dimension_count": arch.key_length,
            "rope.dimension_count_swa": arch.key_length_swa,
            "rope.freq_base_swa": 10000.0,
        }
    return {name: value for name, value in found.items() if value or name in ZERO_TOO}


def write_header(
    path: Path,
    arch: Architecture,
    extra: dict[str, Any] | None = None,
    stored: Weights | None = None,
) -> None:
    """Write the model as a file whose data is a hole: in F16, or as it is stored."""
    writer = gguf.GGUFWriter(path, arch.architecture)
    for name, value in (keys(arch) | (extra or {})).items():
        key = f"{arch.architecture}.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, list(value))
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    if arch.token_type_count:
        writer.add_uint32("tokenizer.ggml.token_type_count", arch.token_type_count)
    size = 0
    for group, type_name in _typed(arch, stored):
        kind = gguf.GGMLQuantizationType[type_name]
        each = group.elements // group.shape[0] * row_bytes(type_name, group.shape[0])
        for block in group.blocks or (None,):
            name = group.name if block is None else f"blk.{block}.{group.name}"
            writer.add_tensor_info(
                name, tuple(reversed(group.shape)), kind_dtype(kind), each, raw_dtype=kind
            )
            size += -(-each // ALIGNMENT) * ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    header = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(-(-header // ALIGNMENT) * ALIGNMENT + size)


def _typed(arch: Architecture, stored: Weights | None) -> Iterator[tuple[TensorGroup, str]]:
    if stored is None:
        for group in tensor_groups(arch):
            yield group, source_type(group.name, group.shape)
    else:
        for part in stored.tensors:
            yield part.group, part.tensor_type


def kind_dtype(kind: gguf.GGMLQuantizationType) -> np.dtype[Any]:
    """The numpy type of an unquantized tensor type."""
    return np.dtype(np.float32 if kind == gguf.GGMLQuantizationType.F32 else np.float16)
