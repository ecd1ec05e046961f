"""Pulls in Ollama's own format, by a real daemon from a real registry."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import LARGE, TINY
from tests.real.daemon import OllamaDaemon
from tests.real.processes import connections_to, free_port, wait_until
from tests.real.registry import Registry
from tests.real.tagfit import tagfit_before
from tests.scripted_daemon import STREAM, scripted_daemon

SLOW_BYTES_PER_SECOND = 8e6
SOME_BYTES_PER_SECOND = 20e6
SOON_SECONDS = 2
LINES = (b'{"status":"pulling %s"}\n' % (b"0" * 1000)) * 100
PATHS = ["/pull", "/api/pull"]
"""At /pull with ``"format": "ollama"``."""


@contextmanager
def pulling(url: str, model: str, path: str = "/pull") -> Iterator[Iterator[dict[str, Any]]]:
    """The lines of a pull; leaving the context closes the connection."""
    body = {"model": model, "insecure": True, "format": "ollama"}
    with httpx.stream("POST", url + path, json=body, timeout=30, trust_env=False) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        yield (json.loads(line) for line in response.iter_lines())


def pull(url: str, model: str, path: str = "/pull") -> list[dict[str, Any]]:
    with pulling(url, model, path) as lines:
        return list(lines)


def refused(url: str, body: object, path: str = "/pull") -> tuple[int, dict[str, Any]]:
    if isinstance(body, dict):
        body = {"format": "ollama", **body}
    response = httpx.post(url + path, json=body, timeout=30, trust_env=False)
    answer = response.json()
    assert answer["status"] == response.status_code
    assert answer["error"] == answer["detail"]
    kind = "application/problem+json" if path == "/pull" else "application/json"
    assert response.headers["content-type"] == kind
    return response.status_code, answer


@pytest.mark.parametrize("path", PATHS)
def test_a_pulled_model_is_installed(
    tagfit: str, daemon: OllamaDaemon, registry: Registry, path: str
) -> None:
    lines = pull(tagfit, registry.name(TINY), path)

    assert lines[0] == {"status": "pulling manifest"}
    assert lines[-1] == {"status": "success"}
    assert registry.name(TINY) in daemon.installed()


def test_lines_are_the_daemons_own(tagfit: str, daemon: OllamaDaemon, registry: Registry) -> None:
    """Once the model is there the daemon's lines are always the same, so both can be compared."""
    pull(tagfit, registry.name(LARGE))
    body = {"model": registry.name(LARGE), "insecure": True}

    theirs = httpx.post(daemon.url + "/api/pull", json=body).content
    ours = httpx.post(tagfit + "/api/pull", json=body).content

    assert ours == theirs


def test_progress_adds_up(tagfit: str, daemon: OllamaDaemon, registry: Registry) -> None:
    """Completed bytes never exceed a layer's total, and the layers are what is installed."""
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND

    layers = [line for line in pull(tagfit, registry.name(LARGE)) if "digest" in line]
    assert len(layers) > 10
    assert all(0 <= line.get("completed", 0) <= line["total"] for line in layers)

    again = [line for line in pull(tagfit, registry.name(LARGE)) if "digest" in line]
    assert all(line["completed"] == line["total"] for line in again)
    assert sum(line["total"] for line in again) == daemon.installed()[registry.name(LARGE)]


@pytest.mark.usefixtures("daemon")
def test_lines_arrive_as_they_are_sent(tagfit: str, registry: Registry) -> None:
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    with pulling(tagfit, registry.name(LARGE)) as lines:
        arrivals = [time.monotonic() for _ in lines]

    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    assert sorted(gaps)[len(gaps) // 2] < 0.15, "the daemon writes a line each 60 ms"


@pytest.mark.parametrize("path", PATHS)
def test_unstreamed_pull_is_one_object(
    tagfit: str, daemon: OllamaDaemon, registry: Registry, path: str
) -> None:
    body = {"model": registry.name(TINY), "insecure": True, "stream": False, "format": "ollama"}
    response = httpx.post(tagfit + path, json=body, timeout=30)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"status": "success"}
    assert registry.name(TINY) in daemon.installed()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tag", ["tiny:q9_Z", "nothing:7b"])
