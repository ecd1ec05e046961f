"""What a token needs of a model, and how a placement shares that out over devices."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from tagfit.facts import Architecture, DeviceMemory, Placement, Weights, at
from tagfit.sizing import kv_cache
from tagfit.sizing.device_weights import INPUTS, has_tied_output
from tagfit.speed.efficiency import Efficiency, TypeClass, type_class


class Amount(msgspec.Struct, frozen=True, eq=False):
    """Weights by the class of their type: bytes, and elements."""

    bytes: dict[TypeClass, int]
    elements: dict[TypeClass, int]

    @property
    def total_bytes(self) -> int:
        """Of all classes."""
        return sum(self.bytes.values())

    def transfer(self, reached: Efficiency) -> float:
        """Bytes as if they were read at full bandwidth."""
        return _transfer(self, reached)

    def arithmetic(self, reached: Efficiency) -> float:
        """FLOPs of one token as if they were done at full compute."""
        return _arithmetic(self, reached)


@lru_cache(maxsize=4096)
def _transfer(amount: Amount, reached: Efficiency) -> float:
    return sum(size / reached.bandwidth[kind] for kind, size in amount.bytes.items())


@lru_cache(maxsize=4096)
def _arithmetic(amount: Amount, reached: Efficiency) -> float:
    return sum(
        2 * count / (reached.matrix_float if kind == "float" else reached.matrix_quantized)
        for kind, count in amount.elements.items()
    )


class Work(NamedTuple):
    """What a token needs of a model."""

    blocks: int
    expert_blocks: int
    recurrent_blocks: int
    dense: Amount
    """Block weights that every token uses."""
    experts: Amount
    """All experts together."""
    output: Amount
    used: float
    """Share of the experts that one token uses."""
    attention_flops: int
    """Of one token for each earlier one, over all blocks of full attention."""
    sliding_flops: int
    window: int


class Part(NamedTuple):
    """What of the model one device works on, as shares."""

    memory: DeviceMemory
    blocks: float
    dense: float
    experts: float
    output: float

    @property
    def idle(self) -> bool:
        """Nothing of the model lies here."""
        return not any(self[1:])


@lru_cache(maxsize=1024)
def work(architecture: Architecture, weights: Weights) -> Work:
    """What a token needs; one row of what is looked up, not multiplied, counts for nothing."""
    amounts = {name: Amount({}, {}) for name in ("dense", "experts", "output")}
    expert_blocks = 0
    trunk = kv_cache.trunk_blocks(architecture)
    for stored in weights.tensors:
        group = stored.group
        tied = group.name == "token_embd.weight" and has_tied_output(architecture)
        if INPUTS.match(group.name) and not tied:
            continue
        count = sum(block < trunk for block in group.blocks) if group.blocks else 1
        name = "dense" if group.blocks else "output"
        if "_exps." in group.name:
            name, expert_blocks = "experts", max(expert_blocks, count)
        amount, kind = amounts[name], type_class(stored.tensor_type)
        amount.bytes[kind] = amount.bytes.get(kind, 0) + count * stored.bytes_each
        amount.elements[kind] = amount.elements.get(kind, 0) + count * group.elements
    full, sliding = _attention_flops(architecture)
    experts = architecture.expert_count
    return Work(
        blocks=trunk,
        expert_blocks=expert_blocks,
        recurrent_blocks=sum(kv_cache.is_recurrent(architecture, block) for block in range(trunk)),
        **amounts,
        used=architecture.expert_used_count / experts if experts else 0.0,
        attention_flops=full,
        sliding_flops=sliding,
        window=kv_cache.window(architecture),
    )


@lru_cache(maxsize=1024)
def _attention_flops(architecture: Architecture) -> tuple[int, int]:
    """FLOPs of one token for each earlier one: keys and values, in full and sliding blocks."""
    full = sliding = 0
    for block in range(kv_cache.trunk_blocks(architecture)):
        if kv_cache.has_attention(architecture, block):
            lengths = sum(kv_cache.head_lengths(architecture, block))
            flops = 2 * at(architecture.head_count, block) * lengths
            if kv_cache.slides(architecture, block):
                sliding += flops
            else:
                full += flops
    return full, sliding


def parts(model: Work, placement: Placement) -> tuple[Part, ...]:
    """Shares of the model by device, the host last.

    The output layer lies on the last GPU that has any. Of a block with experts that is only
    in part on a GPU, the experts are what is left out.
    """
    *gpus, host = placement.devices
    last = max((index for index, gpu in enumerate(gpus) if gpu.layers), default=None)
    found = [_gpu_part(model, gpu, output=index == last) for index, gpu in enumerate(gpus)]
    on_host = Part(
        host,
        blocks=_left([part.blocks for part in found]),
        dense=_left([part.dense for part in found]) if model.dense.bytes else 0.0,
        experts=_left([part.experts for part in found]) if model.experts.bytes else 0.0,
        output=1.0 if last is None else 0.0,
    )
    return (*found, on_host)


def _gpu_part(model: Work, gpu: DeviceMemory, *, output: bool) -> Part:
    blocks = (gpu.layers - output) / model.blocks if gpu.layers else 0.0
    held = max(gpu.weights_bytes - output * model.output.total_bytes, 0)
    if model.experts.bytes:
        rest = max(held - blocks * model.dense.total_bytes, 0)
        experts = min(rest / model.experts.total_bytes, 1.0)
        return Part(gpu, blocks, blocks, experts, float(output))
    dense = min(held / model.dense.total_bytes, 1.0)
    return Part(gpu, blocks, dense, 0.0, float(output))


def _left(shares: list[float]) -> float:
    """What is left of the whole; paddings make it a little more or less than nothing."""
    left = 1 - sum(shares)
    return left if left > 0.005 else 0.0
