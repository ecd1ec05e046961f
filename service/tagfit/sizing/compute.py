"""Compute and output buffers, as llama.cpp b11434 reserves them for llama-server.

The graph is built and allocated as llama.cpp does it, over a few blocks that stand for all: the
buffers stop growing once each kind of block has followed each other kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, cast

from tagfit.facts import Architecture, CacheType, Runtime, at
from tagfit.sizing import kv_cache
from tagfit.sizing.device_weights import (
    ELSEWHERE,
    INPUTS,
    DeviceWeights,
    Part,
    is_with_first_block,
)
from tagfit.sizing.flash_attention import runs_on_cuda
from tagfit.sizing.graph.allocator import trace
from tagfit.sizing.graph.blocks import Batch, Step, Weight, batch
from tagfit.sizing.graph.forward import forward, kinds
from tagfit.sizing.graph.replay import Copies, Replay
from tagfit.sizing.graph.scheduler import schedule
from tagfit.sizing.tensors import tensor_groups


class Compute(NamedTuple):
    """Compute buffers of each GPU and of the host, and the host's output buffer."""

    gpus: tuple[int, ...]
    host: int
    output: int


class Segment(NamedTuple):
    """Consecutive blocks of one device."""

    device: int
    """Index of the GPU; the number of GPUs stands for the host."""
    start: int
    stop: int
    part: Part | None = None
    """What of each block is there, if not all of it."""
    elsewhere: int = 0
    """Where the rest is."""
    cache_device: int = 0
    """Where the cache lies that the blocks' attention reads; set in a plan."""


Layout = tuple[Segment, ...]


@lru_cache(maxsize=4096)
def compute(
    weights: DeviceWeights,
    runtime: Runtime,
    layout: Layout,
    *,
    gpus: int,
    output_device: int,
    output_rows: int = 0,
) -> Compute:
    """Buffers of one load.

    ``output_rows`` is the number of tokens whose logits a micro-batch may ask for; 0 is
    llama-server's: one a sequence, every token for embeddings.
    """
    arch = weights.arch
    on_gpus = all(segment.device < gpus and segment.part is None for segment in layout)
    pipeline = gpus > 1 and on_gpus and output_device < gpus
    simulated = gpus
    if pipeline and len(layout) == gpus > len(STAGES):
        layout = _staged(layout, output_device)
        simulated, output_device = len(STAGES), STAGES.index("last")
    rows = runtime.batch_size if runtime.embedding else runtime.parallel
    shape = batch(arch, runtime, output_rows or rows)
    cache_type = runtime.kv_cache_type
    on_host = weights.padded and gpus > 0 and not runs_on_cuda(arch, cache_type)
    outline = _outline(arch, layout, whole=pipeline and on_host)
    replay = _replay(arch, shape, outline.plan, simulated, output_device, pipeline, weights.padded)
    course = tuple(_course(weights, outline, replay.copied))
    *found, host = replay.needed(course, kv_cache.cells_per_stream(runtime))
    if simulated < gpus:
        first, middle, last = found
        found = [first, *[middle] * (gpus - 2), last]
    return Compute(tuple(found), host, output_bytes(arch, runtime))


