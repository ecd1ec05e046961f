"""LM Studio in Ollama's place: its downloads as pulls.

Wire format: the REST API v1 of LM Studio 0.4.0, as documented on 2026-04-14 at
https://lmstudio.ai/docs/developer/rest (download, download-status, list) and
https://lmstudio.ai/docs/developer/core/authentication. LM Studio is closed and needs a desktop or
its own installer, so tagfit's tests replay what those pages say; nothing here was tried on a real
one, and where they are silent it says so.

* A download is a job that is asked for its state, once a second: it has no stream and no layers.
* Nothing in the API stops a job. Closing a pull only ends the asking; LM Studio downloads on, and
  its own window can pause or cancel it. Pulling again follows what it then answers.
* The API tells no version and does not say from which repository a model came.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import structlog

from tagfit.daemon.client import InstalledModel, LoadedModel, Progress, PullLine
from tagfit.daemon.connection import BEGIN_TIMEOUT, Connection
from tagfit.daemon.lmstudio_errors import problem_of
from tagfit.problems import (
    DaemonError,
    DaemonTimeout,
    DaemonUnreachable,
    InvalidRequest,
    Problem,
    UnknownModel,
)

POLL_SECONDS = 1.0
"""Between two questions for a job's state; LM Studio writes each into its log."""
LOST_POLLS = 3
"""So many questions in a row may stay without an answer: the job runs on meanwhile."""

_URL = re.compile(r"https?://([\w.-]+|\[[0-9a-f:.]+\])(:\d+)?(/[\w.~%/-]*)?", re.ASCII)

T = TypeVar("T")
_log = structlog.get_logger("tagfit.pull")


def parse_url(text: str) -> str:
    """The base URL of the server. Raises ValueError."""
    text = text.strip()
    if not _URL.fullmatch(text):
        raise ValueError("expected http[s]://host[:port][/path]")
    _ = urlsplit(text).port  # raises for one that no host has
    return text.rstrip("/")


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """A download, as POST /api/v1/models/download and GET …/status/:job_id tell of it."""

    status: Literal["downloading", "paused", "completed", "failed", "already_downloaded"]
    job_id: str = ""
    total_size_bytes: float | None = None
    downloaded_bytes: float | None = None
    error: Any = None
    """Not documented: why a download failed, should a server say so."""


class _Quantization(msgspec.Struct, frozen=True):
    name: str | None = None


class _Config(msgspec.Struct, frozen=True):
    context_length: int = 0


class _Instance(msgspec.Struct, frozen=True):
    id: str
    config: _Config = _Config()


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    publisher: str = ""
    size_bytes: int
    architecture: str | None = None
    params_string: str | None = None
    quantization: _Quantization | None = None
    loaded_instances: tuple[_Instance, ...] = ()

    @property
    def name(self) -> str:
        """With its publisher, so that no tag of the Ollama library is called the same."""
        return self.key if "/" in self.key else f"{self.publisher or 'lmstudio'}/{self.key}"

    def installed(self) -> InstalledModel:
        return InstalledModel(
            name=self.name,
            size_bytes=self.size_bytes,
            family=self.architecture or "",
            parameter_size=self.params_string or "",
            quantization=(self.quantization.name if self.quantization else None) or "",
        )

    def loaded(self) -> Iterator[LoadedModel]:
        for instance in self.loaded_instances:
            yield LoadedModel(
                name=self.name,
                size_bytes=self.size_bytes,
                context_length=instance.config.context_length,
            )


class _Models(msgspec.Struct, frozen=True):
    models: tuple[_Row, ...]


class _ErrorBody(msgspec.Struct, frozen=True):
    error: Any = None
    status: Any = None
    """A job has one, and may say beside it why it failed."""


AskState = Callable[[str], Awaitable[_Job]]
"""The state of a job, by its id."""


class Download:
    """A download that LM Studio has begun, told in Ollama's words (``daemon.client.PullStream``).

    It has one layer, whose digest is made up from the name.
    """

    def __init__(self, ask: AskState, wanted: Mapping[str, str], job: _Job) -> None:
        self._ask = ask
        self._wanted = wanted
        self._job = job
        self._closed = asyncio.Event()
        self._lines = self._read()
        made_up = hashlib.sha256("@".join(wanted.values()).encode()).hexdigest()
        self._digest = f"sha256:{made_up}"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PullLine:
        """The next line; the last one is ``success`` or an error.

        Raises DaemonUnreachable or DaemonTimeout where the server stays away, DaemonError where
        it no longer knows the download.
        """
        return await anext(self._lines)

    async def aclose(self) -> None:
        """Follow no longer. The server downloads on: its API has nothing that stops it."""
        if not self._closed.is_set() and self._job.status in ("downloading", "paused"):
            _log.warning(
                "LM Studio downloads on though nobody follows; pause or cancel it there",
                **self._wanted,
            )
        self._closed.set()

    async def _read(self) -> AsyncIterator[PullLine]:
        yield _line(Progress(status="pulling manifest"))
        while True:
            if self._job.total_size_bytes:
                yield _line(self._progress())
            if self._job.status in ("completed", "already_downloaded"):
                yield _line(Progress(status="success"))
                return
            if self._job.status == "failed":
                yield _failure(self._job)
                return
            if not self._job.total_size_bytes:
                yield _line(Progress(status=f"pulling {self._wanted['model']}"))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), POLL_SECONDS)
            if self._closed.is_set():
                return
            self._job = await self._ask_again()

    def _progress(self) -> Progress:
        total_bytes = round(self._job.total_size_bytes or 0)
        done = self._job.status in ("completed", "already_downloaded")
        completed_bytes = total_bytes if done else round(self._job.downloaded_bytes or 0)
        return Progress(
            status=f"pulling {self._digest.removeprefix('sha256:')[:12]}",
            digest=self._digest,
            total_bytes=total_bytes,
            completed_bytes=min(completed_bytes, total_bytes),
        )

    async def _ask_again(self) -> _Job:
        """The job's state; what an answer leaves out is as it was."""
        lost = 0
        while True:
            try:
                job = await self._ask(self._job.job_id)
            except (DaemonUnreachable, DaemonTimeout):
                lost += 1
                if lost == LOST_POLLS:
                    raise
                await asyncio.sleep(POLL_SECONDS)
                continue
            return msgspec.structs.replace(
                job,
                job_id=self._job.job_id,
                total_size_bytes=job.total_size_bytes or self._job.total_size_bytes,
                downloaded_bytes=job.downloaded_bytes or self._job.downloaded_bytes,
            )


