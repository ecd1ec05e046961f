"""A follower of a pull as an HTTP answer: Ollama's lines, or aggregated ones, or one object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream
from msgspec import UNSET
from msgspec.structs import replace

from tagfit.advice.preflight import Preflight
from tagfit.problems import UnknownModel
from tagfit.pulls.shared import Follower
from tagfit.pulls.stream import PullUpdate
from tagfit.pulls.tally import update

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
HEADERS = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
"""A proxy that compresses or buffers (nginx) would hold lines back; these tell it not to."""
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before the answer; only the log sees it."""

Suggest = Callable[[str], tuple[str, ...]]
"""Names near to one that does not exist."""

T = TypeVar("T")


async def answer_as_ollama(
    request: Request[Any, Any, Any], follower: Follower, suggest: Suggest, *, stream: bool
) -> Response[Any]:
    """The daemon's lines as they came, or the last of them. Raises Problem."""
    if not stream:
        return await _whole(request, follower, suggest, lambda: follower.pull.last_line + b"\n")
    lines = _each_line(follower)
    return await _streamed(request, follower, suggest, lines, NDJSON)


async def answer_progress(
    request: Request[Any, Any, Any],
    follower: Follower,
    suggest: Suggest,
    preflight: Preflight,
    *,
    stream: bool,
) -> Response[Any]:
    """The aggregated lines, or the last of them. Raises Problem."""
    if not stream:
        return await _whole(
            request, follower, suggest, lambda: _encode(follower.pull.update(), preflight)
        )
    events = wants_events(request.headers.get("accept", ""))
    states = _states(follower, preflight)
    lines = (_event if events else _line)(states)
    return await _streamed(request, follower, suggest, lines, EVENTS if events else NDJSON)


def wants_events(accept: str) -> bool:
    """Whether an Accept header names server-sent events."""
    named = [part.partition(";") for part in accept.lower().split(",")]
    return any(
        kind.strip() == EVENTS and parameters.replace(" ", "") not in ("q=0", "q=0.0")
        for kind, _, parameters in named
    )


async def _whole(
    request: Request[Any, Any, Any],
    follower: Follower,
    suggest: Suggest,
    last: Callable[[], bytes],
) -> Response[Any]:
    try:
        await unless_client_leaves(request, follower.end())
    except ClientLeft:
        return Response(b"", status_code=CLIENT_CLOSED_REQUEST)
    except UnknownModel as problem:
        raise with_near_names(problem, follower, suggest) from problem
    finally:
        follower.leave()
    return Response(last(), media_type="application/json")


async def _streamed(
    request: Request[Any, Any, Any],
    follower: Follower,
    suggest: Suggest,
    lines: AsyncIterator[bytes],
    media_type: str,
) -> Response[Any]:
    """A stream, once the daemon's second line has decided that it is one."""
    try:
        await unless_client_leaves(request, follower.decide())
    except ClientLeft:
        follower.leave()
        return Response(b"", status_code=CLIENT_CLOSED_REQUEST)
    except UnknownModel as problem:
        follower.leave()
        raise with_near_names(problem, follower, suggest) from problem
    except BaseException:
        follower.leave()
        raise

    async def leave() -> None:
        follower.leave()

    # A client that leaves while a line is being sent stops the iteration without ending it;
    # the background task then leaves at once.
    return Stream(
        lines,
        media_type=media_type,
        headers=HEADERS,
        background=BackgroundTask(leave),
    )


async def _each_line(follower: Follower) -> AsyncIterator[bytes]:
    try:
        async for line in follower.lines():
            yield line + b"\n"
    finally:
        follower.leave()


async def _states(follower: Follower, preflight: Preflight) -> AsyncIterator[bytes]:
    """A line that says what is pulled and what speaks against it, then the state as it changes."""
    pull = follower.pull
    try:
        opening = follower.first or pull.succeeded  # it may have ended since this client came
        first = update(pull.key.model, pull.tally, "resolving" if opening else None)
        yield _encode(first, preflight)
        async for state in follower.states():
            yield state
    finally:
        follower.leave()


def _encode(now: PullUpdate, preflight: Preflight) -> bytes:
    """A line with what only this client's request is told."""
    chosen = preflight.choice.reason
    warned = replace(now, warnings=preflight.warnings)
    return msgspec.json.encode(replace(warned, chosen=UNSET if chosen is None else chosen))


async def _line(states: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for state in states:
        yield state + b"\n"


async def _event(states: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for state in states:
        yield b"event: progress\ndata: " + state + b"\n\n"


def with_near_names(problem: UnknownModel, follower: Follower, suggest: Suggest) -> UnknownModel:
    """The daemon's word that there is no such tag, and tags that there are."""
    name = follower.pull.key.model
    near = suggest(name)
    hint = f"; did you mean {', '.join(near)}?" if near else "."
    detail = problem.detail.rstrip(".")
    if name not in detail:
        detail = f"There is no tag {name}. {detail}"
    return UnknownModel(f"{detail}{hint}", suggestions=near)


class ClientLeft(Exception):  # noqa: N818 - nobody's error
    """The client closed the connection before it was answered."""


async def unless_client_leaves(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """The work's result; work is cancelled where the client leaves first (ClientLeft).

    Litestar listens for that only once an answer streams.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})


async def _disconnect(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
