"""A posted machine, by names or numbers -> Hardware, with what had to be assumed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from tagfit.catalog.library import Tag
from tagfit.facts import Backend, Device, Hardware
from tagfit.hardware.amd import default_gtt_bytes
from tagfit.hardware.apple import CURRENT_MACOS, metal_memory_bytes
from tagfit.hardware.daemon import DaemonState
from tagfit.hardware.ollama import INTEGRATED_ROCM
from tagfit.hardware.probed import MOST_BYTES
from tagfit.problems import InvalidRequest
from tagfit.sizing import rules
from tagfit.sizing.runtime import flag
from tagfit.speed.devices import KnownDevice, parse_device, suggest
from tagfit.speed.hosts import host_memory
from tagfit.units import GIB, Bytes, BytesPerSecond, format_bytes

ASSUMED_MEMORY_BYTES = 8 * GIB
"""A guess where no RAM is given: the least that a machine with a GPU is sold with."""
SYSTEM_MEMORY_BYTES = 8 * GIB
"""A guess where no free RAM is given: what the system and a desktop keep, at most a quarter."""
ASSUMED_CORES = 4
"""A guess where no cores are given, nor stand in the processor's name."""
MOST_GPUS = 64
MOST_USED_GPUS = 16
"""llama_max_devices (llama.cpp b11434, src/llama.cpp:86)."""
LEAST_GPU_BANDWIDTH = 10**9
"""Bytes/s: no GPU has less (DDR3 of 64 bits has 14 GB/s), so that it is a slip in the unit."""

GpuBackend = Literal["cuda", "rocm", "metal", "vulkan", "sycl"]

Size = Annotated[Bytes, Meta(description="bytes as an integer, or with a unit: 12GiB, 12GB")]


class PostedGpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU, or several of a kind: a known name, its memory, or both (numbers win)."""

    name: Annotated[str, Meta(max_length=128, examples=["RTX 3060", "2x RTX 3090"])] | None = None
    memory: Size | None = None
    free_memory: Size | None = None
    bandwidth: (
        Annotated[BytesPerSecond, Meta(description="bytes a second, or with a unit: 360GB/s")]
        | None
    ) = None
    backend: GpuBackend | None = None
    count: Annotated[int, Meta(ge=1, le=MOST_GPUS)] = 1


class PostedHardware(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine; every field is optional. What GET /hardware answers can be posted as it is."""

    gpus: Annotated[tuple[PostedGpu, ...], Meta(max_length=MOST_GPUS)] = ()
    memory: Size | None = None
    free_memory: Size | None = None
    bandwidth: (
        Annotated[BytesPerSecond, Meta(description="of the host's memory: 50GB/s")] | None
    ) = None
    cpu: (
        Annotated[
            str,
            Meta(
                max_length=256,
                description="name of the processor, or words for its memory",
                examples=["AMD Ryzen 7 7700X", "dual-channel DDR5-5600"],
            ),
        ]
        | None
    ) = None
    cores: Annotated[int, Meta(ge=1, le=4096, description="physical cores")] | None = None
    unified_memory: (
        Annotated[bool, Meta(description="GPU and CPU share one memory, as on a Mac")] | None
    ) = None
    disk_free: Annotated[Bytes, Meta(description="free disk where models land")] | None = None
    ollama: Annotated[
        dict[str, str],
        Meta(
            description="environment that Ollama runs with", examples=[{"OLLAMA_NUM_PARALLEL": "2"}]
        ),
    ] = {}
    daemon: Annotated[DaemonState, Meta(description="what Ollama says of itself")] | None = None
    details: Annotated[
        dict[str, Any], Meta(description="what GET /hardware says beside; not used")
    ] = {}
    probe: Annotated[dict[str, Any], Meta(description="from GET /hardware; not used")] = {}


