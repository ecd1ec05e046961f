"""Compute and output buffers, as llama.cpp b11434 reserves them for llama-server.

The graph is built and allocated as llama.cpp does it, over a few blocks that stand for all.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from tagfit.facts import Architecture, Runtime, at
from tagfit.sizing import kv_cache
from tagfit.sizing.device_weights import DeviceWeights
from tagfit.sizing.flash_attention import runs_on_cuda
from tagfit.sizing.graph.blocks import batch
from tagfit.sizing.outline import Layout
from tagfit.sizing.traced import traced


class Compute(NamedTuple):
    """Compute buffers of each GPU and of the host, and the host's output buffer."""

    gpus: tuple[int, ...]
    host: int
    output: int


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
    known = traced(arch, shape, simulated, output_device, pipeline=pipeline, padded=weights.padded)
    cells = kv_cache.cells_per_stream(runtime)
    *found, host = known.needed(layout, weights, cells, whole=pipeline and on_host)
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
