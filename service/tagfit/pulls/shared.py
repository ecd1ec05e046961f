"""Running pulls: one connection to the daemon for each name, and any number of followers.

A reader task takes the daemon's lines without pause, whoever listens: a client that does not read
holds nobody back, and the daemon is never left with a line that nobody takes (with one it would
go on downloading for ever once the client has gone: github.com/ollama/ollama/pull/15876).
Followers look at the state when they are ready for it, so none has a queue of its own. The last
one to leave stops the pull; a pull and all that is known of it end together.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from tagfit.daemon.client import Daemon, PullLine, PullStream
from tagfit.problems import DaemonError, Problem, ShuttingDown, Stalled
from tagfit.pulls.stream import PullUpdate
from tagfit.pulls.tally import Tally, advance, update
from tagfit.pulls.watch import watch_it_stop

LINES_BEFORE_STATUS = 2
"""The daemon says only in its second line that a tag does not exist."""
RECENT_LINES = 64
"""A follower that is further behind gets the last line of each layer: four seconds of lines."""
LINE_SECONDS = 0.25
"""Between two lines of the aggregated stream at least."""
SILENT_SECONDS = 5.0
"""After so long without news the state is told again."""
EXACT_TIMEOUT_SECONDS = 2.0

Ended = Callable[[str], None]
_log = structlog.get_logger("tagfit.pull")


class Key(msgspec.Struct, frozen=True):
    """What makes two requests the same pull."""

    model: str
    insecure: bool = False


class SharedPull:
    """One pull of the daemon and its state."""

    def __init__(self, key: Key, daemon: Daemon, stall_seconds: float) -> None:
        self.key = key
        self.tally = Tally(moved_at_seconds=time.monotonic())
        self.problem: Problem | None = None
        self.ended = asyncio.Event()
        self.followers: set[Follower] = set()
        self._daemon = daemon
        self._stall_seconds = stall_seconds
        self._line_count = 0
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=RECENT_LINES)
        self._latest: dict[str, tuple[int, bytes]] = {}
        self._changed = asyncio.Event()
        self._encoded: dict[int, bytes] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to read."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._finish)
        return self._task

    def stop(self, problem: Problem | None = None) -> None:
        """Let the daemon stop; whoever still follows is told the problem."""
        if self._task is not None and not (self.ended.is_set() or self.succeeded):
            self.problem = self.problem or problem
            self._task.cancel()

    @property
    def failed_at_once(self) -> bool:
        """It failed before a status was decided."""
        return self.problem is not None and self._line_count <= LINES_BEFORE_STATUS

    @property
    def decided(self) -> bool:
        """An HTTP status can be given."""
        return self.ended.is_set() or self._line_count >= LINES_BEFORE_STATUS

    @property
    def last_line(self) -> bytes:
        """The daemon's last line so far."""
        return self._recent[-1][1] if self._recent else b""

    @property
    def succeeded(self) -> bool:
        """The daemon said so."""
        return self.tally.phase == "done"

    async def change(self) -> None:
        """Wait until something is new."""
        if not self.ended.is_set():
            await self._changed.wait()

    def lines_after(self, count: int) -> tuple[int, list[bytes]]:
        """The daemon's lines since the count-th, and the new count.

        Who is too far behind, or new, gets the last line of each layer and each step.
        """
        first = self._line_count - len(self._recent)
        source = self._recent if count >= first else sorted(self._latest.values())
        return self._line_count, [text for number, text in source if number > count]

    def update(self) -> PullUpdate:
        """The state as a line."""
        if self.problem is not None and self.ended.is_set():
            failed = update(self.key.model, self.tally, "failed")
            return replace(failed, problem=self.problem.details())
        return update(self.key.model, self.tally)

    def encoded(self) -> bytes:
        """The state as JSON, made once for all followers."""
        version = -1 if self.ended.is_set() else self._line_count
        if version not in self._encoded:
            self._encoded = {version: msgspec.json.encode(self.update(), enc_hook=str)}
        return self._encoded[version]

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._stall_seconds) as limit:
                stream = await self._daemon.pull(self.key.model, insecure=self.key.insecure)
                try:
                    await self._read(stream, limit)
                finally:
                    await stream.aclose()
        except TimeoutError:
            self._fail(
                Stalled(
                    f"The pull of {self.key.model} made no progress for {self._stall_seconds:g} s"
                    " and was given up; what was downloaded is kept, pull again to go on."
                )
            )
        except Problem as problem:
            self._fail(problem)
        except Exception as error:  # noqa: BLE001 - a defect must end the followers' streams, too
            _log.exception("defect", exc_info=error)
            self._fail(Problem("Something went wrong inside; the log has it."))

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Tell the followers, also of a task that was cancelled before it began."""
        if task.cancelled() and self.problem is not None:
            self._fail(self.problem)
        self.ended.set()
        self._changed.set()

    async def _read(self, stream: PullStream, limit: asyncio.Timeout) -> None:
        """Take its lines, to the one that is success or an error."""
        loop = asyncio.get_running_loop()
        while self.problem is None and not self.succeeded:
            try:
                line = await anext(stream)
            except StopAsyncIteration:
                title = self._daemon.title
                raise DaemonError(f"{title} ended the pull before it was complete.") from None
            tally = advance(self.tally, line.progress, time.monotonic())
            if tally.phase not in ("resolving", "downloading"):
                limit.reschedule(None)  # verifying a large model takes minutes without a word
            elif tally.moved_at_seconds != self.tally.moved_at_seconds:
                limit.reschedule(loop.time() + self._stall_seconds)
            if tally.phase == "done":
                tally = replace(tally, exact_bytes=await self._installed_bytes())
            self.tally = tally
            self.problem = line.problem
            self._take(line)

    async def _installed_bytes(self) -> int | None:
        """What the daemon counts for the model; it tells the sizes of all layers nowhere else."""
        try:
            async with asyncio.timeout(EXACT_TIMEOUT_SECONDS):
                installed = await self._daemon.installed()
        except (Problem, TimeoutError):
            return None
        name = self.key.model.lower()
        return next((one.size_bytes for one in installed if one.name.lower() == name), None)

    def _take(self, line: PullLine) -> None:
        self._line_count += 1
        numbered = (self._line_count, line.text)
        self._recent.append(numbered)
        self._latest[line.progress.digest or line.progress.status] = numbered
        self._changed.set()
        self._changed = asyncio.Event()

    def _fail(self, problem: Problem) -> None:
        self.problem = problem
        text = msgspec.json.encode({"error": problem.detail})
        self._line_count += 1
        self._recent.append((self._line_count, text))
        self._latest["error"] = (self._line_count, text)


class Follower:
    """One client's view of a pull. It must leave in the end."""

    def __init__(self, pull: SharedPull, leave: Callable[[Follower], None], *, first: bool) -> None:
        self.pull = pull
        self.first = first
        """It began the pull."""
        self._leave = leave

    def leave(self) -> None:
        """Follow no longer; the last one to leave stops the pull. Once or more often."""
        self._leave(self)

    async def decide(self) -> None:
        """Wait until it is known whether the pull goes well at first. Raises its Problem."""
        while not self.pull.decided:
            await self.pull.change()
        if self.pull.failed_at_once and self.pull.problem is not None:
            raise self.pull.problem

    async def end(self) -> None:
        """Wait for the end. Raises the Problem that ended it."""
        await self.pull.ended.wait()
        if self.pull.problem is not None:
            raise self.pull.problem

    async def lines(self) -> AsyncIterator[bytes]:
        """The daemon's lines as they came, to the last one."""
        count = 0
        while True:
            ended = self.pull.ended.is_set()
            count, texts = self.pull.lines_after(count)
            for text in texts:
                yield text
            if ended:
                return
            if not texts:
                await self.pull.change()

    async def states(self) -> AsyncIterator[bytes]:
        """The state as JSON, a few times a second where it changes, to the last one."""
        told, told_at = b"", -SILENT_SECONDS
        while True:
            ended = self.pull.ended.is_set()
            encoded = self.pull.encoded()
            if encoded != told or time.monotonic() - told_at >= SILENT_SECONDS:
                told, told_at = encoded, time.monotonic()
                yield encoded
            if ended:
                return
            await _at_most(LINE_SECONDS, self.pull.ended.wait())
            if self.pull.encoded() == told:
                await _at_most(SILENT_SECONDS, self.pull.change())


