"""Steps that were traced for one layout, and what every other layout makes of them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tagfit.catalog.library import load
from tagfit.facts import Architecture, Runtime
from tagfit.sizing import traced as sizing_traced
from tagfit.sizing.compute import Compute, compute
from tagfit.sizing.device_weights import Part, device_weights
from tagfit.sizing.graph.forward import kinds
from tagfit.sizing.mixtures import weights
from tagfit.sizing.outline import Layout, Outline, Segment, outline
from tagfit.sizing.traced import traced
from tests.oracle.specimens import SPECIMENS

LAYOUTS = 6
RUNTIMES = (
    Runtime(context_length=4096),
    Runtime(context_length=8192, parallel=4),
    Runtime(context_length=8192, flash_attention=False),
    Runtime(context_length=2048, parallel=2, kv_unified=True),
    Runtime(context_length=16384, batch_size=16, micro_batch_size=16),
    Runtime(context_length=4096, embedding=True),
)
"""The last but one has too few rows for a GPU to compute with weights of the host."""


def architectures() -> dict[str, Architecture]:
    """The specimens, and of the catalog one for each architecture and number of kinds of blocks."""
    found = dict(SPECIMENS)
    for model in load().models:
        arch = model.architecture
        found.setdefault(f"{arch.architecture} of the catalog, {len(set(kinds(arch)))}", arch)
    return found


ARCHITECTURES = architectures()


def layouts(arch: Architecture, source: random.Random, gpus: int) -> Iterator[Layout]:
    """All on the host, and splits over it and the GPUs, of experts some with parts elsewhere."""
    blocks = arch.block_count - arch.nextn_predict_layers
    yield (Segment(gpus, 0, blocks),)
    for _ in range(LAYOUTS):
        ends = sorted(source.choices(range(blocks + 1), k=gpus))
        segments = [Segment(gpus, 0, ends[0])]
        for gpu, (start, stop) in enumerate(zip(ends, [*ends[1:], blocks], strict=True)):
            partial = source.randint(start, stop) if arch.expert_count else stop
            segments.append(Segment(gpu, start, partial))
            part: Part = source.choice(("moe", "up", "gate", "attn"))
            elsewhere = source.choice((gpus, min(gpu + 1, gpus)))
            one = min(partial + 1, stop)
            segments.append(Segment(gpu, partial, one, part, elsewhere))
            segments.append(Segment(gpu, one, stop, "moe", gpus))
        yield tuple(segment for segment in segments if segment.start < segment.stop)


def buffers(arch: Architecture, runtime: Runtime, layout: Layout, gpus: int) -> Compute:
    table = device_weights(arch, weights(arch, "F16"), padded=True)
    output = max(segment.device for segment in layout if segment.device < gpus or len(layout) == 1)
    return compute(table, runtime, layout, gpus=gpus, output_device=output)


def every_block(arch: Architecture, layout: Layout, gpus: int, *, whole: bool) -> Outline:
    """No block stands for another, whether or not one may."""
    del whole
    return outline(arch, layout, gpus, whole=True)


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("model", sorted(ARCHITECTURES))
def test_a_layout_that_follows_others_needs_what_it_needs_alone(
    model: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = ARCHITECTURES[model]
    source = random.Random(f"{model} {gpus}")
    runtime = source.choice(RUNTIMES)
    some = list(layouts(arch, source, gpus))
    traced.cache_clear()
    found = [buffers(arch, runtime, layout, gpus) for layout in some]
    monkeypatch.setattr(sizing_traced, "outline", every_block)
    alone = []
    for layout in some:
        traced.cache_clear()
        alone.append(buffers(arch, runtime, layout, gpus))
    traced.cache_clear()

    assert found == alone


def test_many_gpus_are_told_apart() -> None:
    """By numbers that stay small: 8 GPUs and the host, with experts that lie elsewhere."""
    arch = ARCHITECTURES["gpt-oss"]
    blocks, gpus = arch.block_count, 8
    each = [(gpu * blocks // gpus, (gpu + 1) * blocks // gpus) for gpu in range(gpus)]
    layout = tuple(Segment(gpu, *ends, "moe", gpus) for gpu, ends in enumerate(each))
    traced.cache_clear()

    found = buffers(arch, RUNTIMES[0], layout, gpus)

    assert len(found.gpus) == gpus
    assert min(found.gpus) > 0
