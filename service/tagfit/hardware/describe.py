"""A probed machine, written for a person in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from tagfit.hardware.cgroup import Limits
from tagfit.hardware.daemon import DaemonState
from tagfit.hardware.gpu import Gpu
from tagfit.hardware.probed import Probed
from tagfit.units import format_bytes


def describe(probed: Probed) -> str:
    """Lines of what was found, what limits it, and what could not be asked."""
    hardware, cpu = probed.hardware, probed.cpu
    rows = [
        *(("GPU", _gpu(gpu)) for gpu in probed.gpus),
        ("CPU", ", ".join(filter(None, [cpu.name, f"{hardware.cores} cores", *cpu.features]))),
        ("RAM", _memory(hardware.memory_bytes, hardware.free_memory_bytes)),
        ("RAM speed", _rate(hardware.bandwidth_bytes_per_second)),
        ("limit", _limit(probed.limits)),
        ("disk", _disk(probed)),
        ("driver", _driver(probed)),
        *_daemon(probed.daemon),
        *(("setting", f"{name}={value}") for name, value in hardware.environment.items()),
        *(
            (name, f"{status.status}: {status.detail}")
            for name, status in probed.probe.items()
            if status.detail
        ),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows if text)


def _gpu(gpu: Gpu) -> str:
    parts = [
        gpu.name,
        _memory(gpu.memory_bytes, gpu.free_memory_bytes),
        _rate(gpu.bandwidth_bytes_per_second),
        gpu.backend,
        gpu.compute_capability,
        gpu.pci_bus_id,
        f"not used: {gpu.excluded}" if gpu.excluded else None,
    ]
    return ", ".join(filter(None, parts))


def _memory(total_bytes: int, free_bytes: int) -> str:
    if not total_bytes:
        return "memory unknown"
    return f"{format_bytes(total_bytes)}, {format_bytes(free_bytes)} free"


def _rate(bytes_per_second: int | None) -> str | None:
    return f"{bytes_per_second / 1e9:.0f} GB/s" if bytes_per_second else None


def _limit(limits: Limits) -> str:
    memory, cpus = limits.memory_bytes, limits.cpus
    return ", ".join(
        [
            *([f"{format_bytes(memory)} by {limits.source}"] if memory is not None else []),
            *([f"{cpus:g} CPUs"] if cpus is not None else []),
        ]
    )


def _disk(probed: Probed) -> str | None:
    free = probed.disk.free_bytes
    if free is None:
        return probed.disk.reason
    return f"{format_bytes(free)} free for {probed.disk.models_directory}"


def _daemon(daemon: DaemonState | None) -> Iterator[tuple[str, str]]:
    if daemon is None:
        return
    yield "Ollama", daemon.version or "of unknown version"
    for model in daemon.loaded:
        memory, gpu = format_bytes(model.memory_bytes), format_bytes(model.gpu_memory_bytes)
        yield "loaded", f"{model.model}, {memory}, {gpu} of it on GPUs"
    for name in daemon.installed:
        yield "installed", name


def _driver(probed: Probed) -> str | None:
    driver, cuda = probed.nvidia_driver_version, probed.cuda_version
    return f"NVIDIA {driver}, CUDA up to {cuda}" if driver else None
