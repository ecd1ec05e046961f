"""One pull and its followers, with a daemon in memory: the order of things is the subject."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from tagfit.daemon.client import InstalledModel, LoadedModel, Progress, PullLine
from tagfit.problems import DaemonUnreachable, Problem, ShuttingDown
from tagfit.pulls.shared import RECENT_LINES, Follower, Key, Pulls
from tagfit.pulls.stream import PullUpdate

KEY = Key("tiny:f16")
MANIFEST = Progress("pulling manifest")
SUCCESS = Progress("success")


def layer(name: str, completed: int) -> Progress:
    return Progress(f"pulling {name}", f"sha256:{name}", 1000, completed)


class Stream:
    """Lines that a test hands over, and an end or an error."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Progress | BaseException] = asyncio.Queue()
        self.closed = False

    async def __anext__(self) -> PullLine:
        given = await self.queue.get()
        if isinstance(given, BaseException):
            raise given
        problem = Problem(given.error) if given.error else None
        return PullLine(msgspec.json.encode(given), given, problem)

    async def aclose(self) -> None:
        self.closed = True


class MemoryDaemon:
    title = "Memory"
    base_url = "memory:"

    def __init__(self) -> None:
        self.streams: list[Stream] = []

    async def version(self) -> str:
        return ""

    async def installed(self) -> tuple[InstalledModel, ...]:
        return (InstalledModel(name="TINY:f16", size_bytes=1234),)

    async def loaded(self) -> tuple[LoadedModel, ...]:
        return ()

    async def pull(self, model: str, *, insecure: bool = False) -> Stream:
        assert (model, insecure) == (KEY.model, KEY.insecure)
        self.streams.append(Stream())
        return self.streams[-1]

    async def landed_bytes(self, digest: str) -> int | None:
        assert digest
        return None

    async def unfinished_bytes(self) -> int:
        return 0

    async def aclose(self) -> None:
        pass


class Scene:
    """A daemon, its pulls and how each ended."""

    def __init__(self, stall_seconds: float = 5.0) -> None:
        self.daemon = MemoryDaemon()
        self.ended: list[str] = []
        self.pulls = Pulls(self.daemon, stall_seconds=stall_seconds, on_end=self.ended.append)

    async def say(self, *lines: Progress | BaseException) -> None:
        """Hand lines over and let them be read."""
        await until(lambda: bool(self.daemon.streams))
        for line in lines:
            self.daemon.streams[-1].queue.put_nowait(line)
        await until(self.daemon.streams[-1].queue.empty)
        await settle()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def lines_of(follower: Follower) -> list[Progress]:
    return [msgspec.json.decode(line, type=Progress) async for line in follower.lines()]


async def states_of(follower: Follower) -> list[PullUpdate]:
    return [msgspec.json.decode(state, type=PullUpdate) async for state in follower.states()]


async def test_who_keeps_up_gets_every_line() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    reading = asyncio.create_task(lines_of(follower))
    said = [MANIFEST, *(layer("a", number) for number in range(500)), SUCCESS]
    for line in said:
        await scene.say(line)

    assert await reading == said
    assert scene.ended == ["done"]


async def test_who_is_late_or_slow_gets_the_last_line_of_each_layer() -> None:
    scene = Scene()
    first = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, *(layer("a", number) for number in range(100)), layer("b", 1))
    await scene.say(*(layer("b", number) for number in range(2, RECENT_LINES + 9)))
    late = scene.pulls.follow(KEY)
    assert not late.first
    await scene.say(SUCCESS)

    expected = [MANIFEST, layer("a", 99), layer("b", RECENT_LINES + 8), SUCCESS]
    assert await lines_of(late) == expected
    assert await lines_of(first) == expected, "nothing was kept for it"


async def test_the_last_state_is_told_once_and_is_exact() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    reading = asyncio.create_task(states_of(follower))
    await scene.say(MANIFEST, layer("a", 1000), SUCCESS)
    states = await reading

    assert [state.status for state in states].count("done") == 1
    assert (states[-1].total_bytes, states[-1].total_basis) == (1234, "exact")


async def test_the_last_to_leave_stops_the_daemon() -> None:
    scene = Scene()
    one, two = scene.pulls.follow(KEY), scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1))
    one.leave()
    one.leave()
    await settle()
    assert not scene.daemon.streams[0].closed

    two.leave()
    await until(lambda: scene.daemon.streams[0].closed)
    await until(lambda: scene.ended == ["cancelled"])
    assert len(scene.pulls) == 0


async def test_a_pull_begins_anew_once_it_has_ended() -> None:
    scene = Scene()
    scene.pulls.follow(KEY)
    await scene.say(MANIFEST, DaemonUnreachable("gone"))
    again = scene.pulls.follow(KEY)

    assert again.first
    await until(lambda: len(scene.daemon.streams) == 2)
    again.leave()