def test_an_unknown_tag_is_404(
    standing_tagfit: str, registry: Registry, path: str, stream: bool, tag: str
) -> None:
    """Ollama itself answers 200 to a streamed pull, and 500 to an unstreamed one."""
    body = {"model": registry.name(tag), "insecure": True, "stream": stream}
    status, answer = refused(standing_tagfit, body, path)

    assert status == 404
    assert registry.name(tag) in answer["detail"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "missing"),
        ({"model": ""}, 400, "missing"),
        ({"model": "a b//"}, 400, "valid host"),
        ({"model": 7}, 400, "model"),
        ([], 400, "object"),
        ({"model": "evil.example/library/tiny"}, 403, "evil.example"),
        ({"model": "http://169.254.169.254/library/tiny"}, 403, "169.254.169.254"),
        ({"name": "evil.example:80/library/tiny"}, 403, "evil.example:80"),
    ],
)
def test_a_wrong_request_never_reaches_the_daemon(
    standing_tagfit: str, standing_daemon: OllamaDaemon, body: object, status: int, says: str
) -> None:
    before = standing_daemon.log().count('"/api/pull"')
    answered, answer = refused(standing_tagfit, body)

    assert answered == status
    assert says in answer["detail"]
    assert standing_daemon.log().count('"/api/pull"') == before, "the log has a line a request"


def test_ollamas_older_and_unknown_fields_are_taken(tagfit: str, registry: Registry) -> None:
    body = {
        "name": f" {registry.name(TINY)} ",
        "model": None,
        "insecure": True,
        "username": "",
        "password": "",
        "stream": None,
    }
    response = httpx.post(tagfit + "/api/pull", json=body, timeout=30)

    assert response.text.endswith('{"status":"success"}\n')


