"""After a cancelled pull: whether the daemon has really stopped.

It says so nowhere, and sometimes it has not: a line that nobody takes keeps its download alive
(github.com/ollama/ollama/pull/15876). What it writes to its disk tells, where that is to be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from tagfit.daemon.client import Daemon
from tagfit.pulls.tally import Tally

SETTLE_SECONDS = 1.0
"""A daemon that stops has stopped writing by then (measured: under 0.1 s)."""
LOOKS = 5
"""So often two looks must differ before the daemon is said to go on."""

_log = structlog.get_logger("tagfit.pull")


async def watch_it_stop(
    daemon: Daemon, model: str, tally: Tally, pulled_again: Callable[[str], bool]
) -> None:
    """Say in the log whether the layer that was being downloaded still grows."""
    unfinished = [
        digest
        for digest, layer in tally.layers.items()
        if layer.completed_bytes < layer.total_bytes
    ]
    if not unfinished:
        return
    digest = unfinished[-1]
    log = _log.bind(model=model, digest=digest)
    before: int | None = None
    for _ in range(LOOKS + 1):
        await asyncio.sleep(SETTLE_SECONDS)
        if pulled_again(digest):
            return
        landed = await daemon.landed_bytes(digest)
        if landed is None:
            log.debug("whether the daemon has stopped is not to be seen")
            return
        if landed == before:
            log.info("the daemon has stopped", landed_bytes=landed)
            return
        before = landed
    log.warning(
        "the daemon goes on downloading a cancelled pull; restart it to stop it,"
        " unless another client of it pulls the same",
        landed_bytes=before,
    )
