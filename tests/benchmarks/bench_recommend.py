"""How soon ``/recommend`` answers over the whole library: ``make bench``.

A server process on one core, one connection. Printed are the first answers of a fresh process,
answers to questions that were never asked before, and the same questions again. With the path of
an ``llmfit`` program (PyPI: llmfit) its server is asked in the same way, in the same run; it
answers for its own machine only.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import product
from statistics import median
from typing import Any

from tagfit.advice.jobs import JOBS

GPUS = ("RTX 3060", "RTX 4060 Ti 16GB", "RTX 3090", "RTX 4090", "RX 7900 XTX", "M3 Max 64GB")
CONTEXTS = (None, 8192, 32768)
QUESTIONS = 300
SETTLED_SECONDS = 2
"""A server is given them before the first question, as it is by a person who starts it."""
PEER = "/api/v1/models/top?limit=5&use_case=coding"


def main() -> None:
    """Print the figures."""
    common = [
        {"use_case": use_case, "hardware": {"gpus": [{"name": gpu}], "memory": "64GiB"}}
        for use_case, gpu in product(JOBS, GPUS)
    ]
    for llmfit in sys.argv[1:]:
        with serving([llmfit, "serve", "--port"]) as connection:
            report("llmfit, one question", [timed(connection, "GET", PEER) for _ in range(50)])
    with serving([sys.executable, "-m", "tagfit", "serve"]) as connection:
        report("first answers of a process", ask(connection, common))
        report("the same again", ask(connection, common * 10))
        report("one question", ask(connection, common[:1] * 1000))
        report("never asked before", ask(connection, unseen(random.Random(1))))
        report("nor these, later", ask(connection, unseen(random.Random(2))))


@contextmanager
def serving(command: list[str]) -> Iterator[HTTPConnection]:
    """A connection to a server process, on one core where the system can pin it.

    The port may end its command. The client is the standard library's plainest: httpx takes longer
    over a kept answer than the server does.
    """
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
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(200):
            time.sleep(0.05)
            try:
                connection.connect()
            except OSError:
                continue
            break
        time.sleep(SETTLED_SECONDS)
        yield connection
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


def ask(connection: HTTPConnection, questions: Iterable[dict[str, Any]]) -> list[float]:
    """Seconds for each answer."""
    return [timed(connection, "POST", "/recommend", json.dumps(each)) for each in questions]


def timed(connection: HTTPConnection, method: str, path: str, body: str | None = None) -> float:
    """Seconds that an answer took."""
    start = time.perf_counter()
    connection.request(method, path, body, {"content-type": "application/json"} if body else {})
    answer = connection.getresponse()
    answer.read()
    seconds = time.perf_counter() - start
    if answer.status != 200:
        raise RuntimeError(f"{method} {path} {body}: {answer.status}")
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
