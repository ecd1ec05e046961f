"""The least time that a job can take on a machine: a bound that costs a microsecond.

It holds for every placement, so what is too slow by it need not be laid over the machine.
"""

from __future__ import annotations

from typing import NamedTuple

from tagfit.facts import Hardware
from tagfit.speed.efficiency import Efficiency, TypeClass
from tagfit.speed.peaks import Peak, gpu_peak, host_peak
from tagfit.speed.roofline import PCIE_BANDWIDTH
from tagfit.speed.work import Work

PADDING = 0.02
"""Of a model's bytes, more than a GPU's paddings add (a row of each tensor to 512 elements) and
than what counts as nothing on the host (0.5 %, speed/work.py)."""
EVEN_TYPES = 0.8
"""A guess: a share of the bytes is at least so much of the same share of the elements, as types
differ."""


class Needs(NamedTuple):
    """What one token needs of a model, and the weights that have to lie somewhere."""

    read_bytes: tuple[tuple[TypeClass, float], ...]
    block_bytes: tuple[tuple[TypeClass, int], ...]
    """Those of them that every block's device reads itself: not experts, nor the output layer."""
    expert_kinds: tuple[tuple[TypeClass, int], ...]
    """The experts' bytes."""
    float_elements: float
    quantized_elements: float
    dense_bytes: int
    expert_bytes: int
    used: float
    """Share of the experts that one token uses."""
    blocks: int
    expert_blocks: int
    recurrent_blocks: int
    attention_flops: int
    sliding_flops: int
    window: int


class Pace(NamedTuple):
    """What one device takes for blocks, beyond what the fastest would take to read them."""

    block_seconds: float
    expert_block_seconds: float
    recurrent_block_seconds: float
    seconds_per_byte: dict[TypeClass, float]

    def seconds(self, needs: Needs) -> float:
        """For all blocks of a model."""
        found = (
            needs.blocks * self.block_seconds
            + needs.expert_blocks * self.expert_block_seconds
            + needs.recurrent_blocks * self.recurrent_block_seconds
        )
        for kind, size in needs.block_bytes:
            found += size * self.seconds_per_byte[kind]
        return found


class BestCase(NamedTuple):
    """A machine at its best: every device's fastest rates."""

    gpu_bytes: int
    """Of a model, on all GPUs at most."""
    rates: dict[TypeClass, float]
    """Bytes a second that the fastest device reads."""
    host_rates: dict[TypeClass, float]
    float_flops: float
    """Of all devices that compute prompts."""
    quantized_flops: float
    attention_flops: float
    host_flops: float
    paces: tuple[Pace, ...]

    def times(self, needs: Needs, prompt_tokens: int) -> tuple[float, float]:
        """Seconds for a prompt, and for each token of the answer: no placement takes less."""
        over = needs.dense_bytes + needs.expert_bytes - self.gpu_bytes
        share = self._share_on_host(needs, over) if over > 0 else 0.0
        reading = 0.0
        for kind, size in needs.read_bytes:
            reading += size * ((1 - share) / self.rates[kind] + share / self.host_rates[kind])
        if over <= needs.expert_bytes:
            # a block on another device than the fastest leaves that much room there for experts
            blocks = min([pace.seconds(needs) for pace in self.paces])
            reading += (1 - needs.used) * blocks
        return self._prompt_seconds(needs, prompt_tokens, over, share), reading

    def _prompt_seconds(self, needs: Needs, tokens: int, over: int, share: float) -> float:
        earlier = tokens / 2
        attention = needs.attention_flops * earlier
        attention += needs.sliding_flops * min(earlier, needs.window)
        products = 2 * (
            needs.float_elements / self.float_flops
            + needs.quantized_elements / self.quantized_flops
        )
        # weights are read once at least, of the experts those that some token uses
        some = min(1.0, tokens * needs.used)
        reading = 0.0
        for kind, size in needs.block_bytes:
            reading += size / self.rates[kind]
        for kind, size in needs.expert_kinds:
            reading += some * size / self.rates[kind]
        found = reading + tokens * (attention / self.attention_flops + products)
        least_copied = over - PADDING * (needs.dense_bytes + needs.expert_bytes)
        if least_copied <= 0:
            return found
        on_host = 2 * (needs.float_elements + needs.quantized_elements) / self.host_flops
        computed_there = EVEN_TYPES * share * tokens * max(on_host - products, 0.0)
        return found + min(least_copied / PCIE_BANDWIDTH, computed_there)

    def _share_on_host(self, needs: Needs, over: int) -> float:
        """The least share of what a token reads that cannot be on a GPU: experts go first."""
        experts = min(over, needs.expert_bytes)
        read = needs.dense_bytes + needs.used * needs.expert_bytes
        return (needs.used * experts + over - experts) / read


