"""``GET /hardware``: this machine, as Ollama will find it; the answer can be posted back."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from msgspec.structs import asdict, replace

from tagfit.advice.answers import GpuAnswer, HardwareAnswer, answer_hardware
from tagfit.advice.machine import LEAST_GPU_BANDWIDTH, PostedGpu, PostedHardware
from tagfit.api.decoding import read_query
from tagfit.api.schema import describes
from tagfit.hardware.cgroup import Limits
from tagfit.hardware.cpu import Cpu
from tagfit.hardware.daemon import DaemonState
from tagfit.hardware.disk import Disk
from tagfit.hardware.gpu import Gpu, ProbeStatus
from tagfit.hardware.host import Memory
from tagfit.hardware.probe import Prober
from tagfit.hardware.probed import Probed
from tagfit.speed.devices import lookup
from tagfit.units import SMALLEST_BARE_BYTES


class HardwareQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of GET /hardware."""

    refresh: bool = False


class HardwareDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What was found beside what sizes and speeds need."""

    gpus: tuple[Gpu, ...]
    cpu: Cpu
    memory: Memory | None
    limits: Limits
    disk: Disk
    nvidia_driver_version: str | None
    cuda_version: str | None


class ProbedHardware(HardwareAnswer, frozen=True, kw_only=True):
    """What GET /hardware answers: the fields that a request has, details, how probes went."""

    daemon: DaemonState | None
    """What Ollama says of itself; its loaded models' memory is not counted as free here."""
    details: HardwareDetails
    probe: dict[str, ProbeStatus]


@get(
    "/hardware",
    operation_id="getHardware",
    tags=["machine"],
    opt=describes(ProbedHardware, takes=HardwareQuery, problems="400"),
)
async def get_hardware(
    request: Request[Any, Any, Any], prober: NamedDependency[Prober]
) -> ProbedHardware:
    """The machine that the service runs on; a probe that fails is a field of the answer."""
    query = read_query(request.query_params.multi_items(), HardwareQuery)
    return answer_probed(await prober.probe(refresh=query.refresh))


def answer_probed(probed: Probed) -> ProbedHardware:
    """What was probed, as it is answered."""
    common = answer_hardware(probed.hardware)
    fields = {name: getattr(common, name) for name in HardwareAnswer.__struct_fields__}
    return ProbedHardware(
        **fields
        | {
            "gpus": tuple(_with_bandwidth(gpu, common) for gpu in common.gpus),
            "free_memory": _postable(common.free_memory),
            "disk_free": _postable(common.disk_free),
        },
        daemon=probed.daemon,
        details=HardwareDetails(
            **{name: getattr(probed, name) for name in HardwareDetails.__struct_fields__}
        ),
        probe=probed.probe,
    )


def as_posted(answer: ProbedHardware) -> PostedHardware:
    """The answer, posted back."""
    gpus = tuple(PostedGpu(**asdict(gpu)) for gpu in answer.gpus)
    fields = {name: getattr(answer, name) for name in HardwareAnswer.__struct_fields__}
    return PostedHardware(**fields | {"gpus": gpus}, daemon=answer.daemon)


def _with_bandwidth(gpu: GpuAnswer, machine: HardwareAnswer) -> GpuAnswer:
    """By its name, where the driver does not tell it, or less than a request may say."""
    memory = machine.memory if machine.unified_memory else gpu.memory
    told = gpu.bandwidth if (gpu.bandwidth or 0) >= LEAST_GPU_BANDWIDTH else None
    known = None if told else lookup(gpu.name, memory)
    return replace(
        gpu,
        free_memory=_postable(gpu.free_memory),
        bandwidth=known.bandwidth_bytes_per_second if known else told,
    )


def _postable(count: int | None) -> int | None:
    """What is left of it to speak of: a request refuses so few bytes, taking them for MiB."""
    return 0 if count is not None and count < SMALLEST_BARE_BYTES else count
