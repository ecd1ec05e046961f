"""The Ollama daemon: where it is and the part of its HTTP API that tagfit calls.

Wire format: api/types.go and server/routes.go of github.com/ollama/ollama v0.33.3.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self, TypeVar

import httpx
import msgspec

from tagfit.daemon.client import InstalledModel, LoadedModel, Progress, PullLine
from tagfit.daemon.connection import BEGIN_TIMEOUT, Connection
from tagfit.daemon.pull_errors import problem_of
from tagfit.problems import DaemonError, DaemonUnreachable, Problem

MAX_LINE_BYTES = 8_000_000
"""Ollama's own client gives up on longer lines (api/client.go, maxBufferSize)."""

_HOST = re.compile(r"[\w.-]+|\[[0-9a-f:.]+\]", re.ASCII)
_PATH = re.compile(r"[\w.~%/-]*", re.ASCII)

T = TypeVar("T")


def parse_host(text: str) -> str:
    """The base URL that ``OLLAMA_HOST`` means to a client of the daemon.

    envconfig/config.go, Host and ConnectableHost. Raises ValueError where Ollama would go on
    with a URL that cannot be called.
    """
    text = text.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
        if text == "ollama.com":
            scheme, rest = "https", "ollama.com:443"
    if scheme not in ("http", "https"):
        raise ValueError(f"OLLAMA_HOST={text}: {scheme}:// cannot be called; use http or https")
    default_port = {"http": 80, "https": 443}[scheme] if separator else 11434
    authority, slash, path = rest.partition("/")
    host, port = _split_host_port(authority)
    number = int(port) if port.isascii() and port.isdecimal() else default_port
    if number > 65535:
        number = default_port
    host = _connectable(host)
    if not _HOST.fullmatch(host) or not _PATH.fullmatch(path) or "@" in port:
        raise ValueError(f"OLLAMA_HOST={text}: expected [http[s]://]host[:port][/path]")
    return f"{scheme}://{host}:{number}{slash}{path}".rstrip("/")


def _split_host_port(authority: str) -> tuple[str, str]:
    """As Go's net.SplitHostPort, and with no port where that fails."""
    host, colon, port = authority.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if colon and (bracketed or ":" not in host) and "]" not in port:
        return host.strip("[]"), port
    return authority.strip("[]"), ""


def _connectable(host: str) -> str:
    """A host as it stands in a URL, unspecified addresses replaced by loopback ones."""
    if not host:
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


class _Details(msgspec.Struct, frozen=True):
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class _InstalledRow(msgspec.Struct, frozen=True):
    name: str
    size: int
    digest: str = ""
    modified_at: str = ""
    details: _Details = _Details()

    def model(self) -> InstalledModel:
        return InstalledModel(
            name=self.name,
            digest=self.digest,
            size_bytes=self.size,
            modified_at=self.modified_at,
            family=self.details.family,
            parameter_size=self.details.parameter_size,
            quantization=self.details.quantization_level,
        )


class _LoadedRow(msgspec.Struct, frozen=True):
    name: str
    size: int
    size_vram: int = 0
    context_length: int = 0

    def model(self) -> LoadedModel:
        return LoadedModel(
            name=self.name,
            size_bytes=self.size,
            vram_bytes=self.size_vram,
            context_length=self.context_length,
        )


class _Error(msgspec.Struct):
    error: str = ""


class _Version(msgspec.Struct):
    version: str


class _Installed(msgspec.Struct):
    models: tuple[_InstalledRow, ...]


class _Loaded(msgspec.Struct):
    models: tuple[_LoadedRow, ...]


class Pull:
    """A pull that the daemon has begun. Closing it makes the daemon stop downloading."""

    def __init__(self, response: httpx.Response, connection: Connection) -> None:
        self._response = response
        self._connection = connection
        self._lines = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PullLine:
        """The next line; the last one is ``success`` or an error.

        Raises DaemonUnreachable where the stream ends without either, DaemonError where a line
        is not one of Ollama's.
        """
        return await anext(self._lines)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._response.aclose()

    async def _read(self) -> AsyncIterator[PullLine]:
        ended = False
        with self._connection.errors():
            async for text in _split_lines(self._response.aiter_bytes()):
                progress = _decode(text, Progress)
                ended = progress.status == "success" or bool(progress.error)
                yield PullLine(
                    text, progress, problem_of(progress.error) if progress.error else None
                )
        if not ended:
            raise DaemonUnreachable(
                f"The Ollama daemon at {self._connection.base_url} ended the pull before it was"
                " complete."
            )