@lru_cache(maxsize=4096)
def rough(
    arch: Architecture,
    runtime: Runtime,
    gpus: int,
    *,
    pipeline: bool = False,
    copied_bytes: int = 0,
) -> Compute:
    """About what ``compute`` gives, by closed form: to order many models, not to promise.

    A micro-batch's activations beside the masks, and what dominates of feed-forward part and
    queries. In a ``pipeline`` inputs have four copies; of what lies on the host the first GPU
    copies ``copied_bytes`` at a time.
    """
    tokens = kv_cache.micro_batch(arch, runtime)
    row, encodes = 4 * tokens, arch.architecture in kv_cache.ENCODERS
    cells = tokens if encodes else kv_cache.cells_per_stream(runtime)
    seen = cells + (kv_cache.sliding_cells(arch, runtime) if kv_cache.window(arch) else 0)
    mask = (2 if runtime.flash_attention else 4) * tokens * seen
    width = row * arch.embedding_length
    first = min(arch.leading_dense_block_count, arch.block_count - 1)
    heads = at(arch.head_count, 0)
    queries = row * heads * (arch.key_length or arch.embedding_length // max(heads, 1))
    stage = width + max(
        3 * row * at(arch.feed_forward_length, first),
        3 * row * arch.expert_feed_forward_length * arch.expert_used_count,
        2 * queries if runtime.flash_attention else queries + row * heads * cells,
    )
    inputs = width * (1 if encodes else 3) + mask
    output = output_bytes(arch, runtime)
    if pipeline:
        later = 10 * width + 4 * mask
        on_gpus = (later + 5 * width + stage, *[later + stage] * (gpus - 1))
        return Compute(on_gpus, later, output)
    if not gpus:
        return Compute((), inputs + stage + width, output)
    on_first = max(inputs + stage, copied_bytes + 6 * width + mask if copied_bytes else 0)
    return Compute((on_first, *[inputs + stage] * (gpus - 1)), inputs + width, output)


def output_bytes(arch: Architecture, runtime: Runtime) -> int:
    """The host's buffer for the logits that requests ask for (llama-context.cpp:2118)."""
    return 4 * arch.vocab_size * runtime.parallel


STAGES = ("first", "middle", "last")
"""GPUs of a pipeline; those in the middle are alike."""


def _staged(layout: Layout, last: int) -> Layout:
    """A long pipeline with one GPU for each stage."""
    stages = {0: 0, 1: 1, last: 2}
    return tuple(
        segment._replace(device=stages[segment.device])
        for segment in layout
        if segment.device in stages
    )


class _Outline(NamedTuple):
    """A layout's blocks and the few that stand for all."""

    plan: Layout
    """Segments of one block."""
    blocks: tuple[int, ...]
    stand_ins: tuple[int, ...]
    """For each block the one of the plan that is like it and follows on one of the same kind."""


@lru_cache(maxsize=1024)
def _outline(arch: Architecture, layout: Layout, *, whole: bool) -> _Outline:
    """Blocks that stand for all: each kind's first and last, and each kind after each other.

    ``whole``: in a pipeline, what every block copies between devices stays.
    """
    alike, loaded = kinds(arch), kv_cache.trunk_blocks(arch)
    laid = [
        (segment, block)
        for segment in layout
        for block in range(segment.start, min(segment.stop, loaded))
    ]
    plan = [
        segment._replace(
            start=alike[block],
            stop=alike[block] + 1,
            cache_device=_cache_device(arch, layout, segment, block),
        )
        for segment, block in laid
    ]
    blocks = tuple(block for _, block in laid)
    if whole or (len(layout) > 1 and arch.embedding_length_per_layer_input):
        # each block's own input is copied to its device
        return _Outline(tuple(plan), blocks, tuple(range(len(plan))))
    left, seen = Counter(plan), set[Segment]()
    single = []
    for segment in plan:
        left[segment] -= 1
        single.append((segment, segment in seen, min(left[segment], 2)))
        seen.add(segment)
    reach = _reach(arch)
    around = [*[None] * (reach - 1), *single, *[None] * reach]
    places = [tuple(around[place : place + 2 * reach]) for place in range(len(single))]
    chosen: list[int] = []
    latest: dict[object, int] = {None: -1}
    known: dict[object, int] = {}
    for place, pair in enumerate(pairwise((None, *places))):
        if pair not in known:
            # continue from where the same place as the last chosen one was seen last
            end = latest[places[chosen[-1]] if chosen else None]
            for new in range(end + 1, place + 1):
                known.setdefault((places[new - 1] if new else None, places[new]), len(chosen))
                chosen.append(new)
        latest[places[place]] = place
    return _Outline(
        tuple(plan[place] for place in chosen),
        blocks,
        tuple(known[pair] for pair in pairwise((None, *places))),
    )


def _cache_device(arch: Architecture, layout: Layout, segment: Segment, block: int) -> int:
    owner = kv_cache.cache_owner(arch, block)
    if owner == block:
        return segment.device
    return next((s.device for s in layout if s.start <= owner < s.stop), 0)


def _course(
    weights: DeviceWeights, outline: _Outline, copied: tuple[tuple[tuple[str, int], ...], ...]
) -> Iterator[tuple[int, Copies]]:
    """Steps of the trace, each with the sizes of the weights that it copies."""
    outside, blocks = weights.outside_copies, outline.blocks
    steps = (0, *(place + 1 for place in outline.stand_ins), len(copied) - 1)
    for number, step in enumerate(steps):
        names = copied[step]
        yield (
            step,
            tuple(
                outside[name]
                if name in outside
                else weights.block_copies[blocks[number - 1 + later]][name]
                for name, later in names
            )
            if names
            else (),
        )


@lru_cache(maxsize=1024)
def _replay(
    arch: Architecture,
    shape: Batch,
    plan: Layout,
    gpus: int,
    output_device: int,
    pipeline: bool,
    padded: bool,
) -> Replay:
    steps = tuple(_step(arch, segment) for segment in plan)
    graph = forward(arch, shape, steps, _outside(arch, plan[0].device, output_device, gpus))
    cache_type = cast("CacheType", shape.cache_kind.lower())
    on_host = padded and gpus > 0 and not runs_on_cuda(arch, cache_type)
    order = schedule(graph, gpus + 1, pipeline=pipeline, attention_on_host=on_host)
    return Replay(trace(order, gpus + 1, padded=padded, reach=_reach(arch)))


def _reach(arch: Architecture) -> int:
    """How many blocks later what a block leaves may still be needed.

    A recurrent block begins with its state, before the block ahead of it is finished.
    """
    return 2 if arch.architecture in kv_cache.HYBRIDS else 1


def _step(arch: Architecture, segment: Segment) -> Step:
    """One block with its tensors."""
    pattern = ELSEWHERE[segment.part] if segment.part else None
    tensors = []
    for group in tensor_groups(arch):
        if segment.start in group.blocks:
            moved = pattern is not None and pattern.match(group.name)
            device = segment.elsewhere if moved else segment.device
            tensors.append(Weight(group.name, group.shape, device))
    return Step(segment.start, segment.device, tuple(tensors), segment.cache_device)


def _outside(
    arch: Architecture, first_device: int, output_device: int, host: int
) -> tuple[Weight, ...]:
    """Tensors outside of blocks; a tied token embedding is the output matrix too."""
    found = []
    for group in tensor_groups(arch):
        if not group.blocks:
            device = host if INPUTS.match(group.name) else output_device
            if is_with_first_block(arch, group.name):
                device = first_device
            found.append(Weight(group.name, group.shape, device))
            if group.name == "token_embd.weight" and not arch.has_output:
                found.append(Weight("output.weight", group.shape, output_device))
    return tuple(found)