class LMStudio(Connection):
    """A client of one server (``daemon.client.Daemon``).

    Every method raises DaemonUnreachable or DaemonTimeout where the server does not answer and
    another Problem where it answers with an error.
    """

    title = "LM Studio"

    def __init__(
        self, base_url: str, token: str, request_of: Callable[[str], Mapping[str, str]]
    ) -> None:
        """``request_of`` says how LM Studio is asked for a name: the body of the download.

        It raises ValueError for what is no name and LookupError for what LM Studio does not have,
        each with a sentence. An empty token is none.
        """
        super().__init__(
            base_url,
            called="LM Studio",
            absent="LM Studio server answers at {}; start it (lms server start), or say in"
            " TAGFIT_LMSTUDIO_URL where it is.",
            headers={"authorization": f"Bearer {token}"} if token else None,
        )
        self._request_of = request_of

    async def version(self) -> str:
        """Empty: the API tells none. The server is asked all the same, so that absence shows."""
        await self._models()
        return ""

    async def installed(self) -> tuple[InstalledModel, ...]:
        """The models on its disk."""
        return tuple(row.installed() for row in await self._models())

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory, once an instance; how much of one lies on GPUs is not told."""
        return tuple(model for row in await self._models() for model in row.loaded())

    async def landed_bytes(self, digest: str) -> int | None:  # noqa: ARG002 - no layers here
        """None: how LM Studio stores what is unfinished is not documented."""
        return None

    async def unfinished_bytes(self) -> int:
        """0: not to be seen."""
        return 0

    async def pull(self, model: str, *, insecure: bool = False) -> Download:
        """Begin a download; the caller closes it.

        Beside the errors of every method: UnknownModel, InvalidRequest.
        """
        if insecure:
            raise InvalidRequest.field("insecure", insecure, "LM Studio downloads by HTTPS only")
        wanted = self._wanted(model)
        job = await self._call(
            "POST",
            "/api/v1/models/download",
            _Job,
            json=wanted,
            timeout=BEGIN_TIMEOUT,
        )
        if job.status in ("downloading", "paused") and not job.job_id:
            raise DaemonError("LM Studio began a download without a job_id, so it has no progress.")
        return Download(self._state, wanted, job)

    def _wanted(self, model: str) -> Mapping[str, str]:
        try:
            return self._request_of(model)
        except ValueError as error:
            raise InvalidRequest.field("model", model, str(error)) from error
        except LookupError as error:
            sentence = str(error)
            raise UnknownModel(f"{sentence[0].upper()}{sentence[1:]}.") from error

    async def _state(self, job_id: str) -> _Job:
        path = f"/api/v1/models/download/status/{quote(job_id, safe='')}"
        return await self._call("GET", path, _Job)

    async def _models(self) -> tuple[_Row, ...]:
        return (await self._call("GET", "/api/v1/models", _Models)).models

    async def _call(self, method: str, path: str, kind: type[T], **request: Any) -> T:
        with self.errors():
            response = await self._open_client.request(method, path, **request)
        problem = _refusal(response)
        if problem is not None:
            raise problem
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            raise DaemonError(f"LM Studio sent what tagfit cannot read: {error}.") from error


def _refusal(response: httpx.Response) -> Problem | None:
    """The error that an answer is; an old server gives one with status 200."""
    try:
        body = msgspec.json.decode(response.content, type=_ErrorBody)
    except msgspec.DecodeError:
        body = _ErrorBody()
    message, kind = _said(body.error)
    if response.status_code in (401, 403):
        return DaemonError(
            f"LM Studio at {response.url.host} does not let tagfit in: TAGFIT_LMSTUDIO_TOKEN must"
            f" be an API token of its server that may do this.{f' {message}' if message else ''}"
        )
    if response.is_success and (not message or body.status is not None):
        return None
    if message:
        return problem_of(message, kind)
    return DaemonError(
        f"{response.url} answered {response.status_code}, as no LM Studio server does."
    )


def _said(error: Any) -> tuple[str, str]:
    """Message and type of an error, an object or a bare text."""
    if isinstance(error, dict):
        return str(error.get("message") or error.get("type") or ""), str(error.get("type") or "")
    return (error, "") if isinstance(error, str) else ("", "")


def _line(progress: Progress) -> PullLine:
    fields = msgspec.to_builtins(progress)
    return PullLine(msgspec.json.encode({k: v for k, v in fields.items() if v}), progress)


def _failure(job: _Job) -> PullLine:
    message, kind = _said(job.error)
    problem = (
        problem_of(message, kind)
        if message
        else DaemonError("LM Studio says that the download failed, not why; its own window may.")
    )
    return msgspec.structs.replace(_line(Progress(error=problem.detail)), problem=problem)
