"""The least hardware that holds a model and is fast enough: placement and speed, backwards.

Memory is what ``placement`` needs: the least free memory of one GPU with which every layer lies
there. Bandwidth and compute are what ``speed`` needs for a rate, of a GPU that is in no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from tagfit.advice.estimate import Load, Subject, place_subject, resolve_load, vision_bytes
from tagfit.advice.machine import ASSUMED_CORES, SYSTEM_MEMORY_BYTES
from tagfit.facts import Backend, Device, Hardware, Placement, Runtime
from tagfit.sizing import rules
from tagfit.speed.efficiency import EFFICIENCIES
from tagfit.speed.peaks import COMPUTE_PER_BANDWIDTH
from tagfit.speed.roofline import Speed, speed
from tagfit.speed.work import work
from tagfit.units import GIB

RAM_SIZES = tuple(size * GIB for size in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096))
"""As it is sold, in modules of one size."""
GIGABYTE_PER_SECOND = 10**9
TERAFLOPS = 10**12
MOST = 100_000
"""GB/s or TFLOP/s: more than ten times what any device has."""
MOST_CORES = 256

Rate = Annotated[
    float, Meta(gt=0, le=1_000_000, description="expected, with the context full as in /estimate")
]
Least = int | None | UnsetType
"""Absent where nothing was asked of it, null where no amount is enough."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Expected tokens a second that are wanted."""

    min_generation_tokens_per_second: Rate | None = None
    min_prefill_tokens_per_second: Rate | None = None

    def generates(self, found: Speed) -> bool:
        """Whether new tokens come fast enough."""
        return found.generation_tokens_per_second.expected >= (
            self.min_generation_tokens_per_second or 0
        )

    def reads(self, found: Speed) -> bool:
        """Whether the prompt is read fast enough."""
        return found.prefill_tokens_per_second.expected >= (self.min_prefill_tokens_per_second or 0)

    def met(self, found: Speed) -> bool:
        """Whether both are."""
        return self.generates(found) and self.reads(found)


class Case(msgspec.Struct, frozen=True):
    """One quantization, how it is loaded, and how fast it is to be."""

    subject: Subject
    load: Load
    """With a context length: Ollama's default would grow with the GPU."""
    rates: Rates

    def lay(self, hardware: Hardware) -> tuple[Runtime, Placement]:
        """How Ollama would load it, and all layers on the GPUs whether or not they hold them."""
        runtime = resolve_load(self.subject, self.load, hardware)
        layers = self.subject.model.architecture.block_count + 1
        whole = replace(runtime, offloaded_layers=layers) if hardware.gpus else runtime
        return runtime, place_subject(self.subject, whole, hardware)

    def speed(self, runtime: Runtime, placement: Placement, hardware: Hardware) -> Speed:
        """How fast it is where it lies."""
        architecture, weights = self.subject.model.architecture, self.subject.weights
        return speed(architecture, weights, runtime, placement, hardware)

    def holds(self, placement: Placement) -> bool:
        """Whether Ollama would leave all layers on the GPUs."""
        gpus = placement.devices[:-1]
        return placement.verdict == "gpu" and all(
            needed <= gpu.available_bytes
            for needed, gpu in zip(self.needed(placement), gpus, strict=True)
        )

    def needed(self, placement: Placement) -> Iterator[int]:
        """Free memory of each GPU with which llama.cpp leaves its layers there, in bytes."""
        *gpus, host = placement.devices
        encoder = vision_bytes(self.subject)
        on_gpu = bool(encoder) and not host.other_bytes
        margin = encoder + rules.PROJECTOR_HEADROOM if on_gpu else rules.FIT_MARGIN
        for index, gpu in enumerate(gpus):
            # the image encoder lies in the margin
            yield gpu.total_bytes - (encoder if on_gpu and index == 0 else 0) + margin

    def least_token(self, backend: Backend, kv_cache_bytes: int) -> tuple[float, float]:
        """Bytes at full bandwidth, and clock cycles, that any GPU takes for a token or more."""
        token = work(self.subject.model.architecture, self.subject.weights)
        reached = EFFICIENCIES[backend]
        read = (
            token.dense.transfer(reached)
            + token.used * token.experts.transfer(reached)
            + token.output.transfer(reached)
            + kv_cache_bytes
            / (self.load.parallel or 1)
            / max(reached.cache, reached.cache_without_flash)
        )
        return read, token.blocks * reached.block_cycles


