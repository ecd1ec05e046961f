"""What each block's weights take from a GPU's buffer and from the host's.

Sources: llama.cpp b11434 ``src/llama-model.cpp`` (which tensor goes with which layer),
``src/llama-arch.cpp:750`` (input and output tensors), ``common/fit.cpp:503`` (parts of a block),
``ggml/src/ggml-cuda/ggml-cuda.cu:903`` (padding).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Literal

import msgspec

from tagfit.facts import Architecture, StoredTensors, TensorGroup, Weights
from tagfit.sizing.ggml import row_bytes
from tagfit.sizing.graph.attention import has_factors
from tagfit.sizing.graph.blocks import NORM_IS_LAST
from tagfit.sizing.kv_cache import (
    CUDA_ALIGNMENT,
    CUDA_ROW_PADDING,
    ENCODERS,
    pad,
    trunk_blocks,
)

Part = Literal["moe", "attn", "up", "gate"]

ELSEWHERE: dict[Part, re.Pattern[str]] = {
    "moe": re.compile(r"ffn_(up|down|gate_up|gate)_(ch|)exps"),
    "attn": re.compile(r"ffn_(gate|up|gate_up|down)"),
    "up": re.compile(r"ffn_(gate|gate_up|down)"),
    "gate": re.compile(r"ffn_down"),
}
"""Tensors of a block that lie elsewhere when only this part of it is on a GPU (fit.cpp:503)."""

INPUTS = re.compile(r"(token_embd|position_embd|token_types|per_layer_token_embd)\.")
"""Tensors that stay on the host: looked up, not multiplied."""
WITH_FIRST_BLOCK = re.compile(r"(token_embd_norm|per_layer_model_proj|per_layer_proj_norm)\.")
"""Tensors outside of blocks that go with the first one."""
ROPE = re.compile(r"rope_(freqs|factors_long|factors_short)\.")
"""One copy on each device that has a block which rotates with them."""
WITHOUT_OUTPUT = ENCODERS - {"gemma-embedding"}
"""Architectures that never multiply with the token embedding (models/bert.cpp)."""
OUTPUT_LOADED_FIRST = frozenset({"gemma3n", "gemma4"})
"""Architectures that load the tied output matrix before the token embedding, which does not see
that the same buffer has it already (models/gemma3n.cpp:28, models/gemma4.cpp:49)."""
REPACKED_TYPES = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
HOST_ALIGNMENT = 32
"""Bytes: ggml.c, TENSOR_ALIGNMENT of the CPU's buffers."""


class BlockBytes(msgspec.Struct, frozen=True, eq=False, dict=True):
    """Bytes in one kind of buffer; sums over blocks run from the first block, with a 0 before."""

    sizes: tuple[tuple[TensorGroup, int], ...]
    """What a tensor of each group within blocks takes."""
    sums: tuple[int, ...]
    output: int
    """Output layer; with the second copy of a tied token embedding on a GPU."""
    inputs: int
    rope: int
    rotating: tuple[int, ...]
    """How many blocks rotate with factors, in sums as above."""
    repacked_output: int
    """A tied token embedding's second copy, in the order in which a CPU multiplies with it."""
    loaded: int
    """Blocks that are loaded at all: not those that predict further tokens."""

    def blocks(self, start: int, stop: int) -> int:
        """Bytes of the blocks from start to before stop."""
        return self.sums[stop] - self.sums[start]

    def rotation(self, start: int, stop: int) -> int:
        """Bytes of the rotation's factors, where one of these blocks has them."""
        return self.rope if self.rotating[stop] > self.rotating[start] else 0

    def elsewhere(self, part: Part, start: int, stop: int) -> int:
        """Bytes of these blocks that lie elsewhere when only this part is on a GPU."""
        sums = self._elsewhere[part]
        return sums[stop] - sums[start]

    @cached_property
    def _elsewhere(self) -> dict[Part, tuple[int, ...]]:
        return {
            part: _sums(
                [(group, size) for group, size in self.sizes if pattern.match(group.name)],
                len(self.sums) - 1,
                self.loaded,
            )
            for part, pattern in ELSEWHERE.items()
        }


