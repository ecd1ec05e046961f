"""Machines that do it, by name: of each kind in the device table the least.

Only parts of 2020 and later, alone or several of a kind. What they are is read from a request
as ``/estimate`` would be sent it, so that both say the same of a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from tagfit.advice.least_hardware import RAM_SIZES, Case, CpuNeed, GpuNeed, ram_sold
from tagfit.advice.machine import PostedHardware, read_machine
from tagfit.facts import Backend, Device, Hardware, Placement, Runtime, Verdict
from tagfit.hardware.ollama import INTEGRATED_ROCM
from tagfit.sizing import rules
from tagfit.speed.devices import KnownDevice, known_devices, lookup
from tagfit.speed.efficiency import EFFICIENCIES
from tagfit.speed.hosts import host_memory
from tagfit.speed.peaks import CORE_BANDWIDTH, gpu_peak
from tagfit.speed.roofline import Range, Speed
from tagfit.units import GIB, decode_quantity, format_bytes

Kind = Literal[
    "NVIDIA desktop",
    "NVIDIA laptop",
    "NVIDIA workstation",
    "NVIDIA data centre",
    "AMD Radeon",
    "AMD workstation",
    "AMD data centre",
    "Intel Arc",
    "Apple",
    "shared memory",
    "CPU",
]
"""``shared memory``: a GPU without memory of its own, but for Apple's."""

OLDER = frozenset(
    {"Pascal", "Volta", "Turing", "Turing without tensor cores", "GCN", "Vega", "RDNA 1"}
)
"""Architectures of before 2020: hardly sold new, so no examples."""
SEVERAL: dict[Kind, tuple[int, ...]] = {
    "NVIDIA desktop": (2, 4),
    "NVIDIA workstation": (2, 4, 8),
    "NVIDIA data centre": (2, 4, 8),
    "AMD Radeon": (2, 4),
    "AMD workstation": (2, 4, 8),
    "AMD data centre": (2, 4, 8),
}
"""How many of one device a machine is built with, where one is not enough: a judgement."""
HOST_MEMORIES = (
    *("2 channels of DDR4-3200", "2 channels of DDR5-5600", "2 channels of DDR5-6400"),
    *("4 channels of DDR5-6400", "8 channels of DDR5-6400", "12 channels of DDR5-6400"),
)
"""Of desktops, workstations and servers: a choice among what is usual."""


class Offer(NamedTuple):
    """One device in one memory size; the order is that of the examples."""

    sold_bytes: int
    """The size that it is sold with, of which a driver may show a little less."""
    bandwidth_bytes_per_second: int
    name: str
    """As it may be posted."""
    memory_bytes: int
    unified: bool
    backend: Backend
    usable_bandwidth: float
    """Bytes/s that its units can take."""
    clock_hertz: float


class ExampleMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that does it, with the figures that ``/estimate`` gives of it."""

    kind: Kind
    name: str
    verdict: Verdict
    generation_tokens_per_second: Range
    prefill_tokens_per_second: Range
    hardware: dict[str, Any]
    """Of a request to ``/estimate``."""


class _Tried(NamedTuple):
    """All layers on the GPUs of one machine."""

    posted: dict[str, Any]
    hardware: Hardware
    runtime: Runtime
    placement: Placement


def gpu_examples(case: Case, need: GpuNeed) -> tuple[ExampleMachine, ...]:
    """Of each kind the least machine that holds all layers and is fast enough."""
    found = (_example(case, kind, need) for kind in offers())
    return tuple(example for example in found if example is not None)


def cpu_examples(case: Case, need: CpuNeed) -> tuple[ExampleMachine, ...]:
    """The least usual host memory that is fast enough, if there is one."""
    if need.memory_bytes is None or need.cores is None:
        return ()
    for text in HOST_MEMORIES:
        known = host_memory(text)
        if known is None:
            continue
        bandwidth = known.bandwidth_bytes_per_second
        cores = max(need.cores or 0, ceil(bandwidth / CORE_BANDWIDTH))
        posted = {"memory": need.memory_bytes, "bandwidth": bandwidth, "cores": cores}
        hardware = _machine(posted)
        tried = _Tried(posted, hardware, *case.lay(hardware))
        found = case.speed(tried.runtime, tried.placement, tried.hardware)
        if case.rates.met(found):
            name = f"{format_bytes(need.memory_bytes)} in {known.memory}, {cores} cores"
            return (_answer("CPU", name, tried, found),)
    return ()


def why_none(case: Case, need: GpuNeed) -> str:
    """Why there is no example with a GPU."""
    for count in (1, 2, 4, 8):
        choices = [
            offer
            for kind, offers_of_kind in offers().items()
            if count in (1, *SEVERAL.get(kind, ()))
            for offer in offers_of_kind
        ]
        for offer in sorted(choices, key=lambda one: (-one.usable_bandwidth, one)):
            tried = _try(case, offer, count, need.free_memory_bytes)
            if tried is not None:
                _, hardware, runtime, placement = tried
                found = case.speed(runtime, placement, hardware)
                return (
                    f"no GPU in the table that holds it is fast enough: {_several(offer, count)}"
                    f" generates {found.generation_tokens_per_second.expected:.0f} tokens a second"
                    f" and reads {found.prefill_tokens_per_second.expected:.0f}"
                )
    return (
        f"no GPU in the table, nor up to 8 of one, holds it: one alone would need"
        f" {format_bytes(need.free_memory_bytes)} free"
    )


@lru_cache(maxsize=1)
def offers() -> dict[Kind, tuple[Offer, ...]]:
    """What there is of each kind, ordered by memory, then bandwidth, then name."""
    found: dict[Kind, list[Offer]] = {}
    for device in known_devices():
        if _is_usual(device):
            found.setdefault(_kind(device), []).extend(_offers(device))
    return {kind: tuple(sorted(found[kind])) for kind in get_args(Kind) if kind in found}


@lru_cache(maxsize=1)
def _sizes() -> tuple[tuple[int, int], ...]:
    discrete = (offer for kind in offers().values() for offer in kind if not offer.unified)
    return tuple(sorted({(offer.memory_bytes, offer.sold_bytes) for offer in discrete}))


def gpu_memory_sold(free_bytes: int) -> int | None:
    """The least memory that a GPU with so much of its own is sold with."""
    return min((sold for has, sold in _sizes() if has >= free_bytes), default=None)


def _is_usual(device: KnownDevice) -> bool:
    """Sold in the last years, and used by Ollama without a switch."""
    integrated = device.unified and device.vendor in {"amd", "intel"}
    return device.architecture not in OLDER and (
        not integrated or device.compute_capability in INTEGRATED_ROCM
    )


def _kind(device: KnownDevice) -> Kind:
    words = device.name.split()
    kinds: tuple[tuple[bool, Kind], ...] = (
        (device.vendor == "apple", "Apple"),
        (device.unified, "shared memory"),
        (device.vendor == "intel", "Intel Arc"),
        ("Instinct" in words, "AMD data centre"),
        ("RX" in words, "AMD Radeon"),
        (device.vendor == "amd", "AMD workstation"),
        (device.laptop, "NVIDIA laptop"),
        ("GeForce" in words, "NVIDIA desktop"),
        ("RTX" in words, "NVIDIA workstation"),
    )
    return next((kind for fits, kind in kinds if fits), "NVIDIA data centre")


def _offers(device: KnownDevice) -> Iterator[Offer]:
    choices = device.memory_choices
    for sold in choices:
        memory = sold if len(choices) > 1 else device.memory_bytes
        peak = gpu_peak(
            Device(
                name=device.name,
                memory_bytes=memory,
                free_memory_bytes=memory,
                backend=device.backend,
                bandwidth_bytes_per_second=device.bandwidth_bytes_per_second,
            )
        )
        yield Offer(
            sold_bytes=sold,
            bandwidth_bytes_per_second=device.bandwidth_bytes_per_second,
            name=_name(device, memory, sold // GIB),
            memory_bytes=memory,
            unified=device.unified,
            backend=device.backend,
            usable_bandwidth=peak.bandwidth,
            clock_hertz=peak.clock_hertz,
        )


def _name(device: KnownDevice, memory_bytes: int, gibibytes: int) -> str:
    """The shortest name that is read as this device with this memory."""
    long = f" {device.units}-core GPU {gibibytes} GB"
    for more in ("", f" {gibibytes} GB", long):
        meant = lookup(device.name + more)
        if meant is not None and (meant.units, meant.memory_bytes) == (device.units, memory_bytes):
            return device.name + more
    raise ValueError(f"no name means {device.name}{long}")


def _several(offer: Offer, count: int) -> str:
    return f"{count}x {offer.name}" if count > 1 else offer.name


def _example(case: Case, kind: Kind, need: GpuNeed) -> ExampleMachine | None:
    fast = _fast(case, kind, need.kv_cache_bytes)
    for count in (1, *SEVERAL.get(kind, ())):
        for offer in fast:
            tried = _try(case, offer, count, need.free_memory_bytes)
            if tried is not None:
                found = case.speed(tried.runtime, tried.placement, tried.hardware)
                if case.rates.met(found):
                    return _answer(kind, _several(offer, count), tried, found)
    return None


def _fast(case: Case, kind: Kind, kv_cache_bytes: int) -> list[Offer]:
    """What could be fast enough, were all else free."""
    rate = case.rates.min_generation_tokens_per_second or 0.0
    least = {backend: case.least_token(backend, kv_cache_bytes) for backend in EFFICIENCIES}
    return [
        offer
        for offer in offers()[kind]
        for read, cycles in [least[offer.backend]]
        if rate * (read / offer.usable_bandwidth + cycles / offer.clock_hertz) <= 1
    ]


def _try(case: Case, offer: Offer, count: int, needed_bytes: int) -> _Tried | None:
    """The model on so many of a device with as much RAM as it takes; None where it is too much."""
    # needed_bytes is CUDA's, whose driver context and padding others do without
    if offer.memory_bytes * count < needed_bytes - rules.FIT_MARGIN:
        return None
    posted: dict[str, Any] = {"gpus": [{"name": _several(offer, count)}]}
    if not offer.unified:
        posted["memory"] = RAM_SIZES[-1]
    hardware = _machine(posted)
    runtime, placement = case.lay(hardware)
    if not case.holds(placement):
        return None
    if not offer.unified:  # how much it is changes nothing on the GPU
        posted["memory"] = ram_sold(placement.devices[-1].total_bytes)
    return _Tried(posted, hardware, runtime, placement)


def _machine(posted: dict[str, Any]) -> Hardware:
    return read_machine(msgspec.convert(posted, PostedHardware, dec_hook=decode_quantity)).hardware


def _answer(kind: Kind, name: str, tried: _Tried, found: Speed) -> ExampleMachine:
    return ExampleMachine(
        kind=kind,
        name=name,
        verdict=tried.placement.verdict,
        generation_tokens_per_second=found.generation_tokens_per_second,
        prefill_tokens_per_second=found.prefill_tokens_per_second,
        hardware=tried.posted,
    )
