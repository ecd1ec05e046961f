"""Attention cache and recurrent state, block by block, as llama.cpp b11434 allocates them.

Sources are llama.cpp's ``src/``: ``llama-context.cpp`` (cells), ``llama-kv-cache.cpp``,
``llama-kv-cache-iswa.cpp``, ``llama-hparams.cpp`` and ``models/*.cpp`` (which blocks slide).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tagfit.facts import Architecture, CacheType, Runtime, at
from tagfit.sizing.ggml import row_bytes

CELL_PADDING = 256
"""Cells of a cache come in multiples of this (llama-context.cpp:292)."""

CUDA_ALIGNMENT = 128
"""Bytes; ggml-cuda.cu, buffer type get_alignment."""
CUDA_ROW_PADDING = 512
"""Elements: a quantized row is padded to it (ggml-cuda.cu:903, MATRIX_ROW_PADDING)."""

SLIDING_PATTERNS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gemma4": 6,
    "gpt-oss": 2,
    "cohere2": 4,
    "llama4": 4,
    "exaone4": 4,
    "olmo2": 4,
    "afmoe": 4,
    "mellum": 4,
    "lfm2": 1,
}
"""n of ``i % n < n - 1`` where the file does not say (models/*.cpp, load_swa_pattern)."""

DENSE_FIRST_PATTERNS = {"cohere2moe": 4, "smallthinker": 4, "laguna": 4}
"""n of ``i % n != 0``: the first of each n blocks is the full one."""

FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}
"""Windows that llama.cpp sets whatever the file says (models/llama4.cpp:14)."""

DEFAULT_WINDOWS = {"gemma2": 4096, "llama4": 8192}
"""Windows of files that name none."""

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
"""Architectures without any cache (llama-model.cpp:2364)."""

RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
"""Every block is recurrent (llama-arch.cpp:1110)."""

HYBRIDS = frozenset(
    {
        "granitehybrid",
        "jamba",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
"""A block with no key-value heads is recurrent, unless it is feed-forward only (ibid. 1124)."""

LINEAR_ATTENTION = frozenset({"qwen3next", "qwen35", "qwen35moe"})
"""All but each n-th block are gated delta nets (models/qwen3next.cpp:17)."""

CACHES_FROM_START = {"gemma3n": 20}
"""Only so many blocks keep a cache, whatever the file says (models/gemma3n.cpp:7)."""

BOTH = frozenset({"falcon-h1"})
"""Each block has attention and a state-space mixer."""


def pad(value: int, multiple: int) -> int:
    """The value rounded up to a multiple."""
    return -(-value // multiple) * multiple


def trunk_blocks(arch: Architecture) -> int:
    """Blocks that run for each token: all but those that predict further tokens."""
    return arch.block_count - arch.nextn_predict_layers


def streams(runtime: Runtime) -> int:
    """Separate caches: one a sequence, or one for all when unified."""
    return 1 if runtime.kv_unified else runtime.parallel


def cells_per_stream(runtime: Runtime) -> int:
    """Cells of a full-attention cache in one stream (llama-context.cpp:292)."""
    cells = pad(runtime.context_length * runtime.parallel, CELL_PADDING)
    return cells if runtime.kv_unified else pad(cells // runtime.parallel, CELL_PADDING)


def micro_batch(arch: Architecture, runtime: Runtime) -> int:
    """Tokens of a micro-batch after llama.cpp's clamps (llama-context.cpp:248)."""
    batch = runtime.batch_size
    if arch.architecture not in ENCODERS:
        batch = min(batch, runtime.context_length * runtime.parallel)
    return min(batch, runtime.micro_batch_size)


def window(arch: Architecture) -> int:
    """The sliding window that llama.cpp applies, 0 for none.

    A window declared by an architecture with no rule here is ignored, as Phi-3's is.
    """
    name = arch.architecture
    if name == "exaone4" and arch.block_count != 64:  # models/exaone4.cpp:4
        return 0
    if name not in SLIDING_PATTERNS and name not in DENSE_FIRST_PATTERNS:
        return 0
    if arch.sliding_window or name in DEFAULT_WINDOWS:
        return FIXED_WINDOWS.get(name) or arch.sliding_window or DEFAULT_WINDOWS[name]
    return 0


def slides(arch: Architecture, block: int) -> bool:
    """Whether a block's attention sees only the window."""
    name = arch.architecture
    if not window(arch):
        return False
    if name in DENSE_FIRST_PATTERNS:
        return block % (arch.sliding_window_pattern or DENSE_FIRST_PATTERNS[name]) != 0
    period = arch.sliding_window_pattern or SLIDING_PATTERNS[name]
    return period == 1 or block % period < period - 1


def sliding_cells(arch: Architecture, runtime: Runtime) -> int:
    """Cells of a sliding-window cache in one stream (llama-kv-cache-iswa.cpp:73)."""
    sequences = runtime.parallel if runtime.kv_unified else 1
    wanted = window(arch) * sequences + micro_batch(arch, runtime)
    return pad(min(cells_per_stream(runtime), wanted), CELL_PADDING)


def is_recurrent(arch: Architecture, block: int) -> bool:
    """Whether a block keeps a recurrent state."""
    name = arch.architecture
    if name in RECURRENT or name in BOTH:
        return True
    if name in LINEAR_ATTENTION:
        return (block + 1) % (arch.full_attention_interval or 4) != 0
    if name not in HYBRIDS or at(arch.head_count_kv, block):
        return False
    feed_forward_only = name.startswith("nemotron_h") and at(arch.feed_forward_length, block)
    return not feed_forward_only


def has_attention(arch: Architecture, block: int) -> bool:
    """Whether a block attends over earlier tokens."""
    if arch.architecture in RECURRENT or not at(arch.head_count, block):
        return False
    if arch.architecture in BOTH:
        return True
    return not is_recurrent(arch, block) and (
        at(arch.head_count_kv, block) > 0 or arch.kv_lora_rank > 0
    )


def has_cache(arch: Architecture, block: int) -> bool:
    """Whether a block keeps keys and values of its own."""
    if arch.architecture in ENCODERS or block >= min(_caches(arch), trunk_blocks(arch)):
        return False
    return has_attention(arch, block)


def _caches(arch: Architecture) -> int:
    """So many of the first blocks keep a cache."""
    return CACHES_FROM_START.get(arch.architecture, arch.block_count - arch.shared_kv_layers)


def cache_owner(arch: Architecture, block: int) -> int:
    """The block whose cache a block reads: itself, or the last one that slides as it does."""
    caches = _caches(arch)
    return block if block < caches else caches - (2 if slides(arch, block) else 1)


def uses_latent_attention(arch: Architecture) -> bool:
    """Multi-head latent attention whose file has the absorbed form (key_length_mla)."""
    return arch.key_length_mla > 0


def head_lengths(arch: Architecture, block: int) -> tuple[int, int]:
    """Elements of one key head and one value head."""
    if uses_latent_attention(arch):
        return arch.kv_lora_rank + arch.rope_dimension_count, arch.kv_lora_rank
    default = arch.embedding_length // max(at(arch.head_count, block), 1)
    key, value = arch.key_length or default, arch.value_length or default
    if slides(arch, block):
        key, value = arch.key_length_swa or key, arch.value_length_swa or value
    return key, value


def kv_widths(arch: Architecture, block: int) -> tuple[int, int]:
    """Elements of one token's row of keys and of values in the cache."""
    key, value = head_lengths(arch, block)
    if uses_latent_attention(arch):
        return key, 0
    heads = at(arch.head_count_kv, block)
    return heads * key, heads * value


@lru_cache(maxsize=1024)
def cached_head_lengths(arch: Architecture, *, sliding: bool) -> frozenset[tuple[int, int]]:
    """Lengths of key and value heads in the sliding or in the full-attention caches."""
    return frozenset(
        head_lengths(arch, block)
        for block in range(arch.block_count)
        if has_cache(arch, block) and slides(arch, block) == sliding
    )


@lru_cache(maxsize=1024)
def widest_value(arch: Architecture) -> int:
    """Elements of the widest row of values; without flash attention all rows have them."""
    blocks = range(arch.block_count)
    return max((kv_widths(arch, block)[1] for block in blocks if has_cache(arch, block)), default=0)


def recurrent_elements(arch: Architecture) -> int:
    """F32 elements of one block's state for one sequence (llama-hparams.cpp:208)."""
    if arch.shortconv_l_cache:
        return arch.embedding_length * (arch.shortconv_l_cache - 1)
    convolved = arch.ssm_inner_size + 2 * arch.ssm_group_count * arch.ssm_state_size
    convolution = max(arch.ssm_conv_kernel - 1, 0) * convolved
    return convolution + arch.ssm_state_size * arch.ssm_inner_size


def _cache_tensor_bytes(cache_type: CacheType, width: int, rows: int, *, cuda: bool) -> int:
    """Bytes that one cache tensor takes from a device's buffer."""
    if not width:
        return 0
    tensor_type = cache_type.upper()
    size = rows * row_bytes(tensor_type, width)
    if not cuda:
        return size
    missing = -width % CUDA_ROW_PADDING
    if missing and tensor_type not in {"F16", "BF16", "F32"}:
        size += row_bytes(tensor_type, missing)
    return pad(size, CUDA_ALIGNMENT)


class _Kept(NamedTuple):
    """What a block keeps of each token, and whether it has a recurrent state."""

    key_width: int
    value_width: int
    slides: bool
    recurrent: bool


@lru_cache(maxsize=1024)
def _kept_by_block(arch: Architecture) -> tuple[_Kept, ...]:
    made: dict[_Kept, _Kept] = {}

    def kept(block: int) -> _Kept:
        widths = kv_widths(arch, block) if has_cache(arch, block) else (0, 0)
        recurrent = block < trunk_blocks(arch) and is_recurrent(arch, block)
        found = _Kept(*widths, slides(arch, block), recurrent)
        return made.setdefault(found, found)

    return tuple(kept(block) for block in range(arch.block_count))


def cache_bytes_by_block(
    arch: Architecture, runtime: Runtime, *, cuda: bool = False
) -> tuple[int, ...]:
    """Bytes of attention cache and recurrent state of each block.

    ``cuda`` adds the row padding that CUDA and ROCm buffers have for quantized rows.
    """
    kind, count = runtime.kv_cache_type, streams(runtime)
    full = cells_per_stream(runtime) * count
    sliding = sliding_cells(arch, runtime) * count if window(arch) else full
    kept = _kept_by_block(arch)
    state = state_bytes_each(arch, runtime)

    def size(block: _Kept) -> int:
        cells = sliding if block.slides else full
        value = block.value_width
        if value and not runtime.flash_attention:
            value = widest_value(arch)
        return (
            _cache_tensor_bytes(kind, block.key_width, cells, cuda=cuda)
            + _cache_tensor_bytes(kind, value, cells, cuda=cuda)
            + (state if block.recurrent else 0)
        )

    sizes = {block: size(block) for block in set(kept)}
    return tuple([sizes[block] for block in kept])


def cache_bytes(arch: Architecture, runtime: Runtime, *, cuda: bool = False) -> int:
    """Bytes of the whole attention cache and recurrent state."""
    return sum(cache_bytes_by_block(arch, runtime, cuda=cuda))


def state_bytes_each(arch: Architecture, runtime: Runtime) -> int:
    """Bytes of the recurrent state of one block."""
    return 4 * recurrent_elements(arch) * runtime.parallel


def state_bytes(arch: Architecture, runtime: Runtime) -> int:
    """Bytes of the recurrent state alone; context and cache type do not change it."""
    return state_bytes_each(arch, runtime) * sum(block.recurrent for block in _kept_by_block(arch))
