"""The least time that a job can take on a machine: a bound that costs a microsecond.

It holds for every placement, so what is too slow by it need not be laid over the machine.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import msgspec

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


KEPT_MACHINES = 32
"""Each with what it takes of some hundred models."""


class Needs(msgspec.Struct, frozen=True, eq=False):
    """What one token needs of a model, and the weights that have to lie somewhere."""

    read_bytes: tuple[tuple[TypeClass, float], ...]
    block_bytes: tuple[tuple[TypeClass, int], ...]
    """Those of them that every block's device reads itself: not experts, nor the output layer."""
    expert_kinds: tuple[tuple[TypeClass, int], ...]
    """The experts' bytes."""
    float_elements: float
    quantized_elements: float
    dense_bytes: int
    """With the output layer's."""
    output_bytes: int
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


class Least(NamedTuple):
    """What a job takes of one model at least, by the bytes that GPUs hold."""

    dense_bytes: int
    output_bytes: int
    expert_bytes: int
    used: float
    """As in Needs."""
    gpu_seconds: float
    """To read what a token needs, all of it where that is fastest."""
    host_seconds: float
    """The same on the host."""
    block_seconds: float
    """For a token's blocks beside the reading, where no dense weight need be on the host."""
    prompt_seconds: float
    host_prompt_seconds: float
    """More of it, were all computed on the host."""

    def times(self, gpu_bytes: int) -> tuple[float, float]:
        """Seconds for the prompt, and for each token of the answer: no placement takes less."""
        size = self.dense_bytes + self.expert_bytes
        over = size - gpu_bytes
        if over <= 0:
            return self.prompt_seconds, self.gpu_seconds + self.block_seconds
        # of what a token reads, the least share that cannot be on a GPU: experts go first
        experts = min(over, self.expert_bytes)
        read = self.dense_bytes + self.used * self.expert_bytes
        share = (self.used * experts + over - experts) / read
        token = (1 - share) * self.gpu_seconds + share * self.host_seconds
        if over <= self.expert_bytes:
            token += self.block_seconds
        # for the output of a few tokens no weights are copied
        copied = max(over - self.output_bytes - PADDING * size, 0) / PCIE_BANDWIDTH
        return self.prompt_seconds + min(copied, share * self.host_prompt_seconds), token


class BestCase(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A machine at its best: every device's fastest rates."""

    rates: dict[TypeClass, float]
    """Bytes a second that the fastest device reads."""
    host_rates: dict[TypeClass, float]
    float_flops: float
    """Of all devices that compute prompts."""
    quantized_flops: float
    attention_flops: float
    host_flops: float
    paces: tuple[Pace, ...]

    @cached_property
    def _known(self) -> dict[tuple[Needs, int], Least]:
        return {}

    def least(self, needs: Needs, prompt_tokens: int) -> Least:
        """What a job takes of one model, wherever it lies."""
        key = needs, prompt_tokens
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._least(needs, prompt_tokens)
        return found

    def _least(self, needs: Needs, prompt_tokens: int) -> Least:
        earlier = prompt_tokens / 2
        attention = needs.attention_flops * earlier
        attention += needs.sliding_flops * min(earlier, needs.window)
        products = 2 * (
            needs.float_elements / self.float_flops
            + needs.quantized_elements / self.quantized_flops
        )
        on_host = 2 * (needs.float_elements + needs.quantized_elements) / self.host_flops
        # weights are read once at least, of the experts those that some token uses
        some = min(1.0, prompt_tokens * needs.used)
        reading = _seconds(needs.block_bytes, self.rates)
        reading += some * _seconds(needs.expert_kinds, self.rates)
        # a block on another device than the fastest leaves that much room there for experts
        blocks = min([pace.seconds(needs) for pace in self.paces])
        return Least(
            dense_bytes=needs.dense_bytes,
            output_bytes=needs.output_bytes,
            expert_bytes=needs.expert_bytes,
            used=needs.used,
            gpu_seconds=_seconds(needs.read_bytes, self.rates),
            host_seconds=_seconds(needs.read_bytes, self.host_rates),
            block_seconds=(1 - needs.used) * blocks,
            prompt_seconds=reading + prompt_tokens * (attention / self.attention_flops + products),
            host_prompt_seconds=EVEN_TYPES * prompt_tokens * max(on_host - products, 0.0),
        )


def _seconds(sizes: tuple[tuple[TypeClass, float], ...], rates: dict[TypeClass, float]) -> float:
    found = 0.0
    for kind, size in sizes:
        found += size / rates[kind]
    return found


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
        output_bytes=model.output.total_bytes,
        expert_bytes=model.experts.total_bytes,
        used=model.used,
        blocks=model.blocks,
        expert_blocks=model.expert_blocks,
        recurrent_blocks=model.recurrent_blocks,
        attention_flops=model.attention_flops,
        sliding_flops=model.sliding_flops,
        window=model.window,
    )


def best_case(hardware: Hardware) -> BestCase:
    """A machine at its best; one object for all whose devices are as fast."""
    peaks = [gpu_peak(gpu) for gpu in hardware.gpus]
    return _best_case(tuple(map(_nameless, peaks)), _nameless(host_peak(hardware)))


def _nameless(peak: Peak) -> Peak:
    return peak._replace(name="", assumed="")


@lru_cache(maxsize=KEPT_MACHINES)
def _best_case(gpus: tuple[Peak, ...], host: Peak) -> BestCase:
    computing = gpus or (host,)
    rates = _rates([*gpus, host])
    return BestCase(
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
