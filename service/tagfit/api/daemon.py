"""What the daemon says of itself, for the prober of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from tagfit.catalog.library import Catalog, UnknownTag
from tagfit.daemon.client import Daemon, InstalledModel, LoadedModel
from tagfit.hardware.daemon import DaemonReport, DaemonState
from tagfit.hardware.gpu import ProbeStatus
from tagfit.problems import DaemonUnreachable, Problem

T = TypeVar("T")

PATIENCE_SECONDS = 3.0
"""A daemon that takes longer is left alone for a while, as a driver that hangs is."""
DIGEST_DIGITS = 12
"""Of a manifest's digest in the catalog."""


def daemon_asker(connect: Callable[[], Daemon], catalog: Catalog) -> Callable[[], DaemonReport]:
    """What asks the daemon, blocking, each time by a client of its own.

    It raises TimeoutError.
    """
    names = {tag.digest: tag.name for tag in catalog.tags}

    def name_of(model: InstalledModel) -> str:
        return names.get(model.digest[:DIGEST_DIGITS]) or _full_name(catalog, model.name)

    async def ask() -> DaemonReport:
        daemon = connect()
        try:
            version, installed, loaded = await asyncio.gather(
                _answer(daemon.version()), _answer(daemon.installed()), _answer(daemon.loaded())
            )
        finally:
            await daemon.aclose()
        if isinstance(version, Problem):
            absent = isinstance(version, DaemonUnreachable)
            return DaemonReport(ProbeStatus("unavailable" if absent else "error", version.detail))
        failed = [part.detail for part in (installed, loaded) if isinstance(part, Problem)]
        models = () if isinstance(installed, Problem) else installed
        said = {
            "version": version or None,
            "installed": sorted({name_of(model) for model in models}),
            "loaded": [] if isinstance(loaded, Problem) else [_resident(one) for one in loaded],
        }
        try:
            state = msgspec.convert(said, DaemonState)
        except msgspec.ValidationError as error:
            return DaemonReport(ProbeStatus("error", f"{daemon.title} sent nonsense: {error}"))
        return DaemonReport(ProbeStatus("ok", "; ".join(dict.fromkeys(failed)) or None), state)

    return lambda: asyncio.run(asyncio.wait_for(ask(), PATIENCE_SECONDS))


async def _answer(call: Awaitable[T]) -> T | Problem:
    try:
        return await call
    except Problem as error:
        return error


def _full_name(catalog: Catalog, name: str) -> str:
    """The library's own name of a tag: ``codellama:latest`` says less."""
    try:
        return catalog.find(name)[1].name
    except (UnknownTag, ValueError):
        return name


def _resident(model: LoadedModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "memory": model.size_bytes,
        "gpu_memory": model.vram_bytes,
        "context_length": model.context_length,
    }
