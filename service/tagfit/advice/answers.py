"""What is answered: structs, and the facts that fill them."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from tagfit.facts import CacheType, Hardware, Placement, Runtime, Verdict
from tagfit.quality.capability import Capability
from tagfit.quality.degradation import Degradation
from tagfit.speed.roofline import Speed


class ModelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Which model and quantization the answer is about."""

    tag: str | None
    """None where no tag exists for the quantization that was asked for."""
    family: str
    architecture: str
    parameters: int
    quantization: str
    bits_per_weight: float
    context_length_limit: int
    capabilities: tuple[str, ...]


class RuntimeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How it is loaded, defaults filled in."""

    context_length: int
    parallel: int
    kv_cache_type: CacheType
    flash_attention: bool
    batch_size: int
    micro_batch_size: int
    kv_unified: bool


class FileAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is downloaded."""

    tensor_bytes: int
    """All tensors."""
    vision_bytes: int
    """Those of the vision tower or projector among them."""
    download_bytes: int
    """All layers of the tag."""
    basis: str


class DeviceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What of the model lies on one device."""

    name: str
    kind: Literal["gpu", "cpu"]
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    other_bytes: int
    total_bytes: int
    available_bytes: int
    layers: int


class MemoryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Memory at run time: the devices' sums, and each device."""

    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    other_bytes: int
    total_bytes: int
    devices: tuple[DeviceAnswer, ...]


ServedCacheType = Literal["f16", "q8_0", "q4_0"]
"""The cache types that Ollama documents (docs/faq.mdx), the largest first."""
StepName = Literal["offloaded_layers", "memory", "context_length", "kv_cache_type", "quantization"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One change that would bring the whole model onto the GPU, or let it run at all."""

    step: StepName
    sentence: str
    verdict: Verdict
    """What it would then be."""
    change: dict[str, int | str | None]
    """Fields of the request by their new values; empty where hardware must change."""
    extra_bytes: int | UnsetType = UNSET
    """Of memory, on each GPU where there are several."""


class FitAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how the model fits."""

    verdict: Verdict
    offloaded_layers: int
    total_layers: int
    max_context_length: int
    """Longest context wholly on the GPU; where that is none (or there is no GPU): that runs, in
    ``/recommend`` by closed form."""
    reason: str
    processor: str | None
    """PROCESSOR in ``ollama ps``; null where it does not run."""
    max_context_length_by_kv_cache_type: dict[ServedCacheType, int | None] | UnsetType = UNSET
    """Wholly on the GPU, without one in RAM; null for a type that the model cannot use.
    Like the next two, in ``/estimate`` only."""
    max_runnable_context_length: int | UnsetType = UNSET
    """Longest context that runs at all, the CPU helping."""
    next_step: tuple[Step, ...] | UnsetType = UNSET
    """What would make it better; empty where all is on the GPU, or there is none and it runs."""


class QualityAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the quantization costs, and what the model is good at."""

    degradation: Degradation
    capability: Capability


class GpuAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of the machine, in the fields that a request has."""

    name: str
    memory: int
    free_memory: int
    bandwidth: int | None
    backend: str


class HardwareAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that was answered for, in the fields that a request has."""

    gpus: tuple[GpuAnswer, ...]
    memory: int | None
    """null, as free_memory: not known."""
    free_memory: int | None
    bandwidth: int | None
    cpu: str | None
    cores: int
    unified_memory: bool
    disk_free: int | None
    ollama: dict[str, str]


class SettingsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What makes Ollama load the model as estimated."""

    options: dict[str, int]
    """Of the request to Ollama, or PARAMETER lines of a Modelfile."""
    environment: dict[str, str]
    """Of the daemon, where its default is another."""
    not_settable: tuple[str, ...]
    """Fields that were asked for and that Ollama has no setting for."""


class LoadedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A model that stays loaded beside the one that was asked for."""

    tag: str
    context_length: int
    verdict: Verdict
    processor: str | None
    total_bytes: int


class TogetherAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model and those of ``loaded`` are in memory at once."""

    fits: bool
    """All stay loaded, and the model runs beside them."""
    reason: str
    evicted: tuple[str, ...]
    """Tags that Ollama unloads to make room, in order."""
    loaded: tuple[LoadedAnswer, ...]
    """Those that stay."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What ``/estimate`` answers; every ``*_bytes`` is an integer number of bytes."""

    model: ModelAnswer
    runtime: RuntimeAnswer
    file: FileAnswer
    memory: MemoryAnswer
    fit: FitAnswer
    speed: Speed
    quality: QualityAnswer
    settings: SettingsAnswer
    together: TogetherAnswer | UnsetType = UNSET
    """Where the request names ``loaded``; the estimate is then for the memory that they leave."""
    hardware: HardwareAnswer
    warnings: tuple[str, ...]


def answer_runtime(runtime: Runtime) -> RuntimeAnswer:
    """How it is loaded."""
    return RuntimeAnswer(
        **{name: getattr(runtime, name) for name in RuntimeAnswer.__struct_fields__}
    )


def answer_memory(placement: Placement) -> MemoryAnswer:
    """Where it lies."""
    devices = tuple(
        DeviceAnswer(**{name: getattr(device, name) for name in DeviceAnswer.__struct_fields__})
        for device in placement.devices
    )
    return MemoryAnswer(
        weights_bytes=sum(device.weights_bytes for device in devices),
        kv_cache_bytes=sum(device.kv_cache_bytes for device in devices),
        compute_bytes=sum(device.compute_bytes for device in devices),
        other_bytes=sum(device.other_bytes for device in devices),
        total_bytes=sum(device.total_bytes for device in devices),
        devices=devices,
    )


def answer_hardware(hardware: Hardware) -> HardwareAnswer:
    """The machine in the fields that a request has."""
    return HardwareAnswer(
        gpus=tuple(
            GpuAnswer(
                name=gpu.name,
                memory=gpu.memory_bytes,
                free_memory=gpu.free_memory_bytes,
                bandwidth=gpu.bandwidth_bytes_per_second,
                backend=gpu.backend,
            )
            for gpu in hardware.gpus
        ),
        memory=hardware.memory_bytes or None,
        free_memory=hardware.free_memory_bytes if hardware.memory_bytes else None,
        bandwidth=hardware.bandwidth_bytes_per_second,
        cpu=hardware.cpu,
        cores=hardware.cores,
        unified_memory=hardware.unified_memory,
        disk_free=hardware.disk_free_bytes,
        ollama=hardware.environment,
    )
