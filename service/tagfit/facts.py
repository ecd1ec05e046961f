"""The plain frozen structs that all parts share: no behaviour but derived numbers.

* ``Architecture``   a model's hyper-parameters, by their GGUF names
* ``TensorGroup``    tensors of one name and shape, repeated over blocks
* ``StoredTensors``  the part of a group that is stored in one tensor type
* ``Weights``        every tensor of a model in one quantization
* ``Runtime``        how a model is loaded: context, cache type, batches
* ``Device``, ``Hardware``    the machine
* ``DeviceMemory``, ``Placement``    what of a model lies where
"""

from __future__ import annotations

from math import prod
from typing import Literal

import msgspec

PerBlock = int | tuple[int, ...]
"""One value for every block, or one value a block."""

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
Backend = Literal["cuda", "rocm", "metal", "vulkan", "sycl", "cpu"]
Verdict = Literal["gpu", "partial", "cpu", "none"]


def at(value: PerBlock, block: int) -> int:
    """The value of a per-block hyper-parameter at one block."""
    return value if isinstance(value, int) else value[block]


class Architecture(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, cache_hash=True
):
    """A model's hyper-parameters.

    Fields are GGUF metadata keys without the architecture's prefix and without
    ``attention.``, dots written as underscores (``ssm.conv_kernel`` is ``ssm_conv_kernel``).
    A block whose ``head_count_kv`` is 0 has no attention (it is recurrent or feed-forward only).
    """

    architecture: str
    """``general.architecture``: llama, qwen2, gemma3, …"""
    block_count: int
    context_length: int
    """Trained context in tokens."""
    embedding_length: int
    vocab_size: int
    feed_forward_length: PerBlock = 0
    head_count: PerBlock = 0
    head_count_kv: PerBlock = 0
    key_length: int = 0
    """Elements of one key head; 0: embedding_length / head_count."""
    value_length: int = 0
    rope_dimension_count: int = 0
    key_length_swa: int = 0
    """key_length of the blocks that slide, where it differs (Gemma 4)."""
    value_length_swa: int = 0

    sliding_window: int = 0
    sliding_window_pattern: int = 0
    """n: blocks with i % n < n - 1 slide, each n-th is full attention."""
    shared_kv_layers: int = 0
    """The last n blocks reuse an earlier block's cache."""

    expert_count: int = 0
    expert_used_count: int = 0
    expert_feed_forward_length: int = 0
    expert_shared_count: int = 0
    expert_shared_feed_forward_length: int = 0
    leading_dense_block_count: int = 0
    interleave_moe_layer_step: int = 0
    """n: only each n-th block has experts (Llama 4)."""
    moe_every_n_layers: int = 0
    """n: blocks with i % n == 1 have experts (nomic-embed v2)."""
    expert_probs_bias: bool = False
    """``exp_probs_b.bias`` is in the file (DeepSeek-V3, GLM-4.5): the checkpoint has
    ``e_score_correction_bias``."""

    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    key_length_mla: int = 0
    value_length_mla: int = 0

    ssm_conv_kernel: int = 0
    ssm_inner_size: int = 0
    ssm_state_size: int = 0
    ssm_time_step_rank: int = 0
    ssm_group_count: int = 0
    full_attention_interval: int = 0
    shortconv_l_cache: int = 0

    has_output: bool = True
    """``output.weight`` is in the file: it is whenever the checkpoint holds lm_head."""
    attention_bias: bool = False
    """attn_q, attn_k and attn_v have biases."""
    linear_bias: bool = False
    """attn_output, ffn_gate, ffn_up and ffn_down have biases (Granite Code 3B and 8B: Llama's
    attention_bias with mlp_bias)."""
    rope_freqs: bool = False
    """``rope_freqs.weight`` is in the file (Llama 3.1 and later)."""
    rope_factors: int = 0
    """Length of rope_factors_long and rope_factors_short (Phi-3 128k), 0 without them."""
    nextn_predict_layers: int = 0
    """The last n blocks predict further tokens; block_count counts them."""

    qk_norm: bool = False
    """Norms over query and key heads are in the file, where an architecture may have them or
    not (StableLM 2 12B, GLM-4.5)."""
    use_parallel_residual: bool = False
    """Attention and feed-forward part share one norm (StableLM 2 12B)."""
    fused_qkv: bool = False
    """attn_qkv in place of attn_q, attn_k and attn_v (conversions of Phi-2 of 2023)."""
    attn_norm_2: bool = False
    """The feed-forward part has a norm of its own beside attn_norm (Falcon 40B and 180B)."""
    token_type_count: int = 0
    """Rows of token_types (BERT: 2, XLM-RoBERTa: 1)."""
    dense_2_feat_out: int = 0
    """Outputs of dense_2.weight, the first projection after EmbeddingGemma."""
    dense_3_feat_in: int = 0
    embedding_length_per_layer_input: int = 0
    """Width of the embedding that each block adds (Gemma 3n, Gemma 4 E2B and E4B)."""
    attention_k_eq_v: bool = False
    """Full-attention blocks have no attn_v: values are the keys (Gemma 4 26B and 31B)."""
    cross_attention_layers: tuple[int, ...] = ()
    """Blocks that attend to the image only (Llama 3.2 Vision)."""
    moe_latent_size: int = 0
    """Width that experts work on where it is not embedding_length (Nemotron 3 Super)."""


