"""What a request may hold: JSON bodies for programs, flat query parameters for shells."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from msgspec import Meta

from tagfit.advice.estimate import EstimateRequest
from tagfit.advice.machine import PostedGpu, PostedHardware, Size
from tagfit.advice.recommend import RecommendRequest, Wish
from tagfit.advice.roles import MOST_ROLES
from tagfit.problems import InvalidRequest
from tagfit.units import Bytes

GpuNames = Annotated[
    tuple[Annotated[str, Meta(max_length=128)], ...],
    Meta(description="name of a GPU, repeatable: RTX 3060", max_length=64),
]
GpuMemories = Annotated[
    tuple[Size, ...],
    Meta(description="memory of each GPU, or of all: 12GiB", max_length=64),
]
Ram = Annotated[Size, Meta(description="RAM: 32GiB")]
Cpu = Annotated[
    str, Meta(max_length=128, description="the processor's name, or words for its memory")
]


Format = Annotated[
    Literal["json", "tag"], Meta(description="tag: the best tag as plain text, nothing else")
]


class EstimateBody(EstimateRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /estimate; without ``hardware`` this machine is meant."""

    hardware: PostedHardware | None = None


class RecommendBody(RecommendRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /recommend; without ``hardware`` this machine is meant."""

    roles: Annotated[
        tuple[Wish, ...],
        Meta(
            max_length=MOST_ROLES,
            description="several uses whose tags shall be loaded at once; what a use asks for then"
            " stands in its role",
            examples=[[{"use_case": "chat"}, {"use_case": "autocomplete"}]],
        ),
    ] = ()
    hardware: PostedHardware | None = None
    format: Format = "json"


class EstimateQuery(EstimateRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of GET /estimate; without gpu, vram, ram and cpu this machine is meant."""

    loaded: Annotated[
        tuple[Annotated[str, Meta(max_length=256)], ...],
        Meta(max_length=16, description="tags that stay loaded, repeatable"),
    ] = ()
    gpu: GpuNames = ()
    vram: GpuMemories = ()
    ram: Ram | None = None
    cpu: Cpu | None = None


class RecommendQuery(RecommendRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of GET /recommend; without gpu, vram, ram and cpu this machine is meant."""

    gpu: GpuNames = ()
    vram: GpuMemories = ()
    ram: Ram | None = None
    cpu: Cpu | None = None
    format: Format = "json"


class HardwareParameters(Protocol):
    """Flat parameters that describe a machine."""

    @property
    def gpu(self) -> tuple[str, ...]: ...
    @property
    def vram(self) -> tuple[Bytes, ...]: ...
    @property
    def ram(self) -> Bytes | None: ...
    @property
    def cpu(self) -> str | None: ...


def posted_hardware(query: HardwareParameters) -> PostedHardware | None:
    """The machine of flat parameters, None where they name none. Raises InvalidRequest."""
    if not query.gpu and not query.vram and query.ram is None and query.cpu is None:
        return None
    if query.gpu and len(query.vram) not in (0, 1, len(query.gpu)):
        raise InvalidRequest.field(
            "vram", list(query.vram), f"give it once or once for each of {len(query.gpu)} gpu"
        )
    names: tuple[str | None, ...] = query.gpu or (None,) * len(query.vram)
    memories: tuple[Bytes | None, ...] = query.vram or (None,)
    if len(memories) == 1:
        memories *= len(names)
    gpus = tuple(
        PostedGpu(name=name, memory=memory) for name, memory in zip(names, memories, strict=True)
    )
    return PostedHardware(gpus=gpus, memory=query.ram, cpu=query.cpu)
