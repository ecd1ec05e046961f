"""Which models CUDA's and ROCm's flash attention can run.

Source: llama.cpp b11434 ``ggml/src/ggml-cuda/fattn.cu:541``. Where a GPU cannot, llama.cpp turns
flash attention off if it was left to choose (``llama-context.cpp:505``); where it was asked for,
or a quantized cache needs it, the host computes attention over a copy of the whole cache.
"""

from __future__ import annotations

from functools import lru_cache

from tagfit.facts import Architecture, CacheType, at
from tagfit.sizing import kv_cache

EQUAL_HEADS = frozenset({40, 64, 72, 80, 96, 112, 128, 256, 512})
"""Lengths of key heads whose value heads are as long."""
UNEQUAL_HEADS = {192: (128, 8), 320: (256, 32), 576: (512, 1)}
"""Length of a key head to that of its value heads, and what divides its number of queries."""
GROUPED = 512
"""From this length on, equal heads need two queries or more for each."""
CACHE_TYPES = frozenset({"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})


def _head_runs(key: int, value: int, queries: int) -> bool:
    if key in EQUAL_HEADS:
        return key == value and (key < GROUPED or queries >= 2)
    wanted, divisor = UNEQUAL_HEADS.get(key, (0, 1))
    return value == wanted and queries >= 2 and queries % divisor == 0


@lru_cache(maxsize=1024)
def runs_on_cuda(arch: Architecture, cache_type: CacheType) -> bool:
    """Whether there is a kernel for every attention head of the model."""
    encoder = arch.architecture in kv_cache.ENCODERS
    if not encoder and cache_type not in CACHE_TYPES:
        return False
    latent = kv_cache.uses_latent_attention(arch)
    return all(
        _head_runs(
            *kv_cache.head_lengths(arch, block),
            at(arch.head_count, block) // (1 if latent else at(arch.head_count_kv, block) or 1),
        )
        for block in range(kv_cache.trunk_blocks(arch))
        if kv_cache.has_attention(arch, block)
    )
