"""What Ollama must be told to load a model as estimated, and what ``ollama ps`` then shows.

Read from Ollama v0.33.3: ``llm/llama_server.go`` (arguments of llama-server, MemorySize) and
``cmd/cmd.go`` (ListRunningHandler).
"""

from __future__ import annotations

from functools import lru_cache
from math import floor

from tagfit.advice.answers import SettingsAnswer
from tagfit.facts import Architecture, Hardware, Placement, Runtime
from tagfit.sizing import kv_cache, rules

PASSED_ON = ("OLLAMA_SCHED_SPREAD", "LLAMA_ARG_FIT_TARGET")
"""What placement depends on and no request field says."""


def maps_weights(hardware: Hardware) -> bool:
    """Whether a load that is partly on the GPU is memory-mapped: not on Metal (server/sched.go)."""
    return not any(gpu.backend == "metal" for gpu in hardware.gpus)


def uncounted_cache_bytes(
    arch: Architecture, runtime: Runtime, placement: Placement, hardware: Hardware
) -> tuple[int, ...]:
    """KV cache on each device, the host last, that Ollama does not see.

    llama-server logs two caches for a model with sliding windows, that of the full-attention
    blocks first, and Ollama keeps the last line of a device (llm/llama_server.go:2729).
    """
    full = _full_beside_sliding(arch)
    if not full:
        return (0,) * len(placement.devices)
    *gpus, _ = placement.devices
    padded = any(gpu.backend in rules.CUDA_BACKENDS for gpu in hardware.gpus)
    on_host = kv_cache.cache_bytes_by_block(arch, runtime)
    on_gpu = kv_cache.cache_bytes_by_block(arch, runtime, cuda=padded)
    first = placement.total_layers - placement.offloaded_layers
    found, start = [], first
    for gpu in gpus:
        found.append(sum(on_gpu[block] for block in full if start <= block < start + gpu.layers))
        start += gpu.layers
    return (*found, sum(on_host[block] for block in full if block < first))


@lru_cache(maxsize=1024)
def _full_beside_sliding(arch: Architecture) -> tuple[int, ...]:
    """Blocks with a full-attention cache where others have a sliding window; else none."""
    trunk = range(kv_cache.trunk_blocks(arch))
    attending = [block for block in trunk if kv_cache.has_cache(arch, block)]
    full = tuple(block for block in attending if not kv_cache.slides(arch, block))
    return full if len(full) < len(attending) else ()


def processor(
    placement: Placement,
    tensor_bytes: int,
    *,
    mapped: bool = True,
    uncounted: tuple[int, ...] = (),
) -> str | None:
    """The column PROCESSOR of ``ollama ps``: ``32%/68% CPU/GPU``; None where nothing runs.

    Ollama adds up llama-server's buffers by device. It leaves out the driver's context and the
    projector's weights, what is ``uncounted`` on each device, and counts memory-mapped weights no
    more often than the file holds them.
    """
    if placement.verdict == "none":
        return None
    if placement.verdict == "gpu":
        return "100% GPU"
    host = placement.devices[-1]
    seen = sum(device.total_bytes - device.other_bytes for device in placement.devices)
    total = seen - sum(uncounted)
    vram = total - (host.total_bytes - host.other_bytes - sum(uncounted[-1:]))
    if not vram:
        return "100% CPU"
    if mapped:
        held = sum(device.weights_bytes for device in placement.devices)
        total -= min(host.weights_bytes, max(held - tensor_bytes, 0))
    cpu = floor((total - vram) / total * 100 + 0.5)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def settings(
    arch: Architecture, runtime: Runtime, hardware: Hardware, *, batch_asked: bool
) -> SettingsAnswer:
    """The request's options and the daemon's environment that load a model like this."""
    options = {"num_ctx": runtime.context_length}
    if batch_asked:
        options["num_batch"] = runtime.micro_batch_size
    if runtime.offloaded_layers is not None:
        options["num_gpu"] = runtime.offloaded_layers
    environment = {
        name: hardware.environment[name] for name in PASSED_ON if name in hardware.environment
    }
    if runtime.kv_cache_type != "f16":
        environment["OLLAMA_KV_CACHE_TYPE"] = runtime.kv_cache_type
    if runtime.parallel > 1:
        environment["OLLAMA_NUM_PARALLEL"] = str(runtime.parallel)
    by_default = arch.architecture not in rules.WITHOUT_FLASH_ATTENTION and all(
        gpu.backend in rules.FLASH_ATTENTION_BACKENDS for gpu in hardware.gpus
    )
    if runtime.flash_attention != by_default:
        environment["OLLAMA_FLASH_ATTENTION"] = str(int(runtime.flash_attention))
    return SettingsAnswer(
        options=options,
        environment=environment,
        not_settable=_not_settable(arch, runtime),
    )


def _not_settable(arch: Architecture, runtime: Runtime) -> tuple[str, ...]:
    """Request fields that Ollama has no setting for."""
    single = runtime.parallel > 1 and arch.architecture in rules.SINGLE_SEQUENCE
    checks = {
        "parallel": single,
        "batch_size": runtime.batch_size != runtime.micro_batch_size,
        "kv_unified": runtime.kv_unified,
    }
    return tuple(name for name, wrong in checks.items() if wrong)
