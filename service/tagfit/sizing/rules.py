"""What Ollama and llama.cpp decide by constants of one version: the only place that ages.

Read from Ollama v0.33.3 (``server/routes.go``, ``server/sched.go``, ``llm/llama_server.go``,
``ml/device.go``) and llama.cpp b11434 (``common/common.h``, ``common/fit.cpp``).
Ollama before 0.30 placed layers with an engine of its own and is not modelled.
"""

from __future__ import annotations

OLLAMA_VERSION = "0.33.3"
LLAMA_CPP_BUILD = "b11434"
OLDEST_OLLAMA = (0, 30, 0)
"""Older daemons place layers by themselves."""

MIB = 1 << 20
GIB = 1 << 30

CONTEXT_TIERS = ((47 * GIB, 262144), (23 * GIB, 32768), (0, 4096))
"""Total memory of all GPUs, default context (server/routes.go:2054)."""
MINIMUM_CONTEXT = 4
"""server/sched.go, getRunner."""
MINIMUM_VISION_CONTEXT = 2048

BATCH_TIERS = ((32768, 2048), (4096, 1024), (0, 512))
"""Above this many tokens of all requests, this batch (sched.go, generationBatchForContext)."""
BATCH_HEADROOM = {2048: 60, 1024: 75}
"""Per cent of the available memory that the predicted size may reach (server/sched.go:801)."""
BATCH_SURCHARGE = {2048: 2 * GIB, 1024: 768 * MIB}
"""server/sched.go, generationBatchSurcharge."""
FIT_PERCENT = 80
"""A prediction above this share of the free memory does not fit (server/sched.go)."""
MODELS_PER_GPU = 3
"""Loaded at once where OLLAMA_MAX_LOADED_MODELS is unset (server/sched.go, defaultModelsPerGPU)."""
DEFAULT_BATCH = 512
CONSTRAINED_BATCH = 256
"""CUDA without flash attention on at most 8 GiB beyond 4096 tokens."""
CONSTRAINED_MEMORY = 8 * GIB
EMBEDDING_BATCH = 2048
"""llm/llama_server.go, DefaultEmbeddingNumBatch."""

SINGLE_SEQUENCE = frozenset(
    {
        "mllama",
        "qwen3vl",
        "qwen3vlmoe",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "nemotron_h_omni",
    }
)
"""Architectures that Ollama never runs with parallel requests (server/sched.go:508)."""

FLASH_ATTENTION_BACKENDS = frozenset({"cpu", "metal", "cuda", "rocm", "vulkan"})
"""ml/device.go, FlashAttentionSupported."""

CUDA_BACKENDS = frozenset({"cuda", "rocm"})
"""Backends of one source; ROCm's is compiled from CUDA's."""

WITHOUT_FLASH_ATTENTION = frozenset({"grok"})
"""Architectures for which llama.cpp switches it off (llama-context.cpp:3819)."""

FIT_MARGIN = 1024 * MIB
"""Left free on each device (llama.cpp common/common.h:483)."""
PROJECTOR_HEADROOM = GIB
"""Added to a projector's bytes to make the margin (llm/llama_server.go, mmprojOffloadHeadroom)."""

DRIVER_CONTEXT = {
    "cuda": 457 * MIB,
    "rocm": 457 * MIB,
    "vulkan": 0,
    "sycl": 0,
    "metal": 0,
    "cpu": 0,
}
"""What a driver takes before the runner allocates, by backend.

Ollama sets 457 MiB aside for it on a discrete GPU (ml/device.go, MinimumMemory); measured
CUDA contexts are 300 to 500 MiB. Metal's budget already leaves it out.
"""