class Ollama(Connection):
    """A client of one daemon (``daemon.client.Daemon``).

    Every method raises DaemonUnreachable or DaemonTimeout where the daemon does not answer and
    DaemonError where it answers with an error.
    """

    title = "Ollama"

    def __init__(
        self, base_url: str, models_directory: Callable[[], str | None] = lambda: None
    ) -> None:
        """``models_directory`` says, blocking, where the models are, if they are to be seen."""
        super().__init__(
            base_url,
            called="the Ollama daemon",
            absent="Ollama daemon answers at {}; start it, or say in OLLAMA_HOST where it is.",
            most_kept_alive=0,
        )
        self._models_directory = models_directory

    async def version(self) -> str:
        """The daemon's version."""
        return (await self._get("/api/version", _Version)).version

    async def installed(self) -> tuple[InstalledModel, ...]:
        """The models that are installed."""
        return tuple(row.model() for row in (await self._get("/api/tags", _Installed)).models)

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """The models that are in memory."""
        return tuple(row.model() for row in (await self._get("/api/ps", _Loaded)).models)

    async def landed_bytes(self, digest: str) -> int | None:
        """Bytes of a layer on disk, complete or not; None where the directory is not seen.

        A part is a sparse file of the layer's whole length (server/download.go, run), so what
        counts is what is allocated.
        """
        return await asyncio.to_thread(_landed_bytes, self._models_directory, digest)

    async def unfinished_bytes(self) -> int:
        """Bytes of all unfinished layers on disk; 0 where the directory is not seen."""
        return await asyncio.to_thread(_unfinished_bytes, self._models_directory)

    async def pull(self, model: str, *, insecure: bool = False) -> Pull:
        """Begin a pull; the caller closes it.

        Beside the errors of every method: InvalidRequest where the daemon refuses the name.
        """
        client = self._open_client
        request = client.build_request(
            "POST",
            "/api/pull",
            json={"model": model, "insecure": insecure, "stream": True},
            timeout=BEGIN_TIMEOUT,
        )
        with self.errors():
            response = await client.send(request, stream=True)
            if response.status_code == 200:
                return Pull(response, self)
            try:
                await response.aread()
            finally:
                await response.aclose()
        raise _refusal(response)

    async def _get(self, path: str, kind: type[T]) -> T:
        with self.errors():
            response = await self._open_client.get(path)
        if response.status_code != 200:
            raise _refusal(response)
        return _decode(response.content, kind)


def _landed_bytes(models_directory: Callable[[], str | None], digest: str) -> int | None:
    try:
        blobs = _blobs(models_directory)
        if blobs is None:
            return None
        blob = blobs / digest.replace(":", "-")
        found = [path for path in (blob, blob.with_name(f"{blob.name}-partial")) if path.exists()]
        return _allocated_bytes(found[0]) if found else 0
    except OSError:
        return None


def _unfinished_bytes(models_directory: Callable[[], str | None]) -> int:
    try:
        blobs = _blobs(models_directory)
        return sum(_allocated_bytes(path) for path in blobs.glob("*-partial")) if blobs else 0
    except OSError:
        return 0


def _blobs(models_directory: Callable[[], str | None]) -> Path | None:
    models = models_directory()
    blobs = Path(models) / "blobs" if models else None
    return blobs if blobs is not None and blobs.is_dir() else None


def _allocated_bytes(path: Path) -> int:
    stat = path.stat()
    # Windows counts no blocks; a part's length there is its layer's.
    return getattr(stat, "st_blocks", stat.st_size // 512) * 512


def _refusal(response: httpx.Response) -> Problem:
    try:
        error = msgspec.json.decode(response.content, type=_Error).error
    except msgspec.DecodeError:
        error = ""
    if error:
        return problem_of(error)
    if response.status_code == 403:
        return DaemonError(
            f"The Ollama daemon answered 403 to the host name {response.url.host!r}: it listens on"
            " loopback only and does not know that name; use its address in OLLAMA_HOST."
        )
    return DaemonError(f"{response.url} answered {response.status_code}, as no Ollama daemon does.")


def _decode(text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise DaemonError(f"Ollama sent what tagfit cannot read: {error}.") from error


async def _split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines without their newlines; what stands after the last newline is lost."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(rest) > MAX_LINE_BYTES:
            raise DaemonError(f"Ollama sent a line of more than {MAX_LINE_BYTES} bytes.")
