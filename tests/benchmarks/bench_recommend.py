"""How soon ``/recommend`` answers over the whole library: ``make bench``.

A server process on one core, one connection. Printed are the first answers of a fresh process,
answers to questions that were never asked before, and the same questions again. With the path of
an ``llmfit`` program (PyPI: llmfit) its server is asked in the same way, in the same run; it
answers for its own machine only.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import httpx

from tagfit.advice.jobs import JOBS

GPUS = ("RTX 3060", "RTX 4060 Ti 16GB", "RTX 3090", "RTX 4090", "RX 7900 XTX", "M3 Max 64GB")
CONTEXTS = (None, 8192, 32768)
QUESTIONS = 300
PEER = "/api/v1/models/top?limit=5&use_case=coding"


def main() -> None:
    """Print the figures."""
    common = [
        {"use_case": use_case, "hardware": {"gpus": [{"name": gpu}], "memory": "64GiB"}}
        for use_case, gpu in product(JOBS, GPUS)
    ]
    for llmfit in sys.argv[1:]:
        with serving([llmfit, "serve", "--port"]) as url, httpx.Client(base_url=url) as client:
            report("llmfit, one question", [timed(partial(client.get, PEER)) for _ in range(50)])
    tagfit = [sys.executable, "-m", "tagfit", "serve"]
    with serving(tagfit) as url, httpx.Client(base_url=url, timeout=60) as client:
        report("first answers of a process", ask(client, common))
        report("the same again", ask(client, common * 10))
        report("one question", ask(client, common[:1] * 1000))
        report("never asked before", ask(client, unseen(random.Random(1))))
        report("nor these, later", ask(client, unseen(random.Random(2))))


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """A server process, on one core where the system can pin it; the port may end its command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "TAGFIT_PORT": str(port), "TAGFIT_LOG_LEVEL": "warning"}
    if command[-1] == "--port":
        command = [*command, str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            time.sleep(0.05)
            try:
                httpx.get(f"{url}/livez")
            except httpx.TransportError:
                continue
            break
        yield url
    finally:
        process.terminate()
        process.wait()


def unseen(source: random.Random) -> Iterator[dict[str, Any]]:
    """Questions about machines of any memory."""
    for _ in range(QUESTIONS):
        question: dict[str, Any] = {
            "use_case": source.choice(tuple(JOBS)),
            "hardware": {
                "gpus": [{"memory": source.randrange(4 << 30, 96 << 30)}],
                "memory": source.randrange(16 << 30, 256 << 30),
            },
        }
        context = source.choice(CONTEXTS)
        yield question if context is None else {**question, "context_length": context}


def ask(client: httpx.Client, questions: Iterable[dict[str, Any]]) -> list[float]:
    """Seconds for each answer."""
    return [timed(partial(client.post, "/recommend", json=question)) for question in questions]


def timed(call: Callable[[], httpx.Response]) -> float:
    """Seconds that an answer took."""
    start = time.perf_counter()
    answer = call()
    seconds = time.perf_counter() - start
    answer.raise_for_status()
    return seconds


def report(what: str, seconds: list[float]) -> None:
    """One line."""
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(
        f"{what:28} {len(seconds):5} answers, {len(seconds) / sum(seconds):6.0f} a second,"
        f" median {median(seconds) * 1e3:6.1f} ms, p99 {p99 * 1e3:6.1f} ms"
    )


if __name__ == "__main__":
    main()
