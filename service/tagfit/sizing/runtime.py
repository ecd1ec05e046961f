"""What Ollama would choose for a model on a machine where the request does not say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, get_args

from tagfit.facts import Architecture, CacheType, Device, Hardware, Runtime, at
from tagfit.sizing import rules
from tagfit.sizing.flash_attention import runs_on_cuda
from tagfit.sizing.ggml import tensor_type
from tagfit.sizing.kv_cache import ENCODERS, cached_head_lengths

FlashAttention = Literal["auto", "on", "off"]


def resolve(
    arch: Architecture,
    file_bytes: int,
    hardware: Hardware,
    *,
    context_length: int | None = None,
    parallel: int | None = None,
    kv_cache_type: CacheType | None = None,
    flash_attention: FlashAttention = "auto",
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    offloaded_layers: int | None = None,
    kv_unified: bool | None = None,
    embedding: bool = False,
    vision: bool = False,
) -> Runtime:
    """The settings that Ollama would load the model with.

    ``file_bytes`` is the size of the model's file, from which Ollama predicts what fits.
    Raises ValueError for settings that llama-server refuses: an unknown cache type, or a
    quantized cache without flash attention.
    """
    environment = hardware.environment
    sequences = parallel or _parallel(arch, environment, embedding=embedding)
    context = _context_length(arch, hardware, context_length, vision=vision)
    cache_type = kv_cache_type or _cache_type(environment)
    passed = _flash_attention(hardware, flash_attention)
    cuda = offloaded_layers != 0 and any(g.backend in rules.CUDA_BACKENDS for g in hardware.gpus)
    flash = _is_on(passed, arch, cache_type, cuda=cuda)
    _check_cache_type(arch, cache_type, flash_attention=flash)
    batch = batch_size or micro_batch_size
    if batch is None:
        gpus = () if offloaded_layers == 0 else hardware.gpus
        predicted = predicted_bytes(arch, file_bytes, context * sequences)
        if embedding:
            batch = min(rules.EMBEDDING_BATCH, context * sequences)
        else:
            batch = _generation_batch(
                context * sequences,
                predicted,
                placement_group(hardware, gpus, predicted),
                flash_attention=passed != "off",
            )
    return Runtime(
        context_length=context,
        parallel=sequences,
        kv_cache_type=cache_type,
        flash_attention=flash,
        batch_size=max(batch, micro_batch_size or 0),
        micro_batch_size=micro_batch_size or batch,
        kv_unified=bool(kv_unified),
        offloaded_layers=offloaded_layers,
        embedding=embedding,
    )


def setting(environment: Mapping[str, str], name: str) -> str:
    """An environment variable without the spaces and quotes that Ollama strips too."""
    return environment.get(name, "").strip().strip("\"'")


def unsigned(environment: Mapping[str, str], name: str, default: int = 0) -> int:
    """An unsigned number of 64 bits from the environment; what is none counts as unset."""
    value = setting(environment, name)
    digits = value.lstrip("0") or value[:1]
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        return default
    number = int(digits)
    return number if number < 1 << 64 else default


def flag(environment: Mapping[str, str], name: str) -> bool | None:
    """A switch from the environment: what is set and not a boolean counts as true."""
    value = setting(environment, name)
    if not value:
        return None
    return value not in {"0", "f", "F", "false", "False", "FALSE"}


def predicted_bytes(arch: Architecture, file_bytes: int, tokens: int) -> int:
    """Ollama's own rough prediction of a model's size (llm/llama_server.go, PredictServerVRAM)."""
    return file_bytes + _predicted_token_bytes(arch) * tokens


@lru_cache(maxsize=1024)
def _predicted_token_bytes(arch: Architecture) -> int:
    blocks = range(arch.block_count)
    key_value_heads = min((at(arch.head_count_kv, block) for block in blocks), default=0)
    heads = max((at(arch.head_count, block) for block in blocks), default=0)
    length = arch.embedding_length // heads if heads else 0
    return 4 * arch.block_count * max(key_value_heads, 1) * length


def default_contexts(hardware: Hardware) -> tuple[int, ...]:
    """Ollama's default context for any model, and those that it steps down to, longest first.

    Only one where OLLAMA_CONTEXT_LENGTH says it.
    """
    context = unsigned(hardware.environment, "OLLAMA_CONTEXT_LENGTH")
    if context:
        return (context,)
    overhead = unsigned(hardware.environment, "OLLAMA_GPU_OVERHEAD")
    memory = sum(gpu.memory_bytes - overhead for gpu in hardware.gpus)
    tiers = tuple(tier for least, tier in rules.CONTEXT_TIERS if memory >= least)
    return tiers or (rules.CONTEXT_TIERS[-1][1],)


def free_for_ollama(hardware: Hardware, gpu: Device) -> int:
    """A GPU's free memory as Ollama's scheduler counts it."""
    if hardware.unified_memory and hardware.memory_bytes:
        return min(gpu.free_memory_bytes, hardware.free_memory_bytes)
    return gpu.free_memory_bytes


def placement_group(
    hardware: Hardware, gpus: tuple[Device, ...], predicted: int
) -> tuple[Device, ...]:
    """The GPUs that Ollama hands to llama-server: one where it fits, else one backend's all."""
    if len(gpus) <= 1:
        return gpus

    def free(gpu: Device) -> int:
        return free_for_ollama(hardware, gpu)

    if not flag(hardware.environment, "OLLAMA_SCHED_SPREAD"):
        fitting = [gpu for gpu in gpus if predicted <= free(gpu) * rules.FIT_PERCENT // 100]
        if fitting:
            return (max(fitting, key=free),)
    backends = dict.fromkeys(gpu.backend for gpu in gpus)
    groups = [tuple(gpu for gpu in gpus if gpu.backend == backend) for backend in backends]
    return max(groups, key=lambda group: sum(map(free, group)))


def _parallel(arch: Architecture, environment: Mapping[str, str], *, embedding: bool) -> int:
    if embedding or arch.architecture in ENCODERS | rules.SINGLE_SEQUENCE:
        return 1
    return max(unsigned(environment, "OLLAMA_NUM_PARALLEL", 1), 1)


def _context_length(
    arch: Architecture, hardware: Hardware, wanted: int | None, *, vision: bool
) -> int:
    if wanted:
        return wanted
    context = default_contexts(hardware)[0]
    context = max(context, rules.MINIMUM_VISION_CONTEXT if vision else rules.MINIMUM_CONTEXT)
    return min(context, arch.context_length) if arch.context_length else context


def _cache_type(environment: Mapping[str, str]) -> CacheType:
    name = setting(environment, "OLLAMA_KV_CACHE_TYPE").lower() or "f16"
    for cache_type in get_args(CacheType):
        if name == cache_type:
            return cache_type  # type: ignore[no-any-return]  # get_args is untyped
    raise ValueError(f"OLLAMA_KV_CACHE_TYPE: {name!r} is not a cache type of llama.cpp")


def _check_cache_type(arch: Architecture, name: CacheType, *, flash_attention: bool) -> None:
    """Refuse what llama-server refuses (llama-context.cpp:3843, 3854)."""
    size = tensor_type(name).block_size
    if size == 1:
        return
    if not flash_attention:
        raise ValueError(f"a {name} KV cache needs flash attention")
    for sliding in (False, True):
        for length in {n for pair in cached_head_lengths(arch, sliding=sliding) for n in pair}:
            if length % size:
                raise ValueError(f"a {name} KV cache cannot hold heads of {length} elements")


def _flash_attention(hardware: Hardware, wanted: FlashAttention) -> FlashAttention:
    """What Ollama passes to llama-server (llm/llama_server.go, LlamaServerFlashAttention)."""
    if wanted != "auto":
        return wanted
    from_environment = flag(hardware.environment, "OLLAMA_FLASH_ATTENTION")
    if from_environment is not None:
        return "on" if from_environment else "off"
    supported = all(gpu.backend in rules.FLASH_ATTENTION_BACKENDS for gpu in hardware.gpus)
    return "auto" if supported else "off"


def _is_on(
    passed: FlashAttention, arch: Architecture, cache_type: CacheType, *, cuda: bool
) -> bool:
    """What llama-server makes of it: a quantized cache needs it (llama-context.cpp:3843)."""
    if passed == "off" or arch.architecture in rules.WITHOUT_FLASH_ATTENTION:
        return False
    quantized = tensor_type(cache_type).block_size > 1
    return passed == "on" or quantized or not cuda or runs_on_cuda(arch, cache_type)


def _generation_batch(
    tokens: int, predicted: int, gpus: tuple[Device, ...], *, flash_attention: bool
) -> int:
    """Ollama's num_batch where nobody set it (server/sched.go, automaticGenerationBatch)."""
    cuda = [gpu for gpu in gpus if gpu.backend == "cuda"]
    if cuda and not flash_attention:
        small = any(
            min(gpu.free_memory_bytes or gpu.memory_bytes, gpu.memory_bytes)
            <= rules.CONSTRAINED_MEMORY
            for gpu in cuda
        )
        constrained = tokens > rules.BATCH_TIERS[1][0] and small
        return rules.CONSTRAINED_BATCH if constrained else rules.DEFAULT_BATCH
    available = sum(gpu.free_memory_bytes for gpu in gpus)
    most = next(batch for above, batch in rules.BATCH_TIERS if tokens > above)
    for _, batch in rules.BATCH_TIERS:
        if batch <= most and _batch_fits(batch, predicted, available):
            return batch
    return rules.DEFAULT_BATCH


def _batch_fits(batch: int, predicted: int, available: int) -> bool:
    if batch == rules.DEFAULT_BATCH or not predicted or not available:
        return True
    room = available * rules.FIT_PERCENT // 100 - predicted
    headroom = available * rules.BATCH_HEADROOM[batch] // 100
    return predicted <= headroom and rules.BATCH_SURCHARGE[batch] <= room
