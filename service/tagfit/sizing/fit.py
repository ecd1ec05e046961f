"""llama.cpp's ``--fit``: how many layers each GPU takes.

Follows llama.cpp b11434 ``common/fit.cpp``: layers go to the GPUs from the last to the first,
of a mixture of experts first all layers without their experts; what room is left then takes
experts, from the first GPU to the last, and a part of one more layer's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from tagfit.facts import Architecture, Runtime, Weights
from tagfit.sizing import kv_cache
from tagfit.sizing.compute import Compute, compute, rough
from tagfit.sizing.device_weights import DeviceWeights, Part, device_weights
from tagfit.sizing.outline import Segment


class Share(NamedTuple):
    """Layers of one GPU: how many, how many of them in part, and which part of the first such."""

    layers: int = 0
    partial: int = 0
    part: Part = "moe"
    overflow_to_next: bool = False
    """What the first partial layer lacks lies on the next GPU, not on the host."""

    @property
    def full(self) -> int:
        """Layers that are there as a whole."""
        return self.layers - self.partial


Shares = tuple[Share, ...]


class Load(msgspec.Struct, frozen=True, dict=True):
    """One model under one runtime, ready to be laid over GPUs."""

    arch: Architecture
    runtime: Runtime
    weights: DeviceWeights
    exact: bool = True
    """False: compute buffers by closed form."""

    @cached_property
    def gpu_cache(self) -> tuple[int, ...]:
        """Bytes before each block on a GPU; the last entry is the total."""
        if not self.weights.padded:
            return self.host_cache
        blocks = kv_cache.cache_bytes_by_block(self.arch, self.runtime, cuda=True)
        return tuple(accumulate(blocks, initial=0))

    @cached_property
    def host_cache(self) -> tuple[int, ...]:
        """The same on the host."""
        return tuple(accumulate(kv_cache.cache_bytes_by_block(self.arch, self.runtime), initial=0))

    @property
    def layers(self) -> int:
        """Blocks and the output layer."""
        return self.arch.block_count + 1

    @cached_property
    def known(self) -> dict[Shares, tuple[Used, ...]]:
        """Bytes on each GPU, then on the host, of the layouts that were asked for."""
        return {}

    @cached_property
    def most_copied_bytes(self) -> int:
        """The largest tensor or cache of a block, which a GPU copies where it is on the host."""
        cache = max(after - before for before, after in pairwise(self.gpu_cache))
        return max(cache, *(size for _, size in self.weights.gpu.sizes))


class Used(NamedTuple):
    """Bytes on one device."""

    weights: int
    cache: int
    compute: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.compute


@lru_cache(maxsize=1024)
def load(
    arch: Architecture, weights: Weights, runtime: Runtime, *, padded: bool, exact: bool = True
) -> Load:
    """A model ready to be laid over GPUs; ``padded`` for those of CUDA and ROCm."""
    return Load(arch, runtime, device_weights(arch, weights, padded=padded), exact)


def _first_layer(model: Load, shares: Shares) -> int:
    """The first layer on a GPU."""
    return max(model.layers - sum([share.layers for share in shares]), 0)


def is_whole(model: Load, shares: Shares) -> bool:
    """Whether every layer lies on the GPUs as a whole."""
    return sum([share.layers - share.partial for share in shares]) == model.layers


def split(layers: int, free: tuple[int, ...]) -> Shares:
    """The last layers over GPUs in proportion to their free memory (llama-model.cpp:1556)."""
    total = sum(free)
    bounds = [-(-seen * layers // total) if total else layers for seen in accumulate(free)]
    return tuple(Share(stop - start) for start, stop in zip([0, *bounds], bounds, strict=False))


def measure(model: Load, shares: Shares) -> tuple[Used, ...]:
    """Bytes on each GPU, then on the host."""
    if shares not in model.known:
        *gpus, host = resident(model, shares)
        buffers = (_exact_buffers if model.exact else _rough_buffers)(model, shares)
        model.known[shares] = (
            *(used._replace(compute=own) for used, own in zip(gpus, buffers.gpus, strict=True)),
            host._replace(compute=buffers.host + buffers.output),
        )
    return model.known[shares]


def resident(model: Load, shares: Shares) -> tuple[Used, ...]:
    """Weights and caches on each GPU, then on the host."""
    host = model.weights.host
    blocks = model.arch.block_count
    start = _first_layer(model, shares)
    host_blocks = min(start, blocks)
    on_host = host.inputs + host.blocks(0, host_blocks) + host.rotation(0, host_blocks)
    found: list[Used] = []
    arriving = 0
    first = start
    for share in shares:
        found.append(_on_gpu(model, first, share, arriving))
        arriving = 0
        stop, partial = first + share.layers, first + share.full
        if share.partial and partial < blocks:
            on_host += host.elsewhere("moe", partial + 1, min(stop, blocks))
            if share.overflow_to_next:
                arriving = model.weights.gpu.elsewhere(share.part, partial, partial + 1)
            else:
                on_host += host.elsewhere(share.part, partial, partial + 1)
        first = stop
    on_host += host.output if start > blocks else 0
    on_host += 0 if shares else host.repacked_output
    return (*found, Used(on_host, model.host_cache[host_blocks] if host_blocks else 0))


def _on_gpu(model: Load, first: int, share: Share, arriving: int = 0) -> Used:
    """Weights and caches of a GPU's layers from ``first`` on, and weights that arrive there."""
    gpu, blocks = model.weights.gpu, model.arch.block_count
    stop = first + share.layers
    here, end = min(first, blocks), min(stop, blocks)
    size = gpu.blocks(here, end) + arriving + gpu.rotation(here, end)
    if first <= blocks < stop:
        size += gpu.output
    partial = first + share.full
    if share.partial and partial < blocks:
        size -= gpu.elsewhere(share.part, partial, partial + 1)
        size -= gpu.elsewhere("moe", partial + 1, end)
    return Used(size, model.gpu_cache[end] - model.gpu_cache[here])


