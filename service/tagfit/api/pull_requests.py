"""What a pull may be asked: Ollama's request, and tagfit's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request
from msgspec import Meta
from msgspec.structs import replace

from tagfit.advice.machine import PostedHardware
from tagfit.advice.preflight import Wish
from tagfit.api.decoding import read_body
from tagfit.api.requests import Cpu, GpuMemories, GpuNames, Ram
from tagfit.catalog.names import ModelName, parse_name
from tagfit.problems import ForbiddenRegistry, InvalidRequest
from tagfit.settings import Settings

Insecure = Annotated[bool, Meta(description="let the daemon speak plain HTTP with the registry")]
Streamed = Annotated[bool, Meta(description="`false`: one object at the end instead of lines")]


class OllamaPullRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ollama's request for a pull; fields that are not here are ignored, as Ollama does."""

    model: Annotated[
        str | None, Meta(description="the tag to pull", examples=["codellama:7b-instruct-q4_K_M"])
    ] = None
    name: Annotated[str | None, Meta(description="older name of `model`")] = None
    insecure: Insecure | None = None
    stream: Streamed | None = None


class PullBody(Wish, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /pull; without ``hardware`` this machine is meant."""

    name: Annotated[str, Meta(max_length=512, description="older name of `model`")] | None = None
    insecure: Insecure = False
    stream: Streamed = True
    force: Annotated[
        bool, Meta(description="pull also what does not fit or run here; it becomes a warning")
    ] = False
    format: Annotated[
        Literal["progress", "ollama"],
        Meta(description="ollama: Ollama's own request and lines, as at /api/pull"),
    ] = "progress"
    hardware: PostedHardware | None = None


class PreviewQuery(Wish, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of GET /pull/preview; without gpu, vram and ram this machine is meant."""

    gpu: GpuNames = ()
    vram: GpuMemories = ()
    ram: Ram | None = None
    cpu: Cpu | None = None


class _Format(msgspec.Struct, frozen=True):
    format: Any = None


async def read_pull(request: Request[Any, Any, Any]) -> PullBody | OllamaPullRequest:
    """The body of POST /pull in the format that it names. Raises InvalidRequest."""
    if (await read_body(request, _Format)).format == "ollama":
        return await read_body(request, OllamaPullRequest)
    body = await read_body(request, PullBody)
    field = "model" if body.model or body.name is None else "name"
    return replace(body, model=given(getattr(body, field), field))


def given(text: str | None, field: str = "model") -> str | None:
    """A name that was given, or None; one that is blank is neither. Raises InvalidRequest."""
    if text is not None and not text.strip():
        message = "it names no tag; leave the field out for the tag that serves best here"
        raise InvalidRequest.field(field, text, message)
    return text.strip() if text else None


def named(data: PullBody | OllamaPullRequest, settings: Settings) -> ModelName | None:
    """The wanted name, if there is one. Raises InvalidRequest, ForbiddenRegistry."""
    text = (data.model or data.name or "").strip()
    field = "name" if data.name and text == data.name.strip() else "model"
    return read_name(text, settings, field) if text else None


def required(data: OllamaPullRequest, settings: Settings) -> ModelName:
    """The wanted name, which must be there. Raises InvalidRequest, ForbiddenRegistry."""
    name = named(data, settings)
    if name is None:
        raise InvalidRequest.field("model", data.model, "the tag to pull is missing")
    return name


def read_name(text: str, settings: Settings, field: str = "model") -> ModelName:
    """A name whose registry the daemon may be sent to. Raises InvalidRequest, ForbiddenRegistry."""
    try:
        name = parse_name(text)
    except ValueError as error:
        raise InvalidRequest.field(field, text, str(error)) from error
    allowed = settings.allowed_registries
    if name.host.lower() not in {host.lower() for host in allowed}:
        raise ForbiddenRegistry(
            f"The registry {name.host!r} is not allowed: allowed are {', '.join(allowed)}."
            " TAGFIT_ALLOWED_REGISTRIES names them."
        )
    return name
