"""What the Ollama daemon says of itself; whoever makes the prober says how it is asked."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tagfit.hardware.gpu import ProbeStatus


class ResidentModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that the daemon holds in memory now (``/api/ps``)."""

    model: str
    memory_bytes: Annotated[int, Meta(ge=0, description="all of it, bytes")] = msgspec.field(
        name="memory", default=0
    )
    gpu_memory_bytes: Annotated[int, Meta(ge=0, description="on GPUs, bytes")] = msgspec.field(
        name="gpu_memory", default=0
    )
    context_length: Annotated[int, Meta(ge=0)] = 0


class DaemonState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon's version and its models."""

    version: Annotated[str, Meta(examples=["0.33.3"])] | None = None
    installed: Annotated[
        tuple[str, ...],
        Meta(description="tags by their full names where the library has them"),
    ] = ()
    loaded: Annotated[
        tuple[ResidentModel, ...], Meta(description="Ollama unloads idle ones to make room")
    ] = ()


class DaemonReport(msgspec.Struct, frozen=True):
    """What the daemon answers, or None, and how asking it went."""

    status: ProbeStatus
    daemon: DaemonState | None = None