class Machine(msgspec.Struct, frozen=True, dict=True):
    """The hardware that is answered for, and what was assumed about it."""

    hardware: Hardware
    assumptions: tuple[str, ...] = ()
    ollama_version: str | None = None
    installed: frozenset[str] = frozenset()
    """Tags that Ollama has: by the library's names where the daemon was asked, else as posted."""

    def has(self, tag: Tag) -> bool:
        """Whether Ollama has the tag, under any of its names."""
        if not self.installed:
            return False
        return not self._names.isdisjoint(name.lower() for name in (tag.name, *tag.aliases))

    @cached_property
    def _names(self) -> frozenset[str]:
        names = (name.lower() for name in self.installed)
        return frozenset(name if ":" in name else f"{name}:latest" for name in names)


class _Gpu(msgspec.Struct, frozen=True):
    """A posted GPU, what is known by its name, and how many of it there are."""

    posted: PostedGpu
    known: KnownDevice | None
    count: int
    field: str

    @property
    def backend(self) -> Backend:
        return self.posted.backend or (self.known.backend if self.known else "cuda")

    @property
    def unified(self) -> bool:
        return self.backend == "metal" or (self.known is not None and self.known.unified)

    def lives_in_host_memory(self, *, unified: bool) -> bool:
        """Whether its memory is the machine's, on a machine that has unified memory or not."""
        return unified and (self.unified or self.known is None)

    @property
    def memory_bytes(self) -> int:
        """As it is sold: of a unified one that is the machine's memory."""
        if self.posted.memory is not None:
            return self.posted.memory
        return self.known.memory_bytes if self.known else 0


def read_machine(posted: PostedHardware) -> Machine:
    """The machine that was posted. Raises InvalidRequest for what no machine has."""
    _check_quantities(posted)
    notes: list[str] = []
    found = [
        _identify(gpu, posted, f"hardware.gpus[{index}]") for index, gpu in enumerate(posted.gpus)
    ]
    if sum(gpu.count for gpu in found) > MOST_GPUS:
        raise InvalidRequest.field("hardware.gpus", None, f"more than {MOST_GPUS} GPUs in all")
    unified = posted.unified_memory
    if unified is None:
        unified = any(gpu.unified for gpu in found)
    shared = [gpu.memory_bytes for gpu in found if gpu.lives_in_host_memory(unified=unified)]
    memory, free = _host_memory(posted, max(shared, default=0), notes)
    gpus = [
        device
        for gpu in found
        for device in (_device(gpu, memory, notes, unified=unified),) * gpu.count
    ]
    if len(gpus) > MOST_USED_GPUS:
        notes.append(
            f"llama.cpp uses at most {MOST_USED_GPUS} GPUs: of these {len(gpus)} the first count"
        )
    hardware = Hardware(
        gpus=tuple(gpus[:MOST_USED_GPUS]),
        memory_bytes=memory,
        free_memory_bytes=free,
        bandwidth_bytes_per_second=posted.bandwidth,
        cpu=posted.cpu,
        cores=_cores(posted, notes),
        unified_memory=unified,
        disk_free_bytes=posted.disk_free,
        environment=posted.ollama,
    )
    daemon = posted.daemon or DaemonState()
    hardware = _with_idle_unloaded(hardware, daemon, notes)
    notes += _doubts(posted, found, unified=unified)
    return Machine(
        hardware, tuple(dict.fromkeys(notes)), daemon.version, frozenset(daemon.installed)
    )


def _check_quantities(posted: PostedHardware) -> None:
    """Refuse 0, which would read as none where it means unknown, and what cannot be."""
    totals = {"memory": posted.memory} | {
        f"gpus[{index}].memory": gpu.memory for index, gpu in enumerate(posted.gpus)
    }
    others = {
        "free_memory": posted.free_memory,
        "bandwidth": posted.bandwidth,
        "disk_free": posted.disk_free,
    } | {
        f"gpus[{index}].{name}": value
        for index, gpu in enumerate(posted.gpus)
        for name, value in (("free_memory", gpu.free_memory), ("bandwidth", gpu.bandwidth))
    }
    for name, value in (totals | others).items():
        if value is not None and value > MOST_BYTES:
            raise InvalidRequest.field(f"hardware.{name}", value, f"more than {MOST_BYTES}")
    for name, value in totals.items():
        if value == 0:
            message = "memory is more than 0; leave it out, or null, where it is not known"
            raise InvalidRequest.field(f"hardware.{name}", value, message)
    for index, gpu in enumerate(posted.gpus):
        if gpu.bandwidth is not None and gpu.bandwidth < LEAST_GPU_BANDWIDTH:
            message = "no GPU is so slow: at least 1GB/s; leave it out where it is not known"
            raise InvalidRequest.field(f"hardware.gpus[{index}].bandwidth", gpu.bandwidth, message)