@pytest.mark.parametrize("path", PATHS)
def test_a_daemon_that_is_down_is_502(registry: Registry, path: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with tagfit_before(nobody, registry.host) as url:
        status, answer = refused(url, {"model": registry.name(TINY)}, path)

    assert status == 502
    assert nobody in answer["detail"]
    assert "OLLAMA_HOST" in answer["detail"]


def test_a_daemon_that_is_started_again_is_found_again(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    pull(tagfit, registry.name(TINY))
    daemon.stop()
    status, _ = refused(tagfit, {"model": registry.name(TINY)})
    assert status == 502

    daemon.start()
    assert pull(tagfit, registry.name(TINY))[-1] == {"status": "success"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_registry_that_is_down_is_502_in_the_daemons_words(
    standing_daemon: OllamaDaemon, stream: bool
) -> None:
    host = f"127.0.0.1:{free_port()}"
    with tagfit_before(standing_daemon.url, host) as url:
        body = {"model": f"{host}/library/tiny", "insecure": True, "stream": stream}
        status, answer = refused(url, body)

    assert status == 502
    assert "connection refused" in answer["detail"]


@pytest.mark.parametrize("path", PATHS)
def test_a_daemon_that_is_killed_ends_the_stream_with_an_error_line(
    tagfit: str, daemon: OllamaDaemon, registry: Registry, path: str
) -> None:
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    with pulling(tagfit, registry.name(LARGE), path) as lines:
        for line in lines:
            if line.get("completed", 0) > 2_000_000:
                daemon.kill()
                break
        rest = list(lines)

    assert list(rest[-1]) == ["error"]
    assert daemon.url in rest[-1]["error"]
    assert connections_to(daemon.port) == 0


def test_an_unstreamed_pull_of_a_killed_daemon_is_502(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    body = {"model": registry.name(LARGE), "insecure": True, "stream": False, "format": "ollama"}
    request = json.dumps(body).encode()
    with open_request(tagfit, request) as connection:
        wait_until(lambda: bool(registry.blobs.transfers), "the daemon downloads")
        daemon.kill()
        answer = connection.makefile("rb").readline()

    assert answer.startswith(b"HTTP/1.1 502 ")


@contextmanager
def open_request(url: str, body: bytes) -> Iterator[socket.socket]:
    """A connection on which a pull was asked for, and nothing is read yet."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        head = (
            f"POST /pull HTTP/1.1\r\nhost: {address.host}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        yield connection


def test_a_client_that_leaves_stops_the_download_and_a_second_pull_resumes(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    before = registry.blobs.sent_bytes
    with pulling(tagfit, registry.name(LARGE)) as lines:
        for line in lines:
            if line.get("completed", 0) > 16_000_000:
                break
        assert connections_to(daemon.port) == 1
    wait_until(lambda: connections_to(daemon.port) == 0, "tagfit leaves the daemon", SOON_SECONDS)
    wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading", SOON_SECONDS)
    assert daemon.installed() == {}

    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    second = pull(tagfit, registry.name(LARGE))

    first_progress = next(line["completed"] for line in second if "digest" in line)
    assert first_progress >= 16_000_000
    assert second[-1] == {"status": "success"}
    size = daemon.installed()[registry.name(LARGE)]
    assert registry.blobs.sent_bytes - before < 1.25 * size, "little is sent twice"


def test_an_unstreamed_pull_stops_when_its_client_leaves(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    body = {"model": registry.name(LARGE), "insecure": True, "stream": False}
    with open_request(tagfit, json.dumps(body).encode()):
        wait_until(lambda: bool(registry.blobs.transfers), "the daemon downloads")

    wait_until(lambda: connections_to(daemon.port) == 0, "tagfit leaves the daemon", SOON_SECONDS)
    wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading", SOON_SECONDS)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_may_leave_before_the_status_is_decided(
    standing_daemon: OllamaDaemon, stream: bool
) -> None:
    """A registry that takes the connection and never answers keeps the daemon's second line."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with tagfit_before(standing_daemon.url, host) as url:
            body = {"model": f"{host}/library/tiny", "insecure": True, "stream": stream}
            with open_request(url, json.dumps(body).encode()):
                asked, _ = silent.accept()
                asked.settimeout(5)
                assert asked.recv(4096).startswith(b"GET /v2/library/tiny/")
            with asked:
                assert asked.recv(4096) == b"", "the daemon gives up"
            wait_until(
                lambda: connections_to(standing_daemon.port) == 0,
                "tagfit leaves the daemon",
                SOON_SECONDS,
            )


def test_many_pulls_of_one_model_run_side_by_side(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    """The daemon joins them in one download."""
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    before = registry.blobs.sent_bytes
    with (
        pulling(tagfit, registry.name(LARGE)) as first,
        pulling(tagfit, registry.name(LARGE)) as second,
    ):
        next(first)
        assert list(second)[-1] == {"status": "success"}
        assert list(first)[-1] == {"status": "success"}

    size = daemon.installed()[registry.name(LARGE)]
    assert registry.blobs.sent_bytes - before < 1.25 * size


def test_a_client_that_does_not_read_holds_neither_the_daemon_nor_another_back() -> None:
    """No real daemon writes enough to fill the connection, so this one is scripted.

    A daemon whose lines nobody takes would go on downloading after the client has left.
    """
    endless = itertools.chain([STREAM], itertools.repeat(LINES))
    body = {"model": "tiny", "format": "ollama"}
    with (
        scripted_daemon(endless) as daemon,
        tagfit_before(daemon.url, "registry.ollama.ai") as url,
    ):
        with open_request(url, json.dumps(body).encode()):
            wait_until(lambda: daemon.sent_bytes > 10_000_000, "the daemon is read from")
            memory = psutil.Process().memory_info().rss
            with httpx.stream("POST", url + "/pull", json=body, timeout=30) as other:
                received = itertools.islice(other.iter_lines(), 500)
                assert sum(len(line) for line in received) > 100_000
            assert psutil.Process().memory_info().rss - memory < 20_000_000
            assert not daemon.left.is_set()
        assert daemon.left.wait(SOON_SECONDS), "tagfit leaves the daemon"