async def _at_most(seconds: float, waiting: Awaitable[Any]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, seconds)


class Pulls:
    """All running pulls of one daemon."""

    def __init__(
        self, daemon: Daemon, *, stall_seconds: float = 300.0, on_end: Ended = lambda _: None
    ) -> None:
        self.daemon = daemon
        self._stall_seconds = stall_seconds
        self._on_end = on_end
        self._running: dict[Key, SharedPull] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._watches: set[asyncio.Task[None]] = set()
        self._closing = False

    def __len__(self) -> int:
        return len(self._running)

    def follow(self, key: Key, predicted_bytes: int | None = None) -> Follower:
        """Join the pull that runs, or begin it. Raises ShuttingDown."""
        if self._closing:
            raise ShuttingDown("tagfit is shutting down and begins no more pulls.")
        pull = self._running.get(key)
        first = pull is None or pull.ended.is_set()
        if pull is None or first:
            pull = self._running[key] = SharedPull(key, self.daemon, self._stall_seconds)
            reader = pull.start()
            self._readers.add(reader)
            reader.add_done_callback(lambda _: self._end(pull))
            reader.add_done_callback(self._readers.discard)
            _log.info("pull begins", model=key.model, insecure=key.insecure)
        if pull.tally.predicted_bytes is None:
            pull.tally = replace(pull.tally, predicted_bytes=predicted_bytes)
        follower = Follower(pull, self._leave, first=first)
        pull.followers.add(follower)
        return follower

    async def drain(self, seconds: float) -> None:
        """Begin no more pulls; end those that still run after the seconds with a last line."""
        self._closing = True
        running = [pull.ended.wait() for pull in self._running.values()]
        await _at_most(seconds, asyncio.gather(*running))
        for pull in list(self._running.values()):
            pull.stop(
                ShuttingDown(
                    f"tagfit was shut down before {pull.key.model} was complete; what was"
                    " downloaded is kept, pull again to go on."
                )
            )

    async def aclose(self) -> None:
        """End every pull and every watch; an application that starts again may use it again."""
        await self.drain(0)
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._readers, *self._watches, return_exceptions=True)
        self._closing = False

    def _leave(self, follower: Follower) -> None:
        pull = follower.pull
        pull.followers.discard(follower)
        if not pull.followers and self._running.get(pull.key) is pull:
            del self._running[pull.key]
            if not pull.ended.is_set():
                pull.stop()

    def _end(self, pull: SharedPull) -> None:
        if self._running.get(pull.key) is pull:
            del self._running[pull.key]
        log = _log.bind(model=pull.key.model)
        if pull.problem is not None:
            log.warning("pull failed", error=pull.problem.detail, problem=pull.problem.type)
            self._on_end("failed")
        elif pull.succeeded:
            log.info("pull done", bytes=pull.tally.completed_bytes)
            self._on_end("done")
        else:
            log.info("pull cancelled", bytes=pull.tally.completed_bytes)
            self._on_end("cancelled")
            if not self._closing:
                self._spawn_watch(pull)

    def _spawn_watch(self, pull: SharedPull) -> None:
        def pulled_again(digest: str) -> bool:
            return any(digest in other.tally.layers for other in self._running.values())

        task = asyncio.create_task(
            watch_it_stop(self.daemon, pull.key.model, pull.tally, pulled_again)
        )
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
