"""``/pull``, the daemon's pull as one progress, and ``/api/pull``, Ollama's own, line for line.

The daemon answers 200 to everything and says only in its second line that a tag does not exist.
So two lines are awaited before the status is decided; what goes wrong later ends the stream with
a line that says so.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import SkipValidation

from tagfit.advice.answers import Estimate
from tagfit.advice.estimate import find
from tagfit.advice.machine import Machine
from tagfit.advice.preflight import (
    DaemonFacts,
    Preflight,
    Wish,
    choose,
    examine,
    forced,
)
from tagfit.api.decoding import read_body, read_query
from tagfit.api.machines import machine_of, machine_of_query
from tagfit.api.problems import encode_problem
from tagfit.api.pull_requests import (
    OllamaPullRequest,
    PreviewQuery,
    PullBody,
    given,
    named,
    read_name,
    read_pull,
    required,
)
from tagfit.api.pull_stream import (
    EVENTS,
    NDJSON,
    Suggest,
    answer_as_ollama,
    answer_progress,
)
from tagfit.api.schema import describes
from tagfit.catalog.library import Catalog
from tagfit.catalog.names import ModelName
from tagfit.daemon.client import Daemon, Progress
from tagfit.hardware.probe import Prober
from tagfit.problems import Problem, ProblemDetails
from tagfit.pulls.shared import Key, Pulls
from tagfit.pulls.stream import PullUpdate
from tagfit.settings import Settings

DISK_SECONDS = 2.0
PROBLEMS = "400 401 403 404 409 412 413 415 421 502 503 504 507"


class PullPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull would meet."""

    model: str
    """The name that would be pulled."""
    chosen: str | None
    """Why this one, where tagfit chose the tag."""
    starts: bool
    """POST /pull would begin; otherwise ``problem`` says why not, and ``force`` begins it."""
    problem: ProblemDetails | None
    warnings: tuple[str, ...]
    installed: bool | None
    """The daemon has it already; null where that is not known, as the next four."""
    download_bytes: int | None
    """Predicted from the catalog, of all layers."""
    disk_free_bytes: int | None
    daemon_version: str | None
    estimate: Estimate | None


@post(
    "/pull",
    operation_id="pullModel",
    tags=["pull"],
    status_code=200,
    opt=describes(
        PullUpdate, takes=PullBody, also={NDJSON: PullUpdate, EVENTS: PullUpdate}, problems=PROBLEMS
    ),
)
async def pull(
    request: Request[Any, Any, Any],
    pulls: NamedDependency[Pulls],
    settings: NamedDependency[Settings],
    catalog: NamedDependency[Catalog],
    prober: NamedDependency[Prober],
    suggest: NamedDependency[SkipValidation[Suggest]],
) -> Response[Any]:
    """Let the daemon pull a tag that fits, and follow it.

    The media type of the answer is that of lines of JSON, or of server-sent events (each an
    `event: progress` with the line as its data) where Accept names them. The last line's status
    is `done` or `failed`. With `"format": "ollama"` it is /api/pull.
    """
    data = await read_pull(request)
    if isinstance(data, OllamaPullRequest):
        return await _relay(request, data, pulls, settings, suggest)
    name = named(data, settings)
    machine = await machine_of(data.hardware, prober)
    facts = await daemon_facts(pulls.daemon)
    preflight = await asyncio.to_thread(look_ahead, catalog, data, name, machine, facts)
    if data.force:
        preflight = forced(preflight)
    if preflight.problem is not None:
        raise preflight.problem
    key = Key(str(preflight.choice.name), data.insecure)
    follower = pulls.follow(key, preflight.download_bytes)
    return await answer_progress(request, follower, suggest, preflight, stream=data.stream)


@get(
    "/pull/preview",
    operation_id="previewPull",
    tags=["pull"],
    opt=describes(PullPreview, takes=PreviewQuery, problems="400 403 404 409"),
)
async def preview(
    request: Request[Any, Any, Any],
    pulls: NamedDependency[Pulls],
    settings: NamedDependency[Settings],
    catalog: NamedDependency[Catalog],
    prober: NamedDependency[Prober],
) -> PullPreview:
    """What POST /pull would do, without doing it."""
    query = read_query(request.query_params.multi_items(), PreviewQuery)
    text = given(query.model)
    name = read_name(text, settings) if text else None
    machine = await machine_of_query(query, prober)
    facts = await daemon_facts(pulls.daemon)
    found = await asyncio.to_thread(look_ahead, catalog, query, name, machine, facts)
    choice = found.choice
    if choice.name.in_library and choice.tag is None:
        find(catalog, str(choice.name))  # raises UnknownModel with near names
    return PullPreview(
        model=str(choice.name),
        chosen=choice.reason,
        starts=found.problem is None,
        problem=found.problem.details() if found.problem else None,
        warnings=found.warnings,
        installed=found.installed,
        download_bytes=found.download_bytes,
        disk_free_bytes=machine.hardware.disk_free_bytes,
        daemon_version=facts.version,
        estimate=found.estimate,
    )


def _answer_as_ollama(_: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """A problem by the content type under which Ollama's JavaScript client looks for ``error``."""
    return Response(
        encode_problem(problem),
        status_code=problem.status,
        media_type="application/json",
        headers=problem.headers,
    )


@post(
    "/api/pull",
    operation_id="pullModelAsOllama",
    tags=["pull"],
    status_code=200,
    opt=describes(
        Progress,
        takes=OllamaPullRequest,
        also={NDJSON: Progress},
        problems=PROBLEMS,
        problems_as="application/json",
    ),
    exception_handlers={Problem: _answer_as_ollama},
)
async def api_pull(
    request: Request[Any, Any, Any],
    pulls: NamedDependency[Pulls],
    settings: NamedDependency[Settings],
    suggest: NamedDependency[SkipValidation[Suggest]],
) -> Response[Any]:
    """Ollama's own pull, for clients that are made for Ollama."""
    data = await read_body(request, OllamaPullRequest)
    return await _relay(request, data, pulls, settings, suggest)


async def _relay(
    request: Request[Any, Any, Any],
    data: OllamaPullRequest,
    pulls: Pulls,
    settings: Settings,
    suggest: Suggest,
) -> Response[Any]:
    key = Key(str(required(data, settings)), bool(data.insecure))
    follower = pulls.follow(key)
    return await answer_as_ollama(request, follower, suggest, stream=data.stream is not False)


def look_ahead(
    catalog: Catalog, wish: Wish, name: ModelName | None, machine: Machine, facts: DaemonFacts
) -> Preflight:
    """Which tag is meant and what speaks against it; it may take a second. Raises Problem."""
    return examine(catalog, choose(catalog, wish, name, machine), wish, machine, facts)


async def daemon_facts(daemon: Daemon) -> DaemonFacts:
    """What the daemon says of itself, as far as it answers."""
    version, installed, unfinished_bytes = await asyncio.gather(
        daemon.version(),
        daemon.installed(),
        # A disk may hang where a daemon does not.
        asyncio.wait_for(daemon.unfinished_bytes(), DISK_SECONDS),
        return_exceptions=True,
    )
    for answer in (version, installed, unfinished_bytes):
        if isinstance(answer, BaseException) and not isinstance(answer, Problem | TimeoutError):
            raise answer
    return DaemonFacts(
        version=version if isinstance(version, str) else None,
        installed=installed if isinstance(installed, tuple) else None,
        unfinished_bytes=unfinished_bytes if isinstance(unfinished_bytes, int) else 0,
    )
