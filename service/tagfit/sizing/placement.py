"""What of a model lies where when Ollama loads it, and whether it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from tagfit.facts import (
    Architecture,
    Device,
    DeviceMemory,
    Hardware,
    Placement,
    Runtime,
    Verdict,
    Weights,
)
from tagfit.sizing import fit, kv_cache, rules
from tagfit.sizing.runtime import placement_group, predicted_bytes, setting
from tagfit.sizing.search import largest_with_room


class _Budget(NamedTuple):
    """What the GPUs offer; a number for each of them."""

    gpus: tuple[Device, ...]
    free: tuple[int, ...]
    """Before the driver context."""
    others: tuple[int, ...]
    """What is there beside the model: driver context and projector."""
    usable: tuple[int, ...]
    """Free once the driver has its context: what llama.cpp sees."""
    targets: tuple[int, ...]
    """The most that llama.cpp will use."""
    projector_on_gpu: int


def place(
    arch: Architecture,
    weights: Weights,
    runtime: Runtime,
    hardware: Hardware,
    *,
    projector_bytes: int = 0,
    exact: bool = True,
    exact_if_whole: bool = False,
) -> Placement:
    """Where Ollama would put the model on this machine.

    ``runtime.offloaded_layers`` forces llama.cpp's -ngl and lifts the margin. With 0 the GPU
    still computes prompts, as it does under llama-server. Not exact, compute buffers are taken
    by closed form: a hundred times faster, and good enough to order candidates. Of what lies
    wholly on GPUs, or on the CPU, exact ones are soon known too: ``exact_if_whole``.
    """
    model, gpus = _loaded(arch, weights, runtime, hardware, exact=exact or exact_if_whole)
    budget = _budget(model, gpus, hardware, projector_bytes)
    shares = _whole(model, budget) if exact_if_whole else None
    if shares is None:
        model = fit.load(arch, weights, runtime, padded=model.weights.padded, exact=exact)
        shares = _shares(model, budget)
    return _placement(model, budget, shares, hardware, projector_bytes)


def _shares(model: fit.Load, budget: _Budget) -> fit.Shares:
    forced = model.runtime.offloaded_layers
    if not budget.gpus:
        return ()
    if forced is not None:
        return fit.split(min(forced, model.layers), budget.usable)
    return fit.fit(model, budget.usable, budget.targets)


def _whole(model: fit.Load, budget: _Budget) -> fit.Shares | None:
    """All layers on the GPUs, if llama.cpp would leave them there; empty without a GPU."""
    if not budget.gpus:
        return ()
    everything = fit.split(model.layers, budget.usable)
    forced = model.runtime.offloaded_layers
    stays = (
        fit.room(model, everything, budget.targets) >= 0
        if forced is None
        else forced >= model.layers
    )
    return everything if stays else None


def max_context_length(
    arch: Architecture,
    weights: Weights,
    runtime: Runtime,
    hardware: Hardware,
    *,
    projector_bytes: int = 0,
    verdict: Literal["gpu", "any"] = "gpu",
    exact: bool = True,
) -> int:
    """The longest context of one request, at this runtime's other settings; 0 if there is none.

    ``gpu``: wholly on the GPUs, or in RAM on a machine without one. ``any``: runs at all.
    """
    most = arch.context_length or runtime.context_length
    whole = verdict == "gpu" and bool(hardware.gpus) and runtime.offloaded_layers is None
    budgets: dict[tuple[Device, ...], _Budget] = {}

    def context(steps: int) -> int:
        return min(steps * kv_cache.CELL_PADDING, most)

    def room(steps: int) -> int:
        changed = msgspec.structs.replace(runtime, context_length=context(steps))
        model, gpus = _loaded(arch, weights, changed, hardware, exact=exact)
        if gpus not in budgets:
            budgets[gpus] = _budget(model, gpus, hardware, projector_bytes)
        budget = budgets[gpus]
        if whole:
            shares = fit.split(model.layers, budget.usable)
            on_gpus = fit.room(model, shares, budget.targets)
            if on_gpus < 0:
                return on_gpus
            return min(on_gpus, _room(model, budget, shares, hardware, projector_bytes))
        shares = _shares(model, budget)
        left = _room(model, budget, shares, hardware, projector_bytes)
        is_wanted = verdict == "any" or not hardware.gpus or fit.is_whole(model, shares)
        return left if is_wanted or left < 0 else -1

    asked = runtime.context_length // kv_cache.CELL_PADDING
    return context(largest_with_room(room, -(-most // kv_cache.CELL_PADDING), guess=asked))


def _room(
    model: fit.Load,
    budget: _Budget,
    shares: fit.Shares,
    hardware: Hardware,
    projector_bytes: int,
) -> int:
    """Bytes that are left where least are; below 0 where it does not fit."""
    *gpus, host = fit.measure(model, shares)
    on_host = host.total + projector_bytes - budget.projector_on_gpu
    rooms = []
    others = budget.others
    for used, other, free, share in zip(gpus, others, budget.free, shares, strict=True):
        if share.layers:
            rooms.append(free - other - used.total)
        if hardware.unified_memory:
            on_host += other + used.total
    if hardware.memory_bytes:
        rooms.append(hardware.free_memory_bytes - on_host)
    return min(rooms, default=0)


def _loaded(
    arch: Architecture, weights: Weights, runtime: Runtime, hardware: Hardware, *, exact: bool
) -> tuple[fit.Load, tuple[Device, ...]]:
    """The model, and the GPUs that Ollama hands to llama-server."""
    tokens = runtime.context_length * runtime.parallel
    predicted = predicted_bytes(arch, weights.tensor_bytes, tokens)
    gpus = placement_group(hardware, hardware.gpus, predicted)
    padded = bool(gpus) and gpus[0].backend in rules.CUDA_BACKENDS
    return fit.load(arch, weights, runtime, padded=padded, exact=exact), gpus


def _budget(
    model: fit.Load, gpus: tuple[Device, ...], hardware: Hardware, projector_bytes: int
) -> _Budget:
    free = tuple(_free(hardware, gpu) for gpu in gpus)
    needed = projector_bytes + rules.PROJECTOR_HEADROOM
    forced = model.runtime.offloaded_layers
    on_gpu = (
        bool(projector_bytes and gpus)
        and (forced is None or forced >= model.layers)
        and all(amount >= needed for amount in free)
    )
    margin = _margin(hardware, needed if on_gpu else rules.FIT_MARGIN)
    projector = projector_bytes if on_gpu else 0
    contexts = [rules.DRIVER_CONTEXT[gpu.backend] for gpu in gpus]
    usable = tuple([max(each - context, 0) for each, context in zip(free, contexts, strict=True)])
    return _Budget(
        gpus=gpus,
        free=free,
        others=tuple([context + projector * (not i) for i, context in enumerate(contexts)]),
        usable=usable,
        targets=tuple([each - margin for each in usable]),
        projector_on_gpu=projector,
    )


def _margin(hardware: Hardware, usual: int) -> int:
    """What llama.cpp leaves free on each GPU."""
    target = setting(hardware.environment, "LLAMA_ARG_FIT_TARGET").partition(",")[0]
    return int(target) * rules.MIB if target.isascii() and target.isdecimal() else usual


def most_on_gpus(hardware: Hardware, *, forced: bool) -> int:
    """Bytes that no model exceeds on all GPUs together; ``forced``: -ngl lifts the margin."""
    margin = 0 if forced else _margin(hardware, rules.FIT_MARGIN)
    return sum(
        max(_free(hardware, gpu) - rules.DRIVER_CONTEXT[gpu.backend] - margin, 0)
        for gpu in hardware.gpus
    )


def _free(hardware: Hardware, gpu: Device) -> int:
    """What a process may allocate on a GPU before its driver context."""
    if hardware.unified_memory and hardware.memory_bytes:
        return min(gpu.free_memory_bytes, hardware.free_memory_bytes)
    return gpu.free_memory_bytes


def _placement(
    model: fit.Load,
    budget: _Budget,
    shares: fit.Shares,
    hardware: Hardware,
    projector_bytes: int,
) -> Placement:
    *gpu_bytes, host = fit.measure(model, shares)
    devices = [
        DeviceMemory(
            name=gpu.name,
            kind="gpu",
            weights_bytes=used.weights,
            kv_cache_bytes=used.cache,
            compute_bytes=used.compute,
            other_bytes=other,
            available_bytes=free,
            layers=share.layers,
        )
        for gpu, used, other, free, share in zip(
            budget.gpus, gpu_bytes, budget.others, budget.free, shares, strict=True
        )
    ]
    offloaded = sum(share.layers for share in shares)
    devices.append(
        DeviceMemory(
            name="CPU",
            kind="cpu",
            weights_bytes=host.weights,
            kv_cache_bytes=host.cache,
            compute_bytes=host.compute,
            other_bytes=projector_bytes - budget.projector_on_gpu,
            available_bytes=hardware.free_memory_bytes,
            layers=model.layers - offloaded,
        )
    )
    whole = bool(shares) and fit.is_whole(model, shares)
    verdict, reason = _judge(devices, model.layers, hardware, whole=whole)
    return Placement(
        devices=tuple(devices),
        offloaded_layers=offloaded,
        total_layers=model.layers,
        verdict=verdict,
        reason=reason,
        exact=model.exact,
    )


def _gib(value: int) -> str:
    return f"{value / rules.GIB:.1f} GiB"


def _needed_on_host(devices: Sequence[DeviceMemory], hardware: Hardware) -> int:
    *gpus, host = devices
    on_gpus = sum(device.total_bytes for device in gpus) if hardware.unified_memory else 0
    return host.total_bytes + on_gpus


def _judge(
    devices: list[DeviceMemory], layers: int, hardware: Hardware, *, whole: bool
) -> tuple[Verdict, str]:
    *gpus, host = devices
    for device in gpus:
        if device.layers and device.total_bytes > device.available_bytes:
            return "none", (
                f"{device.name} would have to hold {_gib(device.total_bytes)} "
                f"and has {_gib(device.available_bytes)} free."
            )
    needed = _needed_on_host(devices, hardware)
    if hardware.memory_bytes and needed > host.available_bytes:
        return "none", (
            f"Memory would have to hold {_gib(needed)} and has {_gib(host.available_bytes)} free."
        )
    used = sum(device.total_bytes for device in gpus)
    free = sum(device.available_bytes for device in gpus)
    offloaded = sum(device.layers for device in gpus)
    if whole:
        return "gpu", f"All {layers} layers fit: {_gib(used)} of {_gib(free)} free GPU memory."
    if offloaded == layers:
        return "partial", (
            f"All {layers} layers use {_gib(used)} of {_gib(free)} free GPU memory, but for "
            f"experts of {_gib(host.total_bytes)} that stay in host memory."
        )
    if offloaded:
        return "partial", (
            f"{offloaded} of {layers} layers use {_gib(used)} of {_gib(free)} free GPU memory; "
            f"{_gib(host.total_bytes)} stay in host memory."
        )
    return "cpu", f"The CPU runs it in {_gib(needed)} of {_gib(host.available_bytes)} free memory."
