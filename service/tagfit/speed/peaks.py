"""What a device could do: its own figures, the table's, or assumed ones that are said."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from tagfit.facts import Backend, Device, Hardware, Placement
from tagfit.speed.devices import KnownDevice, known_devices, lookup
from tagfit.speed.efficiency import CPU, EFFICIENCIES, INTEL, Efficiency
from tagfit.speed.hosts import host_memory

ASSUMED_HOST_BANDWIDTH = 51_200_000_000
"""A guess where it is not known: two channels of DDR4-3200, 8 bytes wide."""
ASSUMED_GPU_BANDWIDTH = 100_000_000_000
"""A guess where not even a GPU of like memory is known."""
COMPUTE_PER_BANDWIDTH = 60
"""FLOP/s for each byte/s where compute is not known: at the low end of the table."""
CORE_FLOPS = 50e9
"""What one core does with weights at prompt processing: a guess in the middle of published
figures for AVX2 (laptops from 30, desktops to 100 GFLOP/s)."""
CORE_BANDWIDTH = 25_000_000_000
"""What one core reads at most, so that a container with two cores of a server does not get all
of the server's channels: a guess between servers (about 12 GB/s) and desktops (30 and more)."""
SECOND_DIE = 0.73
"""Two chips read less than twice as fast: LLaMA 7B Q4_0 makes 94 tokens/s on an M2 Ultra and 66
on an M2 Max (github.com/ggml-org/llama.cpp/discussions/4167)."""
SHARPNESS = 4
"""Of the bend where a device's units, not its memory, limit how much is read: a guess."""


class Peak(NamedTuple):
    """What a device could do, and what of it is reached."""

    name: str
    stated_bandwidth: float
    bandwidth: float
    """What its units can take of it."""
    compute: float
    clock_hertz: float
    reached: Efficiency
    assumed: str
    """What was assumed, for a person; empty where nothing was."""

    @property
    def sustained_compute(self) -> float:
        """FLOP/s before the efficiency of the type: large devices reach less of their peak."""
        share: float = (self.compute / 100e12) ** -self.reached.saturation
        return self.compute * share


def gpu_peaks(placement: Placement, hardware: Hardware) -> list[Peak]:
    """Of each GPU in the placement, which may leave some of the machine's out."""
    left = list(hardware.gpus)
    peaks = []
    for device in placement.devices[:-1]:
        gpu = next(gpu for gpu in left if gpu.name == device.name)
        left.remove(gpu)
        peaks.append(gpu_peak(gpu))
    return peaks


def host_peak(hardware: Hardware) -> Peak:
    """Of the CPU and its memory: measured or given, else by the processor's name, else assumed."""
    bandwidth, source, assumed = hardware.bandwidth_bytes_per_second, "measured or given", ""
    if bandwidth is None and hardware.unified_memory and hardware.gpus:
        bandwidth, source = round(gpu_peak(hardware.gpus[0]).stated_bandwidth), "the GPU's"
    if bandwidth is None and (named := host_memory(hardware.cpu or "")):
        most = hardware.cores * CORE_BANDWIDTH
        bandwidth, source = min(named.bandwidth_bytes_per_second, most), f"{named.memory} by name"
        if bandwidth == most:
            source = f"of {source} what {hardware.cores} cores can read"
    if bandwidth is None:
        bandwidth, source = ASSUMED_HOST_BANDWIDTH, ""
        assumed = f"host memory: bandwidth unknown, {bandwidth / 1e9:.0f} GB/s assumed"
    name = f"host memory ({source})" if source else "host memory"
    compute = hardware.cores * CORE_FLOPS
    return Peak(name, bandwidth, bandwidth, compute, CPU.clock_hertz, CPU, assumed)


@lru_cache(maxsize=1024)
def gpu_peak(device: Device) -> Peak:
    """Of one GPU."""
    known = lookup(device.name, device.memory_bytes)
    reached = EFFICIENCIES[device.backend]
    if known is not None and known.vendor == "intel":
        reached = INTEL
    assumed = ""
    stated = device.bandwidth_bytes_per_second
    if stated is None and known is not None:
        stated = known.bandwidth_bytes_per_second
    if stated is None:
        stated = _usual_bandwidth(device.backend, device.memory_bytes)
        assumed = f"{device.name}: bandwidth unknown, {stated / 1e9:.0f} GB/s assumed"
    compute = device.compute_flops or (known.compute_flops if known else None)
    return Peak(
        device.name,
        stated,
        _usable_bandwidth(stated, known, reached) if known else stated,
        compute or stated * COMPUTE_PER_BANDWIDTH,
        known.clock_hertz if known else reached.clock_hertz,
        reached,
        assumed,
    )


def _usable_bandwidth(stated: float, known: KnownDevice, reached: Efficiency) -> float:
    memory = stated * (SECOND_DIE if known.dies > 1 else 1.0)
    units = known.units * known.clock_hertz * reached.unit_bytes_per_cycle
    usable: float = (memory**-SHARPNESS + units**-SHARPNESS) ** (-1 / SHARPNESS)
    return usable


def _usual_bandwidth(backend: Backend, memory_bytes: int) -> int:
    """The lower quartile of known GPUs of the backend with about this memory.

    Or that of any larger memory, where it is less: a card is not slower for having more.
    """
    usual = _lower_quartiles(backend)
    sizes = list(usual)
    at_least = sizes[max(bisect_right(sizes, memory_bytes) - 1, 0) :]
    return min([usual[size] for size in at_least], default=ASSUMED_GPU_BANDWIDTH)


@lru_cache(maxsize=16)
def _lower_quartiles(backend: Backend) -> dict[int, int]:
    """By memory, the smallest first."""
    parts = [known for known in known_devices() if known.backend == backend]
    cards = [known for known in parts if not known.unified] or parts
    return {
        size: _lower_quartile(cards, size) for size in sorted({one.memory_bytes for one in cards})
    }


def _lower_quartile(cards: list[KnownDevice], memory_bytes: int) -> int:
    alike = sorted(
        known.bandwidth_bytes_per_second
        for known in cards
        if 0.75 < known.memory_bytes / memory_bytes < 1.33
    )
    return alike[len(alike) // 4]
