"""A machine as Ollama will find it, put together from what its probes gave."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from tagfit.facts import Hardware
from tagfit.hardware.cgroup import Limits
from tagfit.hardware.cpu import Cpu
from tagfit.hardware.daemon import DaemonState
from tagfit.hardware.disk import Disk
from tagfit.hardware.gpu import Gpu, GpuReport, ProbeStatus
from tagfit.hardware.host import Memory
from tagfit.hardware.ollama import as_ollama_chooses, relevant_variables
from tagfit.units import SMALLEST_BARE_BYTES

MOST_BYTES = 2**50
"""A PiB: what tells of more, or of less than a size may be without a unit, is not believed."""


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """A machine: what sizes and speeds need, and what else is known of it."""

    hardware: Hardware
    """As Ollama finds it: limits applied, only the GPUs that it uses."""
    gpus: tuple[Gpu, ...] = ()
    """All GPUs, those that Ollama uses first."""
    cpu: Cpu = Cpu()
    memory: Memory | None = None
    limits: Limits = Limits()
    disk: Disk = Disk()
    daemon: DaemonState | None = None
    nvidia_driver_version: str | None = None
    cuda_version: str | None = None
    probe: dict[str, ProbeStatus] = {}
    """How each probe went, by its name."""


def assemble(
    *,
    reports: Mapping[str, GpuReport | None],
    memory: Memory | None,
    cpu: Cpu,
    limits: Limits,
    disk: Disk,
    daemon: DaemonState | None = None,
    bandwidth_bytes_per_second: int | None,
    environment: Mapping[str, str],
) -> Probed:
    """The machine from what its probes gave; a part that is not known is 0 or null."""
    found = [_in_host_memory(gpu, memory) for r in reports.values() if r for gpu in r.gpus]
    driver = reports.get("nvidia")
    gpus = as_ollama_chooses(found, environment, driver.driver_version if driver else None)
    used = [gpu for gpu in gpus if gpu.excluded is None]
    total_bytes, free_bytes = limited(memory, limits)
    hardware = Hardware(
        gpus=tuple(gpu.device() for gpu in used),
        memory_bytes=total_bytes,
        free_memory_bytes=free_bytes,
        bandwidth_bytes_per_second=bandwidth_bytes_per_second,
        cpu=cpu.name,
        cores=_usable_cores(cpu, limits),
        unified_memory=any(gpu.unified for gpu in used),
        disk_free_bytes=disk.free_bytes,
        environment=relevant_variables(environment),
    )
    return Probed(
        hardware=hardware,
        gpus=gpus,
        cpu=cpu,
        memory=memory,
        limits=limits,
        disk=disk,
        daemon=daemon,
        nvidia_driver_version=driver.driver_version if driver else None,
        cuda_version=driver.cuda_version if driver else None,
    )


def _in_host_memory(gpu: Gpu, memory: Memory | None) -> Gpu:
    """A GPU without memory of its own has the host's, as llama.cpp takes it for CUDA.

    b11434, ggml/src/ggml-cuda/ggml-cuda.cu:5158.
    """
    if gpu.memory_bytes or not gpu.integrated:
        impossible = gpu.excluded is None and not _is_a_memory(gpu.memory_bytes)
        return replace(gpu, excluded="its driver tells an impossible memory") if impossible else gpu
    if memory is None:
        reason = gpu.excluded or "its memory is the host's, which is not known"
        return replace(gpu, excluded=reason)
    return replace(
        gpu,
        memory_bytes=memory.total_bytes,
        free_memory_bytes=memory.available_bytes,
        unified=True,
    )


def limited(memory: Memory | None, limits: Limits) -> tuple[int, int]:
    """Total and free bytes within the limits; 0 is not known."""
    totals = [memory.total_bytes if memory else None, limits.memory_bytes]
    frees = [memory.available_bytes if memory else None, limits.free_memory_bytes]
    total = min((n for n in totals if n is not None and _is_a_memory(n)), default=0)
    return total, min((n for n in frees if n is not None), default=0) if total else 0


def _is_a_memory(count: int) -> bool:
    return SMALLEST_BARE_BYTES <= count <= MOST_BYTES


def _usable_cores(cpu: Cpu, limits: Limits) -> int:
    cores = cpu.performance_cores or cpu.logical_cores or 1
    return cores if limits.cpus is None else max(1, min(cores, math.ceil(limits.cpus)))
