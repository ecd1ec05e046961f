"""What following a pull costs: processor, delay and memory, each beside its limit.

``python tests/benchmarks/bench_pull.py`` runs some 40 seconds and ends with 1 where a limit is
passed. The daemon is scripted, so that it writes a line each 60 ms as Ollama does
(server/download.go:450) and knows when; tagfit is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import psutil

LINE_SECONDS = 0.06
MEASURED_SECONDS = 10
FOLLOWERS = 200
LIMITS = {
    "processor, percent of one core": 2.0,
    "added to a line, median ms": 5.0,
    "200 followers, MB": 50.0,
}
DIGEST = "sha256:" + "47d399dec8409df83627e9627b4c4a0f97be1ccc7876340e2aab05872262bb26"[:64]


class Daemon:
    """Pulls for ever, and notes when it wrote each line."""

    def __init__(self) -> None:
        self.sent_at: dict[int, float] = {}
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request: a version, no models, or an endless pull."""
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        with suppress(ConnectionError, asyncio.CancelledError):
            if b"/api/pull" in request:
                writer.write(b'{"status":"pulling manifest"}\n')
                await self._pull(writer)
            else:
                writer.write(b'{"version":"0.33.3","models":[]}')
                await writer.drain()
        writer.close()

    async def _pull(self, writer: asyncio.StreamWriter) -> None:
        number = 0
        while not writer.is_closing():
            await asyncio.sleep(LINE_SECONDS)
            number += 1
            line = {
                "status": "pulling 47d399dec840",
                "digest": DIGEST,
                "total": 10**12,
                "completed": number * 10**6,
            }
            self.sent_at[number * 10**6] = time.monotonic()
            writer.write(json.dumps(line).encode() + b"\n")
            await writer.drain()


@asynccontextmanager
async def running_daemon() -> AsyncIterator[Daemon]:
    daemon = Daemon()
    server = await asyncio.start_server(daemon.answer, "127.0.0.1", 0)
    daemon.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield daemon


@contextmanager
def running_tagfit(daemon_url: str) -> Iterator[tuple[str, psutil.Process]]:
    with psutil.Popen(
        [sys.executable, "-m", "tagfit", "serve"],
        env={
            **os.environ,
            "OLLAMA_HOST": daemon_url,
            "TAGFIT_PORT": "0",
            "TAGFIT_LOG_FORMAT": "json",
            "TAGFIT_SHUTDOWN_TIMEOUT": "1",
            "TAGFIT_MEASURE_BANDWIDTH": "false",
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            started = next(line for line in process.stderr if "running on" in line)
            yield re.findall(r"http://[0-9.]+:\d+", started)[0], process
        finally:
            process.terminate()


async def delays(url: str, path: str, daemon: Daemon) -> list[float]:
    """Milliseconds between the daemon's writing and a client's reading of each line."""
    found: list[float] = []
    body = {"model": "tiny"}
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        client.stream("POST", url + path, json=body) as response,
    ):
        until = time.monotonic() + MEASURED_SECONDS
        async for text in response.aiter_lines():
            now = time.monotonic()
            completed = json.loads(text).get("completed", 0)
            if completed in daemon.sent_at:
                found.append(1000 * (now - daemon.sent_at[completed]))
            if now > until:
                break
    return found


async def follow(url: str, path: str, body: dict[str, Any], stop: asyncio.Event) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n".encode()
        + content
    )
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(65536), 1)
    writer.close()


async def many(url: str, path: str, body: dict[str, Any], tagfit: psutil.Process) -> float:
    """Megabytes that 200 followers of one pull take beside the first."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(follow(url, path, body, stop))]
    await asyncio.sleep(3)
    before = tagfit.memory_info().rss
    tasks += [asyncio.create_task(follow(url, path, body, stop)) for _ in range(FOLLOWERS)]
    await asyncio.sleep(MEASURED_SECONDS)
    after = tagfit.memory_info().rss
    stop.set()
    await asyncio.gather(*tasks)
    return (after - before) / 1e6


async def measure() -> dict[str, float]:
    async with running_daemon() as daemon:
        with running_tagfit(daemon.url) as (url, tagfit):
            direct = await delays(daemon.url, "/api/pull", daemon)
            times = tagfit.cpu_times()
            relayed = await delays(url, "/api/pull", daemon)
            spent = tagfit.cpu_times()
            busy = spent.user + spent.system - times.user - times.system
            plain = await many(url, "/api/pull", {"model": "tiny"}, tagfit)
            aggregated = await many(url, "/pull", {"model": "hf.co/some/model:Q4_0"}, tagfit)
    return {
        "processor, percent of one core": 100 * busy / MEASURED_SECONDS,
        "added to a line, median ms": statistics.median(relayed) - statistics.median(direct),
        "200 followers, MB": max(plain, aggregated),
    }


def main() -> int:
    """Measure and compare."""
    found = asyncio.run(measure())
    for name, limit in LIMITS.items():
        sys.stdout.write(f"{name:32} {found[name]:6.2f} (limit {limit:g})\n")
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