class DeviceWeights(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A model's weights as GPU buffers and as host buffers hold them."""

    arch: Architecture
    tensors: tuple[StoredTensors, ...]
    gpu: BlockBytes
    host: BlockBytes
    padded: bool

    @cached_property
    def outside_copies(self) -> dict[str, int]:
        """What a GPU needs for a copy of each tensor outside of blocks."""
        found = {
            stored.group.name: gpu_tensor_bytes(stored, padded=self.padded)
            for stored in self.tensors
            if not stored.group.blocks
        }
        return {"output.weight": found["token_embd.weight"], **found}

    @cached_property
    def block_copies(self) -> tuple[dict[str, int], ...]:
        """What a GPU needs for a copy of each tensor of each block."""
        found: tuple[dict[str, int], ...] = tuple({} for _ in range(self.arch.block_count))
        for stored in self.tensors:
            size = gpu_tensor_bytes(stored, padded=self.padded)
            for block in stored.group.blocks:
                found[block][stored.group.name] = size
        return found


def is_with_first_block(arch: Architecture, name: str) -> bool:
    """Whether a tensor outside of blocks lies where the first block does."""
    return bool(WITH_FIRST_BLOCK.match(name)) and arch.architecture not in NORM_IS_LAST


def has_tied_output(arch: Architecture) -> bool:
    """Whether the token embedding is the output matrix too."""
    return not arch.has_output and arch.architecture not in WITHOUT_OUTPUT


def is_repacked(stored: StoredTensors) -> bool:
    """Whether a CPU with AVX2 keeps a matrix in an order of its own (repack.cpp:4985)."""
    return stored.tensor_type in REPACKED_TYPES and stored.group.shape[1] % 8 == 0


def gpu_tensor_bytes(stored: StoredTensors, *, padded: bool) -> int:
    """What one tensor takes on a GPU; CUDA and ROCm pad quantized rows."""
    missing = -stored.group.shape[0] % CUDA_ROW_PADDING
    if padded and missing and stored.tensor_type not in UNQUANTIZED:
        return stored.bytes_each + row_bytes(stored.tensor_type, missing)
    return stored.bytes_each


@lru_cache(maxsize=512)
def device_weights(arch: Architecture, weights: Weights, *, padded: bool) -> DeviceWeights:
    """The tables for one model; ``padded`` for CUDA and ROCm."""
    tensors = weights.tensors
    gpu = [pad(gpu_tensor_bytes(stored, padded=padded), CUDA_ALIGNMENT) for stored in tensors]
    host = [pad(stored.bytes_each, HOST_ALIGNMENT) for stored in tensors]
    return DeviceWeights(
        arch=arch,
        tensors=tensors,
        gpu=_table(arch, tensors, gpu, on_gpu=True),
        host=_table(arch, tensors, host, on_gpu=False),
        padded=padded,
    )


def _table(
    arch: Architecture, tensors: tuple[StoredTensors, ...], each: list[int], *, on_gpu: bool
) -> BlockBytes:
    loaded, blocks = trunk_blocks(arch), arch.block_count
    output = inputs = rope = first = repacked_output = 0
    sizes = []
    for stored, size in zip(tensors, each, strict=True):
        name = stored.group.name
        if stored.group.blocks:
            sizes.append((stored.group, size))
            continue
        if ROPE.match(name):
            rope += size
        elif is_with_first_block(arch, name):
            first += size
        elif INPUTS.match(name):
            inputs += size
            if name == "token_embd.weight" and has_tied_output(arch):
                twice = on_gpu or arch.architecture in OUTPUT_LOADED_FIRST
                output += size * twice
                repacked_output = size * (is_repacked(stored) and not twice)
        else:
            output += size
    start, *sums = _sums(sizes, blocks, loaded)
    return BlockBytes(
        sizes=tuple(sizes),
        sums=(start, *(first + value for value in sums)) if first else (start, *sums),
        output=output,
        inputs=inputs,
        rope=rope,
        rotating=tuple(accumulate((has_factors(arch, n) for n in range(blocks)), initial=0)),
        repacked_output=repacked_output,
        loaded=loaded,
    )


def _sums(sizes: Iterable[tuple[TensorGroup, int]], blocks: int, loaded: int) -> tuple[int, ...]:
    """Bytes before each block; the last entry is the total."""
    everywhere = 0
    per_block = [0] * blocks
    for group, size in sizes:
        if len(group.blocks) == blocks:
            everywhere += size
        else:
            for block in group.blocks:
                per_block[block] += size
    found = [everywhere + size for size in per_block[:loaded]]
    return tuple(accumulate([*found, *[0] * (blocks - loaded)], initial=0))
