"""Configuration by environment. The README's table is checked against this class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, get_type_hints

import msgspec
from msgspec import Meta

from tagfit.daemon.lmstudio import parse_url
from tagfit.daemon.ollama import parse_host
from tagfit.units import parse_bytes

PREFIX = "TAGFIT_"


class SettingsError(ValueError):
    """The environment cannot be used; the message says which variable and what is allowed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every field is the variable of its name in upper case, after ``TAGFIT_``."""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on")] = 11435
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(description="names that a `Host` header may have beside `localhost` and addresses"),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(description="origins of web pages that may call, beside localhost and editors"),
    ] = ()
    allowed_registries: Annotated[
        tuple[str, ...], Meta(description="registry hosts that a pulled name may have")
    ] = ("registry.ollama.ai", "hf.co", "huggingface.co")
    max_body: Annotated[int, Meta(ge=1024, description="largest request body, in bytes")] = 65536
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="`auto`: readable in a terminal, JSON elsewhere"),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least level that is logged")
    ] = "info"
    shutdown_timeout: Annotated[
        int, Meta(ge=1, description="seconds that running answers get at shutdown")
    ] = 10
    stall_timeout: Annotated[
        float, Meta(gt=0, description="seconds without progress after which a pull is given up")
    ] = 300
    probe_timeout: Annotated[
        float, Meta(gt=0, description="seconds that one hardware probe may take")
    ] = 0.8
    probe_cache: Annotated[
        float, Meta(ge=0, description="seconds that probed hardware is kept")
    ] = 5
    measure_bandwidth: Annotated[
        bool, Meta(description="measure the host's memory bandwidth once, in under 0.2 s")
    ] = True
    ollama_memory_limit: Annotated[
        int | None,
        Meta(description="memory limit of Ollama's own container (`4Gi` or bytes), for a sidecar"),
    ] = None
    daemon: Annotated[
        Literal["ollama", "lmstudio"], Meta(description="what pulls: Ollama, or LM Studio instead")
    ] = "ollama"
    lmstudio_url: Annotated[str, Meta(description="the LM Studio server")] = "http://127.0.0.1:1234"
    lmstudio_token: Annotated[
        str,
        Meta(
            pattern="^[!-~]*$",
            description="an API token of the LM Studio server, where it wants one",
        ),
    ] = ""
    ollama_url: Annotated[
        str, Meta(description="the Ollama daemon; read from `OLLAMA_HOST` as Ollama reads it")
    ] = "http://127.0.0.1:11434"
    models_directory: Annotated[
        str | None, Meta(description="where Ollama keeps models; read from `OLLAMA_MODELS`")
    ] = None
    environment: dict[str, str] = {}
    """All variables: the drivers' own, and Ollama's, taken for those of the daemon."""


FROM_OLLAMA = ("ollama_url", "models_directory", "environment")
"""Fields that have no variable of their own."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from environment variables; raises SettingsError."""
    fields = {f.name: f for f in msgspec.structs.fields(Settings) if f.name not in FROM_OLLAMA}
    values: dict[str, object] = {
        "environment": dict(environment),
    }
    if host := environment.get("OLLAMA_HOST"):
        try:
            values["ollama_url"] = parse_host(host)
        except ValueError as error:
            raise SettingsError(str(error)) from error
    if models := environment.get("OLLAMA_MODELS"):
        values["models_directory"] = models
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or _is_service_link(variable, text):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in fields:
            known = ", ".join(PREFIX + field.upper() for field in fields)
            raise SettingsError(f"{variable} is no setting; settings are {known}")
        if text.strip():
            values[name] = _read(name, variable, text)
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(_name_the_variable(str(error))) from error


def _is_service_link(variable: str, text: str) -> bool:
    """Whether Kubernetes made the variable for a Service called ``tagfit``."""
    return _SERVICE_LINK.fullmatch(variable) is not None or (
        variable == "TAGFIT_PORT" and "://" in text
    )


_SERVICE_LINK = re.compile(r"TAGFIT_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")


def _read(name: str, variable: str, text: str) -> object:
    if get_type_hints(Settings)[name] == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        if name == "ollama_memory_limit" or (name == "max_body" and not text.isdecimal()):
            return parse_bytes(text)
        if name == "lmstudio_url":
            return parse_url(text)
    except ValueError as error:
        raise SettingsError(f"{variable}={text}: {error}") from error
    return text


def _name_the_variable(message: str) -> str:
    head, _, path = message.partition(" - at `$.")
    return f"{PREFIX}{path.rstrip('`').upper()}: {head}" if path else message