class Vision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vision tower's and its projector's hyper-parameters."""

    projector_type: str
    """A key of ``sizing.vision.TOWERS``: mlp, gemma3, qwen2.5vl, …"""
    block_count: int
    embedding_length: int
    feed_forward_length: int
    projection_dim: int
    """Width of the text model that it feeds."""
    patch_size: int = 14
    image_size: int = 0
    """Side of the square image in pixels; 0 where there are no position embeddings."""
    position_count: int = 0
    """Rows of the position embedding, where it is not one a patch."""
    feature_layers: int = 1
    """Layers whose features the projector takes side by side (Granite Vision: 4)."""
    pooling_head: bool = False
    """SigLIP's attention pooling is in the file, though unused (Granite Vision)."""
    deepstack_count: int = 0
    """Further mergers that feed early text blocks (Qwen3-VL: 3)."""
    query_count: int = 0
    """Queries of a resampler (MiniCPM-V: 64)."""
    global_block_count: int = 0
    """Blocks of a second, gated stack (Llama 3.2 Vision: 8)."""
    tile_count: int = 0
    """Tiles that have embeddings of their own (Llama 3.2 Vision: 4)."""
    hidden_length: int = 0
    """Inner width of the projector, where it is neither of its ends (moondream, Llama 4)."""


class TensorGroup(msgspec.Struct, frozen=True, cache_hash=True):
    """Tensors of one name and shape, one in each of the given blocks."""

    name: str
    """``output.weight``; within blocks without the prefix ``blk.N.``: ``attn_v.weight``."""
    shape: tuple[int, ...]
    """GGUF order: shape[0] is the row length."""
    blocks: tuple[int, ...] = ()
    """The blocks that have it; empty for a tensor outside of blocks."""

    @property
    def elements(self) -> int:
        """Elements of one tensor."""
        return prod(self.shape)

    @property
    def count(self) -> int:
        """How many tensors the group stands for."""
        return len(self.blocks) or 1


class StoredTensors(msgspec.Struct, frozen=True, cache_hash=True):
    """Tensors of one name and shape that are stored in one tensor type."""

    group: TensorGroup
    tensor_type: str
    """A key of ``sizing.ggml.TENSOR_TYPES``: ``Q4_K``."""
    bytes_each: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors of the group."""
        return self.bytes_each * self.group.count


class Weights(msgspec.Struct, frozen=True, cache_hash=True):
    """Every tensor of a model, in the types of one quantization."""

    quantization: str
    """File type: ``Q4_K_M``."""
    mixture: str
    """Whose rules chose the types: a key of ``sizing.mixtures.MIXTURES``."""
    tensors: tuple[StoredTensors, ...]
    parameters: int
    tensor_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Mean bits of one parameter."""
        return 8 * self.tensor_bytes / self.parameters


class Runtime(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """How the runner loads a model; every field is final, defaults filled in."""

    context_length: int
    """Tokens of one request."""
    parallel: int = 1
    kv_cache_type: CacheType = "f16"
    flash_attention: bool = True
    batch_size: int = 512
    micro_batch_size: int = 512
    kv_unified: bool = False
    offloaded_layers: int | None = None
    """llama.cpp's -ngl; None: what --fit chooses."""
    embedding: bool = False
    """llama-server runs with --embedding and asks for the output of every token."""


class Device(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """One GPU."""

    name: str
    memory_bytes: int
    free_memory_bytes: int
    """Free for the runner, before its own driver context."""
    backend: Backend = "cuda"
    bandwidth_bytes_per_second: int | None = None
    compute_flops: int | None = None
    """Dense 16-bit FLOP/s of the matrix units."""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as the runner finds it."""

    gpus: tuple[Device, ...] = ()
    memory_bytes: int = 0
    """Of the host; 0 is not known."""
    free_memory_bytes: int = 0
    bandwidth_bytes_per_second: int | None = None
    """Of the host's memory, measured or given."""
    cpu: str | None = None
    """The processor's name, or words for its memory: DDR5-5600."""
    cores: int = 1
    unified_memory: bool = False
    disk_free_bytes: int | None = None
    environment: dict[str, str] = {}
    """What Ollama runs with: OLLAMA_KV_CACHE_TYPE, OLLAMA_NUM_PARALLEL, …"""


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What of a model lies on one device."""

    name: str
    kind: Literal["gpu", "cpu"]
    weights_bytes: int
    kv_cache_bytes: int
    """With recurrent state."""
    compute_bytes: int
    """Compute and output buffers."""
    other_bytes: int
    """Vision projector and driver context."""
    available_bytes: int
    layers: int

    @property
    def total_bytes(self) -> int:
        """Everything on this device."""
        return self.weights_bytes + self.kv_cache_bytes + self.compute_bytes + self.other_bytes


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A model laid over a machine."""

    devices: tuple[DeviceMemory, ...]
    """The GPUs in the machine's order, then the host."""
    offloaded_layers: int
    total_layers: int
    """Blocks and the output layer, as llama.cpp counts them: block_count + 1."""
    verdict: Verdict
    reason: str
    exact: bool = True
    """False: compute buffers by closed form."""