@pytest.mark.parametrize("lines", [(), (MANIFEST,)])
async def test_what_fails_within_two_lines_decides_the_status(lines: tuple[Progress, ...]) -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(*lines, DaemonUnreachable("gone"))

    with pytest.raises(DaemonUnreachable):
        await follower.decide()


async def test_what_fails_later_is_a_last_line() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1), DaemonUnreachable("gone"))
    await follower.decide()

    assert (await lines_of(follower))[-1] == Progress(error="gone")
    [last] = await states_of(follower)
    assert last.status == "failed"
    assert isinstance(last.problem, msgspec.Struct)
    assert last.problem.detail == "gone"


async def test_a_stream_that_ends_with_neither_success_nor_error_failed() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1), StopAsyncIteration())

    assert (await states_of(follower))[-1].status == "failed"


async def test_the_daemons_own_error_line_is_the_last_one() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1), Progress(error="no"))

    assert [line.error for line in await lines_of(follower)] == ["", "", "no"]
    assert scene.ended == ["failed"]


async def test_the_daemon_need_not_close_the_connection_after_its_last_line() -> None:
    """As behind a proxy that keeps it open: the pull has ended all the same."""
    scene = Scene()
    scene.pulls.follow(KEY)
    await scene.say(MANIFEST, SUCCESS)

    await until(lambda: scene.ended == ["done"])
    assert scene.daemon.streams[0].closed
    assert len(scene.pulls) == 0


async def test_a_defect_ends_the_streams_without_its_text() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1), RuntimeError("secret"))
    [last] = await states_of(follower)

    assert isinstance(last.problem, msgspec.Struct)
    assert last.problem.status == 500
    assert "secret" not in last.problem.detail


async def test_lines_without_progress_are_a_stall() -> None:
    scene = Scene(stall_seconds=0.3)
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1))
    for _ in range(8):
        await asyncio.sleep(0.05)
        if not follower.pull.ended.is_set():
            await scene.say(layer("a", 1))
    [last] = await states_of(follower)

    assert isinstance(last.problem, msgspec.Struct)
    assert last.problem.status == 504


async def test_verifying_may_take_its_time() -> None:
    scene = Scene(stall_seconds=0.1)
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, Progress("verifying sha256 digest"))
    await asyncio.sleep(0.3)
    assert not follower.pull.ended.is_set()
    follower.leave()


async def test_draining_waits_then_ends_and_begins_nothing() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1))
    draining = asyncio.create_task(scene.pulls.drain(0.1))
    await asyncio.sleep(0.05)
    with pytest.raises(ShuttingDown):
        scene.pulls.follow(KEY)
    assert not follower.pull.ended.is_set()
    await draining

    with pytest.raises(ShuttingDown, match="pull again"):
        await follower.end()
    assert scene.daemon.streams[0].closed


async def test_a_pull_that_is_stopped_before_it_began_tells_its_followers() -> None:
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.pulls.aclose()

    with pytest.raises(ShuttingDown):
        await follower.decide()
    assert [line.error for line in await lines_of(follower)] != [""]
    assert scene.ended == ["failed"]


async def test_closing_leaves_no_task() -> None:
    """One pull runs, one was left just before, and the end of a third is still watched."""
    before = asyncio.all_tasks()
    scene = Scene()
    watched = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, layer("a", 1))
    watched.leave()
    await until(lambda: scene.ended == ["cancelled"])
    left = scene.pulls.follow(KEY)
    await until(lambda: len(scene.daemon.streams) == 2)
    await scene.say(MANIFEST, layer("a", 1))
    left.leave()
    follower = scene.pulls.follow(KEY)
    await until(lambda: len(scene.daemon.streams) == 3)
    await scene.pulls.aclose()

    assert asyncio.all_tasks() == before
    assert scene.daemon.streams[-1].closed
    assert isinstance(follower.pull.problem, ShuttingDown)


async def test_what_is_known_is_told_again_while_nothing_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Verifying takes minutes: a proxy would give the connection up, a person the hope."""
    monkeypatch.setattr("tagfit.pulls.shared.SILENT_SECONDS", 0.1)
    monkeypatch.setattr("tagfit.pulls.shared.LINE_SECONDS", 0.02)
    scene = Scene()
    follower = scene.pulls.follow(KEY)
    await scene.say(MANIFEST, Progress("verifying sha256 digest"))
    states = follower.states()
    async with asyncio.timeout(5):
        told = [await anext(states) for _ in range(3)]
    await scene.pulls.aclose()

    assert len(set(told)) == 1