def _identify(gpu: PostedGpu, posted: PostedHardware, field: str) -> _Gpu:
    if gpu.name is None:
        if gpu.memory is None:
            raise InvalidRequest.field(field, None, "a GPU needs a known name or its memory")
        return _Gpu(gpu, None, gpu.count, field)
    count, known = parse_device(gpu.name, gpu.memory)
    if known is not None and known.unified and posted.memory and posted.unified_memory is not False:
        if known.vendor == "amd" and gpu.memory and gpu.memory > posted.memory:
            # The firmware set it aside, so that the system does not count it.
            known = replace(known, unified=False)
        else:
            # The machine's memory tells the variant; the GPU's is what the system gives it of that.
            known = parse_device(gpu.name, posted.memory)[1]
    if count == 0:
        raise InvalidRequest.field(f"{field}.name", gpu.name, "none of them is no GPU")
    if known is None and gpu.memory is None:
        near = suggest(gpu.name)
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
        raise InvalidRequest.field(
            f"{field}.name",
            gpu.name,
            f"no GPU of this name is known, give its memory too, as in 12GiB{hint}",
            suggestions=near,
        )
    return _Gpu(gpu, known, gpu.count * count, field)


def _host_memory(posted: PostedHardware, shared: int, notes: list[str]) -> tuple[int, int]:
    """Total and free; ``shared`` is the memory of unified GPUs."""
    memory: int | None = posted.memory or shared or None
    if memory is None:
        memory = ASSUMED_MEMORY_BYTES
        notes.append(f"RAM not known: {format_bytes(memory)} assumed")
    free: int | None = posted.free_memory
    if free is None:
        free = memory - min(SYSTEM_MEMORY_BYTES, memory // 4)
        notes.append(f"free RAM not known: {format_bytes(free)} assumed")
    if free > memory:
        raise InvalidRequest.field(
            "hardware.free_memory", free, f"more than the {memory} bytes of hardware.memory"
        )
    return memory, free


def _device(gpu: _Gpu, host_bytes: int, notes: list[str], *, unified: bool) -> Device:
    posted, known = gpu.posted, gpu.known
    memory = gpu.memory_bytes
    free = memory if posted.free_memory is None else posted.free_memory
    if free > memory:
        raise InvalidRequest.field(
            f"{gpu.field}.free_memory", free, f"more than the {memory} bytes of the GPU's memory"
        )
    device = Device(
        name=known.name if known else posted.name or "GPU",
        memory_bytes=memory,
        free_memory_bytes=free,
        backend=gpu.backend,
        bandwidth_bytes_per_second=posted.bandwidth
        or (known.bandwidth_bytes_per_second if known else None),
        compute_flops=known.compute_flops if known else None,
    )
    if known is not None and known.variants:
        notes.append(
            f"{posted.name}: taken for {known.name} with {format_bytes(known.memory_bytes)};"
            f" it could also be {' or '.join(known.variants)}"
        )
    if device.bandwidth_bytes_per_second is None:
        notes.append(f"{device.name}: memory bandwidth unknown, speed is a rough guess")
    if memory >= host_bytes and gpu.lives_in_host_memory(unified=unified):
        device = _with_share_of(host_bytes, device, notes)
    return device


def _with_share_of(host_bytes: int, device: Device, notes: list[str]) -> Device:
    """What the system lets a GPU have of the machine's memory, where nobody says otherwise."""
    if device.backend == "metal":
        share = metal_memory_bytes(host_bytes)
        rule = f"macOS {CURRENT_MACOS} lets Metal have by default"
    elif device.backend in {"rocm", "vulkan"}:
        share = default_gtt_bytes(host_bytes)
        rule = "Linux lets the GPU have by default"
    else:
        return device
    notes.append(f"{device.name}: {format_bytes(share)} of memory, as {rule}")
    return replace(
        device, memory_bytes=share, free_memory_bytes=min(device.free_memory_bytes, share)
    )


def _cores(posted: PostedHardware, notes: list[str]) -> int:
    """As given, else by the processor's name: ``AMD EPYC 9654 96-Core Processor``."""
    named = re.search(r"\b(\d{1,3})[- ]cores?\b", posted.cpu or "", re.IGNORECASE)
    cores = posted.cores or (int(named[1]) if named else 0)
    if not cores and posted.cpu:
        notes.append(f"cores of {posted.cpu} not known: {ASSUMED_CORES} assumed")
    return cores or ASSUMED_CORES


def _doubts(posted: PostedHardware, found: list[_Gpu], *, unified: bool) -> Iterator[str]:
    """What may be otherwise on that machine."""
    if posted.cpu and posted.bandwidth is None and not unified and not host_memory(posted.cpu):
        yield f"{posted.cpu}: memory bandwidth unknown"
    if not flag(posted.ollama, "OLLAMA_IGPU_ENABLE"):
        for known in (gpu.known for gpu in found if gpu.known and gpu.known.unified):
            if known.vendor in {"amd", "intel"} and known.compute_capability not in INTEGRATED_ROCM:
                yield (
                    f"{known.name}: Ollama uses this integrated GPU only with"
                    " OLLAMA_IGPU_ENABLE=1, which is taken to be set"
                )
    version = posted.daemon.version if posted.daemon else None
    if _is_old(version):
        oldest = ".".join(map(str, rules.OLDEST_OLLAMA[:2]))
        yield (
            f"Ollama {version} places layers with an engine of its own, not modelled:"
            f" what lies where is answered as Ollama {oldest} and later would do it"
        )


def _is_old(version: str | None) -> bool:
    """Whether a daemon places layers by itself; 0.0.0 is one that somebody built."""
    numbers = re.match(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", version or "")
    found = tuple(int(number or 0) for number in numbers.groups()) if numbers else (0, 0, 0)
    return (0, 0, 0) < found < rules.OLDEST_OLLAMA


def _with_idle_unloaded(hardware: Hardware, daemon: DaemonState, notes: list[str]) -> Hardware:
    """The machine once Ollama has unloaded what it holds, as it does for a model that needs room.

    /api/ps does not tell the GPU, so that several get back in proportion to what is used of each.
    What a model keeps in host memory is mapped from its file for the most part, and counts as
    available already.
    """
    on_gpus = sum(model.gpu_memory_bytes for model in daemon.loaded)
    used = [gpu.memory_bytes - gpu.free_memory_bytes for gpu in hardware.gpus]
    back = [min(n, on_gpus * n // sum(used)) if n else 0 for n in used]
    host = min(on_gpus, hardware.memory_bytes - hardware.free_memory_bytes)
    host = host if hardware.unified_memory else 0
    if not any(back) and not host:
        return hardware
    names = ", ".join(model.model for model in daemon.loaded if model.gpu_memory_bytes)
    notes.append(
        f"loaded now: {names}; Ollama unloads idle models to make room, so that their"
        f" {format_bytes(max(sum(back), host))} of GPU memory count as free"
    )
    return replace(
        hardware,
        gpus=tuple(
            replace(gpu, free_memory_bytes=gpu.free_memory_bytes + more)
            for gpu, more in zip(hardware.gpus, back, strict=True)
        ),
        free_memory_bytes=hardware.free_memory_bytes + host,
    )
