"""What Ollama makes of the GPUs and of its environment (v0.33.3)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from tagfit.hardware.gpu import Gpu
from tagfit.hardware.visible import visible_amd, visible_nvidia

RELEVANT = frozenset(
    {
        "OLLAMA_CONTEXT_LENGTH",
        "OLLAMA_FLASH_ATTENTION",
        "OLLAMA_GPU_OVERHEAD",
        "OLLAMA_IGPU_ENABLE",
        "OLLAMA_KV_CACHE_TYPE",
        "OLLAMA_LLM_LIBRARY",
        "OLLAMA_MAX_LOADED_MODELS",
        "OLLAMA_NUM_PARALLEL",
        "OLLAMA_SCHED_SPREAD",
        "OLLAMA_VULKAN",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "GGML_VK_VISIBLE_DEVICES",
        "HSA_OVERRIDE_GFX_VERSION",
        "GGML_CUDA_ENABLE_UNIFIED_MEMORY",
    }
)
"""Variables that decide what fits (envconfig/config.go); others may be secrets."""
RELEVANT_PREFIX = "LLAMA_ARG_"
INTEGRATED_ROCM = frozenset({"gfx1151"})
"""Integrated GPUs that are used without OLLAMA_IGPU_ENABLE (discover/runner.go:29)."""


def relevant_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that decide what fits; nothing else of the environment is shown."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name in RELEVANT or (name.startswith(RELEVANT_PREFIX) and not name.endswith("_FILE"))
    }


def as_ollama_chooses(
    gpus: Sequence[Gpu], environment: Mapping[str, str], nvidia_driver: str | None = None
) -> tuple[Gpu, ...]:
    """The GPUs that Ollama uses, then the others with the reason in ``excluded``."""
    nvidia = [_on_cuda_or_vulkan(gpu, nvidia_driver) for gpu in gpus if gpu.vendor == "nvidia"]
    # ROCm's variables count all GPUs of its topology, also those that Ollama runs on Vulkan.
    counted = [gpu for gpu in gpus if gpu.vendor == "amd" and gpu.index is not None]
    ordered = [
        *visible_nvidia(nvidia, environment),
        *(gpu for gpu in visible_amd(counted, environment) if gpu.backend == "rocm"),
        *(gpu for gpu in gpus if gpu.vendor != "nvidia" and gpu.backend != "rocm"),
    ]
    judged = [replace(g, excluded=g.excluded or _why_not(g, environment)) for g in ordered]
    return tuple(sorted(judged, key=lambda gpu: gpu.excluded is not None))


def _on_cuda_or_vulkan(gpu: Gpu, driver: str | None) -> Gpu:
    """A GPU or driver too old for Ollama's CUDA builds is left to Vulkan.

    CMakePresets.json:71: compute capability 5.0 and later; discover/cuda_compat.go: of the driver
    550 and later, 570 below compute capability 7.0.
    """
    capability = float(gpu.compute_capability or "inf")
    major = int(match[0]) if driver and (match := re.match(r"\d+", driver)) else math.inf
    runs = capability >= 5.0 and major >= (550 if capability >= 7.0 else 570)
    return gpu if runs else replace(gpu, backend="vulkan")


def _why_not(gpu: Gpu, environment: Mapping[str, str]) -> str | None:
    if gpu.backend == "vulkan" and _switch(environment.get("OLLAMA_VULKAN", "")) is False:
        return "not for CUDA or ROCm as Ollama builds them, and OLLAMA_VULKAN is off"
    wanted = _switch(environment.get("OLLAMA_IGPU_ENABLE", ""))
    if gpu.integrated and not (_by_default(gpu) if wanted is None else wanted):
        return "integrated, and OLLAMA_IGPU_ENABLE is not on"
    return None


def _by_default(gpu: Gpu) -> bool:
    """Whether an integrated GPU is used without being asked for (discover/runner.go:404)."""
    if gpu.backend == "rocm":
        return gpu.compute_capability in INTEGRATED_ROCM
    return gpu.backend in {"cuda", "metal"}


def _switch(value: str) -> bool | None:
    """As Ollama reads a switch (envconfig BoolWithDefault): unset is None, nonsense is on."""
    text = value.strip().strip("\"'")
    return text not in {"0", "f", "F", "false", "False", "FALSE"} if text else None