def _held(model: Load, shares: Shares, index: int) -> int:
    """Bytes of weights and caches on one GPU."""
    blocks = model.arch.block_count
    first = _first_layer(model, shares)
    first += sum([share.layers for share in shares[:index]])
    arriving = 0
    if index and (before := shares[index - 1]).overflow_to_next:
        partial = first - before.partial
        if partial < blocks:
            arriving = model.weights.gpu.elsewhere(before.part, partial, partial + 1)
    return _on_gpu(model, first, shares[index], arriving).total


def _exact_buffers(model: Load, shares: Shares) -> Compute:
    blocks, host = model.arch.block_count, len(shares)
    first = _first_layer(model, shares)
    layout = [Segment(host, 0, min(first, blocks))]
    output = host
    for gpu, share in enumerate(shares):
        partial, stop = first + share.full, first + share.layers
        layout.append(Segment(gpu, first, min(partial, blocks)))
        if share.partial:
            elsewhere = gpu + 1 if share.overflow_to_next else host
            layout.append(Segment(gpu, partial, min(partial + 1, blocks), share.part, elsewhere))
            layout.append(Segment(gpu, partial + 1, min(stop, blocks), "moe", host))
        if first <= blocks < stop:
            output = gpu
        first = stop
    return compute(
        model.weights,
        model.runtime,
        tuple(segment for segment in layout if segment.start < segment.stop),
        gpus=host,
        output_device=output,
    )


def _rough_buffers(model: Load, shares: Shares) -> Compute:
    whole = is_whole(model, shares)
    copied = model.most_copied_bytes if shares and not whole else 0
    pipeline = whole and len(shares) > 1
    return rough(model.arch, model.runtime, len(shares), pipeline=pipeline, copied_bytes=copied)


def room(model: Load, shares: Shares, targets: tuple[int, ...]) -> int:
    """Bytes below the target of the GPU that is nearest to it; below 0 if one is beyond.

    What weights and caches alone exceed is not looked at further.
    """
    if shares in model.known:
        held = [used.weights + used.cache for used in model.known[shares]]
    else:
        held = [_held(model, shares, index) for index in range(len(shares))]
    left = min([target - used for target, used in zip(targets, held, strict=False)])
    if left < 0:
        return left
    used = measure(model, shares)
    return min([target - each.total for target, each in zip(targets, used, strict=False)])


def fit(model: Load, free: tuple[int, ...], targets: tuple[int, ...]) -> Shares:
    """The layers of each GPU: all if they stay within the targets, else as many as do."""
    everything = split(model.layers, free)
    if room(model, everything, targets) >= 0:
        return everything
    search = _Search(model, targets)
    shares = search.back_to_front()
    last = len(targets) - 1
    dense = tuple(
        share._replace(partial=share.layers - (index == last))
        for index, share in enumerate(everything)
    )
    if not model.arch.expert_count:
        return shares
    *on_gpus, _ = measure(model, dense)
    if sum([used.total for used in on_gpus]) >= sum(targets):
        return shares
    return search.front_to_back(shares)