def needs(model: Work) -> Needs:
    """What one token needs of a model."""
    read: dict[TypeClass, float] = {}
    for amount, share in ((model.dense, 1.0), (model.experts, model.used), (model.output, 1.0)):
        for kind, size in amount.bytes.items():
            read[kind] = read.get(kind, 0.0) + share * size
    elements: dict[bool, float] = {True: 0.0, False: 0.0}
    for amount, share in ((model.dense, 1.0), (model.experts, model.used)):
        for kind, count in amount.elements.items():
            elements[kind == "float"] += share * count
    return Needs(
        read_bytes=tuple(read.items()),
        block_bytes=tuple(model.dense.bytes.items()),
        expert_kinds=tuple(model.experts.bytes.items()),
        float_elements=elements[True],
        quantized_elements=elements[False],
        dense_bytes=model.dense.total_bytes + model.output.total_bytes,
        expert_bytes=model.experts.total_bytes,
        used=model.used,
        blocks=model.blocks,
        expert_blocks=model.expert_blocks,
        recurrent_blocks=model.recurrent_blocks,
        attention_flops=model.attention_flops,
        sliding_flops=model.sliding_flops,
        window=model.window,
    )


def best_case(hardware: Hardware, gpu_bytes: int) -> BestCase:
    """A machine at its best; its GPUs hold at most so much of a model."""
    host = host_peak(hardware)
    gpus = [gpu_peak(gpu) for gpu in hardware.gpus]
    computing = gpus or [host]
    rates = _rates([*gpus, host])
    return BestCase(
        gpu_bytes=gpu_bytes,
        rates=rates,
        host_rates=_rates([host]),
        float_flops=sum(p.sustained_compute * p.reached.matrix_float for p in computing),
        quantized_flops=sum(p.sustained_compute * p.reached.matrix_quantized for p in computing),
        attention_flops=sum(p.compute * _attention_share(p.reached) for p in computing),
        host_flops=host.sustained_compute
        * max(host.reached.matrix_float, host.reached.matrix_quantized),
        paces=_unique([_pace(peak, rates) for peak in (*gpus, host)]),
    )


def _unique(paces: list[Pace]) -> tuple[Pace, ...]:
    return tuple(pace for index, pace in enumerate(paces) if pace not in paces[:index])


def _attention_share(reached: Efficiency) -> float:
    return max(reached.attention, reached.attention_without_flash)


def _pace(peak: Peak, rates: dict[TypeClass, float]) -> Pace:
    reached = peak.reached
    return Pace(
        reached.block_cycles / peak.clock_hertz,
        reached.expert_block_cycles / peak.clock_hertz,
        reached.recurrent_block_cycles / peak.clock_hertz,
        {kind: 1 / own - 1 / rates[kind] for kind, own in _rates([peak]).items()},
    )


def _rates(peaks: list[Peak]) -> dict[TypeClass, float]:
    return {
        kind: max(peak.bandwidth * peak.reached.bandwidth[kind] for peak in peaks)
        for kind in peaks[0].reached.bandwidth
    }
