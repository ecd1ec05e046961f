"""The lines of one follower of a pull, apart from HTTP."""

from __future__ import annotations

import json

from tagfit.advice.preflight import Choice, Preflight
from tagfit.api.pull_stream import _states
from tagfit.catalog.names import ModelName
from tagfit.daemon.ollama import Ollama
from tagfit.pulls.shared import Key, Pulls
from tests.scripted_daemon import STREAM, scripted_daemon

SHORT = b'{"status":"pulling manifest"}\n{"status":"success"}\n'
PREFLIGHT = Preflight(choice=Choice(ModelName("tiny")), warnings=("slow",))


async def test_who_comes_just_before_the_end_is_told_done_once() -> None:
    """Its answer begins when the pull has ended."""
    with scripted_daemon([STREAM, SHORT]) as daemon:
        async with Ollama(daemon.url) as ollama:
            pulls = Pulls(ollama)
            pulls.follow(Key("tiny:latest"))
            late = pulls.follow(Key("tiny:latest"))
            await late.end()
            lines = [json.loads(line) async for line in _states(late, PREFLIGHT)]
            await pulls.aclose()

    assert [line["status"] for line in lines] == ["resolving", "done"]
    assert [line.get("warnings") for line in lines] == [["slow"], None]