class _Search:
    def __init__(self, model: Load, targets: tuple[int, ...]) -> None:
        self._model = model
        self._targets = targets
        self._last = len(targets) - 1
        copied = 0 if model.exact else model.most_copied_bytes
        first = rough(model.arch, model.runtime, len(targets), copied_bytes=copied)
        self._buffers = list(first.gpus)
        """Compute buffers as measured last; at first about what they may be."""

    def _most(self, index: int, count: int, layout: Callable[[int], Shares]) -> int:
        """The largest n up to count whose layout keeps a GPU within its target.

        Weights and caches of a layout are cheap to know, its compute buffer is not and hardly
        changes from one to the next: so it is measured only near the answer.
        """
        model, target = self._model, self._targets[index]

        def held(n: int) -> int:
            return _held(model, layout(n), index)

        def most(low: int, high: int) -> int:
            rest = target - self._buffers[index]
            return low + bisect_right(range(low + 1, high), rest, key=held)

        if not model.exact:
            return most(0, count + 1)
        low, high = 0, bisect_right(range(1, count + 1), target, key=held) + 1
        n = count if high > count else most(0, high)
        while high - low > 1:
            n = min(max(n, low + 1), high - 1)
            shares = layout(n)
            used = measure(model, shares)[index]
            self._buffers[index] = used.compute
            low, high = (n, high) if used.total <= target else (low, n)
            n = most(low, high)
        return low

    def back_to_front(self) -> Shares:
        """Whole layers of a dense model, layers without experts of the others (fit.cpp:652)."""
        shares: Shares = (Share(),) * len(self._targets)
        unassigned = kv_cache.trunk_blocks(self._model.arch) + 1
        experts = self._model.arch.expert_count > 0
        for index in range(self._last, -1, -1):

            def layout(n: int, shares: Shares = shares, index: int = index) -> Shares:
                # the output layer has no experts
                partial = max(n - (index == self._last), 0) if experts else 0
                return _replaced(shares, index, Share(n, partial))

            count = self._most(index, unassigned, layout)
            shares = layout(count)
            unassigned -= count
        return shares

    def front_to_back(self, shares: Shares) -> Shares:
        """Experts onto the GPUs, and a part of one more layer's (fit.cpp:731)."""
        index = 0
        start = next((i for i, share in enumerate(shares) if share.layers), self._last)
        while index <= start <= self._last:
            partial = sum(share.partial for share in shares[start:])

            def layout(
                n: int, shares: Shares = shares, index: int = index, start: int = start
            ) -> Shares:
                return _completed(shares, index, n, start)[0]

            count = self._most(index, partial, layout)
            shares, start = _completed(shares, index, count, start)
            shares, start = self._one_more_part(shares, index, start)
            index += 1
        return shares

    def _one_more_part(self, shares: Shares, index: int, start: int) -> tuple[Shares, int]:
        """Part of one more layer's experts; the rest goes to the next GPU or the host."""
        least = 0 if index < self._last else 1
        if start > self._last or shares[start].layers <= least or not shares[start].partial:
            return shares, start
        source = shares[start]
        base = _replaced(
            shares, start, source._replace(layers=source.layers - 1, partial=source.partial - 1)
        )
        next_start = start + (base[start].partial == 0)

        def with_part(part: Part) -> Shares:
            layers, partial = base[index][:2]
            share = Share(layers + 1, partial + 1, part, index < self._last)
            return _replaced(base, index, share)

        affected = (index, min(index + 1, self._last))

        def has_room(candidate: Shares) -> bool:
            if any(self._targets[i] <= _held(self._model, candidate, i) for i in affected):
                return False
            used = measure(self._model, candidate)
            return all(used[i].total < self._targets[i] for i in affected)

        if has_room(up := with_part("up")):
            return (gate if has_room(gate := with_part("gate")) else up), next_start
        if has_room(attn := with_part("attn")):
            return attn, next_start
        return shares, start


def _replaced(shares: Shares, index: int, share: Share) -> Shares:
    return (*shares[:index], share, *shares[index + 1 :])


def _completed(shares: Shares, index: int, count: int, start: int) -> tuple[Shares, int]:
    """Turn layers without experts, from GPU ``start`` on, into whole ones on ``index``."""
    while start < len(shares):
        source = shares[start]
        moved = min(count, source.partial)
        shares = _replaced(
            shares,
            start,
            source._replace(layers=source.layers - moved, partial=source.partial - moved),
        )
        share = shares[index]
        shares = _replaced(shares, index, share._replace(layers=share.layers + moved))
        count -= moved
        if shares[start].partial:
            break
        start += 1
    return shares, start
