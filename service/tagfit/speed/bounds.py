"""The least time that a job can take on a machine: a bound that costs a microsecond.

It holds for every placement, so what is too slow by it need not be laid over the machine.
"""

from __future__ import annotations

from typing import NamedTuple

from tagfit.facts import Hardware
from tagfit.speed.efficiency import TypeClass
from tagfit.speed.peaks import Peak, gpu_peak, host_peak
from tagfit.speed.work import Work


class Needs(NamedTuple):
    """What one token needs of a model, and the weights that have to lie somewhere."""

    read_bytes: tuple[tuple[TypeClass, float], ...]
    float_elements: float
    quantized_elements: float
    dense_bytes: int
    expert_bytes: int
    used: float
    """Share of the experts that one token uses."""


class BestCase(NamedTuple):
    """A machine at its best: every device's fastest rates."""

    gpu_bytes: int
    """Free on all GPUs."""
    rates: dict[TypeClass, float]
    """Bytes a second that the fastest device reads."""
    host_rates: dict[TypeClass, float]
    float_flops: float
    """Of all devices that compute prompts."""
    quantized_flops: float

    def seconds(self, needs: Needs, prompt_tokens: int, answer_tokens: float) -> float:
        """No placement does the job in less."""
        arithmetic = 2 * (
            needs.float_elements / self.float_flops
            + needs.quantized_elements / self.quantized_flops
        )
        share = self._share_on_host(needs)
        reading = sum(
            size * ((1 - share) / self.rates[kind] + share / self.host_rates[kind])
            for kind, size in needs.read_bytes
        )
        return prompt_tokens * arithmetic + answer_tokens * reading

    def _share_on_host(self, needs: Needs) -> float:
        """The least share of what a token reads that cannot be on a GPU: experts go first."""
        over = needs.dense_bytes + needs.expert_bytes - self.gpu_bytes
        if over <= 0:
            return 0.0
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
        float_elements=elements[True],
        quantized_elements=elements[False],
        dense_bytes=model.dense.total_bytes + model.output.total_bytes,
        expert_bytes=model.experts.total_bytes,
        used=model.used,
    )


def best_case(hardware: Hardware) -> BestCase:
    """A machine at its best."""
    host = host_peak(hardware)
    gpus = [gpu_peak(gpu) for gpu in hardware.gpus]
    computing = gpus or [host]
    return BestCase(
        gpu_bytes=sum(gpu.free_memory_bytes for gpu in hardware.gpus),
        rates=_rates([*gpus, host]),
        host_rates=_rates([host]),
        float_flops=sum(p.sustained_compute * p.reached.matrix_float for p in computing),
        quantized_flops=sum(p.sustained_compute * p.reached.matrix_quantized for p in computing),
    )


def _rates(peaks: list[Peak]) -> dict[TypeClass, float]:
    return {
        kind: max(peak.bandwidth * peak.reached.bandwidth[kind] for peak in peaks)
        for kind in peaks[0].reached.bandwidth
    }