class GpuNeed(msgspec.Struct, frozen=True, kw_only=True):
    """The least GPU that holds every layer."""

    free_memory_bytes: int
    """Of one CUDA GPU, before the driver's own context: what nvidia-smi shows as free."""
    kv_cache_bytes: int
    """Of it, for the context; with recurrent state."""
    host_free_memory_bytes: int
    """RAM beside it, for what does not go to the GPU."""
    host_memory_bytes: int | None
    """The least RAM sold that leaves as much free; null where none does."""
    bandwidth_bytes_per_second: Least = UNSET
    """For the generation rate."""
    compute_flops: Least = UNSET
    """Dense 16-bit FLOP/s for the prefill rate."""


class CpuNeed(msgspec.Struct, frozen=True, kw_only=True):
    """The least machine that runs it without a GPU."""

    free_memory_bytes: int
    kv_cache_bytes: int
    """Of it, for the context; with recurrent state."""
    memory_bytes: int | None
    """The least RAM sold that leaves as much free; null where none does."""
    bandwidth_bytes_per_second: Least = UNSET
    """For the generation rate."""
    cores: Least = UNSET
    """For the prefill rate."""


def gpu_need(case: Case) -> GpuNeed:
    """What one GPU needs.

    More memory never makes Ollama load with less (it may take larger batches), so what it would
    need on a GPU that is too small is a lower bound of what is enough.
    """
    free, needed = 0, 1
    while free < needed:
        free = needed
        runtime, placement = case.lay(_one_gpu(free))
        (needed,) = case.needed(placement)

    def found(bandwidth: int, compute: int | None) -> Speed:
        return case.speed(runtime, placement, _one_gpu(free, bandwidth, compute))

    bandwidth = compute = None
    rates = case.rates
    if rates.min_generation_tokens_per_second:
        bandwidth = _least(
            MOST, GIGABYTE_PER_SECOND, lambda amount: rates.generates(found(amount, None))
        )
    if rates.min_prefill_tokens_per_second:
        other = bandwidth or 0
        compute = _least(
            MOST,
            TERAFLOPS,
            lambda amount: rates.reads(found(max(other, amount // COMPUTE_PER_BANDWIDTH), amount)),
        )
    host = placement.devices[-1].total_bytes
    return GpuNeed(
        free_memory_bytes=free,
        kv_cache_bytes=placement.devices[0].kv_cache_bytes,
        host_free_memory_bytes=host,
        host_memory_bytes=ram_sold(host),
        bandwidth_bytes_per_second=bandwidth if rates.min_generation_tokens_per_second else UNSET,
        compute_flops=compute if rates.min_prefill_tokens_per_second else UNSET,
    )


def cpu_need(case: Case) -> CpuNeed:
    """What a machine without a GPU needs."""
    runtime, placement = case.lay(Hardware())

    def found(bandwidth: int | None, cores: int) -> Speed:
        hardware = Hardware(bandwidth_bytes_per_second=bandwidth, cores=cores)
        return case.speed(runtime, placement, hardware)

    bandwidth = cores = None
    rates = case.rates
    if rates.min_generation_tokens_per_second:
        bandwidth = _least(
            MOST, GIGABYTE_PER_SECOND, lambda amount: rates.generates(found(amount, ASSUMED_CORES))
        )
    if rates.min_prefill_tokens_per_second:
        cores = _least(MOST_CORES, 1, lambda amount: rates.reads(found(bandwidth, amount)))
    free = placement.devices[-1].total_bytes
    return CpuNeed(
        free_memory_bytes=free,
        kv_cache_bytes=placement.devices[0].kv_cache_bytes,
        memory_bytes=ram_sold(free),
        bandwidth_bytes_per_second=bandwidth if rates.min_generation_tokens_per_second else UNSET,
        cores=cores if rates.min_prefill_tokens_per_second else UNSET,
    )


def ram_sold(free_bytes: int) -> int | None:
    """The least RAM that leaves so much free, as ``machine`` assumes."""
    return next(
        (size for size in RAM_SIZES if size - min(SYSTEM_MEMORY_BYTES, size // 4) >= free_bytes),
        None,
    )


def _one_gpu(free: int, bandwidth: int | None = None, compute: int | None = None) -> Hardware:
    gpu = Device(
        name="GPU",
        memory_bytes=free,
        free_memory_bytes=free,
        bandwidth_bytes_per_second=bandwidth,
        compute_flops=compute,
    )
    return Hardware(gpus=(gpu,))


def _least(most: int, unit: int, enough: Callable[[int], bool]) -> int | None:
    """The least multiple of a unit that is enough; None where the most units are not."""
    if not enough(most * unit):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle * unit) else (middle, high)
    return high * unit
