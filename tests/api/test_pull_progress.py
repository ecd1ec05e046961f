"""``POST /pull``: one progress of all layers, by a real daemon from a real registry."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import LARGE, TINY
from tests.real.daemon import OllamaDaemon
from tests.real.processes import connections_to, free_port, wait_until
from tests.real.programs import unavailable
from tests.real.registry import Registry
from tests.real.tagfit import tagfit_before

SLOW_BYTES_PER_SECOND = 8e6
SOME_BYTES_PER_SECOND = 20e6
SOON_SECONDS = 5
Lines = Iterator[dict[str, Any]]


@contextmanager
def following(url: str, model: str, **fields: Any) -> Iterator[Lines]:
    """The lines of a pull; leaving the context closes the connection."""
    body = {"model": model, "insecure": True, **fields}
    with (
        # Without verify=False each of two hundred clients reads all root certificates first.
        httpx.Client(timeout=30, trust_env=False, verify=False) as client,
        client.stream("POST", url + "/pull", json=body) as response,
    ):
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/x-ndjson"
        yield (json.loads(line) for line in response.iter_lines())


def until_bytes(lines: Lines, wanted_bytes: int) -> list[dict[str, Any]]:
    """The lines up to the first that has so much."""
    taken = []
    for line in lines:
        taken.append(line)
        if line["completed_bytes"] >= wanted_bytes:
            return taken
    raise AssertionError(f"it ended before: {taken[-1]}")


def test_every_line_says_how_far_the_whole_pull_is(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    with following(tagfit, registry.name(LARGE)) as stream:
        lines = list(stream)

    size = daemon.installed()[registry.name(LARGE)]
    assert lines[0]["status"] == "resolving"
    assert "nothing is known of its size" in lines[0]["warnings"][0]
    assert all(line["total_bytes"] for line in lines), "from the first line on"
    assert all(line["model"] == registry.name(LARGE) for line in lines)
    assert lines[0]["total_basis"] == "seen"
    completed = [line["completed_bytes"] for line in lines]
    assert completed == sorted(completed), "it never goes back"
    assert all(line["completed_bytes"] <= line["total_bytes"] for line in lines)
    steps = [status for status, _ in itertools.groupby(line["status"] for line in lines)]
    order = ["resolving", "downloading", "verifying", "writing", "done"]
    assert steps == [step for step in order if step in steps]
    assert {"resolving", "downloading", "done"} <= set(steps)
    last = lines[-1]
    assert (last["completed_bytes"], last["total_bytes"]) == (size, size)
    assert last["total_basis"] == "exact"
    assert all(layer["completed_bytes"] == layer["total_bytes"] for layer in last["layers"])
    assert [line["status"] for line in lines].count("done") == 1
    rates = [line["bytes_per_second"] for line in lines if line["bytes_per_second"]]
    assert 0.5 < rates[-1] / SOME_BYTES_PER_SECOND < 1.5
    assert all(line["eta_seconds"] is None for line in lines if line["status"] != "downloading")
    assert [layer["total_bytes"] for layer in lines[1]["layers"]] == [lines[1]["total_bytes"]]


@pytest.mark.usefixtures("daemon")
def test_lines_come_a_few_times_a_second(tagfit: str, registry: Registry) -> None:
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    with following(tagfit, registry.name(LARGE)) as stream:
        arrivals = [time.monotonic() for _ in stream]

    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals[1:-1])]
    assert len(arrivals) < 6 + 4.5 * (arrivals[-1] - arrivals[0])
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream", "text/event-stream"),
        ("application/json, Text/Event-Stream;q=0.9", "text/event-stream"),
        ("text/event-stream;q=0, */*", "application/x-ndjson"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
    ],
)
def test_accept_decides_between_lines_and_events(
    tagfit: str, registry: Registry, accept: str, kind: str
) -> None:
    body = {"model": registry.name(TINY), "insecure": True}
    answer = httpx.post(tagfit + "/pull", json=body, headers={"accept": accept}, timeout=30)

    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["cache-control"] == "no-store, no-transform"
    assert answer.headers["x-accel-buffering"] == "no", "nginx holds lines back without it"
    if kind == "text/event-stream":
        *events, end = answer.text.split("\n\n")
        assert end == ""
        assert all(event.startswith("event: progress\ndata: {") for event in events)
        last = json.loads(events[-1].partition("data: ")[2])
    else:
        last = json.loads(answer.text.splitlines()[-1])
    assert last["status"] == "done"


def test_unstreamed_it_is_the_last_line(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    body = {"model": registry.name(TINY), "insecure": True, "stream": False}
    answer = httpx.post(tagfit + "/pull", json=body, timeout=30)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["status"] == "done"
    assert answer.json()["total_bytes"] == daemon.installed()[registry.name(TINY)]


def test_clients_share_one_pull_and_the_last_to_leave_cancels_it(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    with ExitStack() as later:
        with following(tagfit, registry.name(LARGE)) as first:
            until_bytes(first, 4_000_000)
            second = later.enter_context(following(tagfit, registry.name(LARGE)))
            joined = next(second)
            assert joined["status"] == "downloading"
            assert joined["completed_bytes"] >= 4_000_000, "a late joiner gets the state at once"
            third = later.enter_context(ollama_lines(tagfit, registry.name(LARGE)))
            assert next(third) == {"status": "pulling manifest"}
            assert next(third)["digest"]
            assert connections_to(daemon.port) == 1
        until_bytes(second, joined["completed_bytes"] + 2_000_000)
        assert connections_to(daemon.port) == 1, "the first to leave takes nobody with it"
    wait_until(lambda: connections_to(daemon.port) == 0, "tagfit leaves the daemon", SOON_SECONDS)
    wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading", SOON_SECONDS)


@contextmanager
def ollama_lines(url: str, model: str) -> Iterator[Lines]:
    body = {"model": model, "insecure": True}
    with httpx.stream("POST", url + "/api/pull", json=body, timeout=30) as response:
        yield (json.loads(line) for line in response.iter_lines())


@pytest.mark.usefixtures("daemon")
def test_a_cancelled_pull_is_taken_up(tagfit: str, registry: Registry) -> None:
    registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
    with following(tagfit, registry.name(LARGE)) as first:
        until_bytes(first, 16_000_000)
    wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading", SOON_SECONDS)

    with following(tagfit, registry.name(LARGE)) as second:
        lines = list(second)

    assert lines[0]["completed_bytes"] >= 16_000_000
    assert lines[-1]["status"] == "done"
    rates = [line["bytes_per_second"] for line in lines if line["bytes_per_second"]]
    assert max(rates, default=0) < 3 * SOME_BYTES_PER_SECOND, "what was there is no speed"


@pytest.mark.parametrize("keep_pulling", [False, True])
def test_a_cancelled_pull_is_watched_until_the_daemon_has_stopped(
    daemon: OllamaDaemon,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    keep_pulling: bool,
) -> None:
    """Another client, directly at the daemon, is what keeps it going here."""
    monkeypatch.setattr("tagfit.pulls.watch.SETTLE_SECONDS", 0.4)
    registry.blobs.bytes_per_second = 2e6
    name = registry.name(LARGE)
    with (
        ExitStack() as others,
        tagfit_before(daemon.url, registry.host, models_directory=str(daemon.models)) as url,
    ):
        with following(url, name) as stream:
            until_bytes(stream, 500_000)
            if keep_pulling:
                direct = others.enter_context(ollama_lines(daemon.url, name))
                assert [next(direct), next(direct)]
        log: list[str] = []

        def said(words: str) -> bool:
            log.append(capsys.readouterr().out)
            return words in "".join(log)

        words = "goes on downloading" if keep_pulling else "the daemon has stopped"
        wait_until(lambda: said(words), "the log says what the daemon did")


def test_a_killed_daemon_ends_the_stream_and_the_next_pull_works(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    with following(tagfit, registry.name(LARGE)) as stream:
        taken = until_bytes(stream, 2_000_000)
        daemon.kill()
        rest = list(stream)

    last = rest[-1]
    assert last["status"] == "failed"
    assert last["problem"]["status"] == 502
    assert last["problem"]["title"] == "Daemon is not reachable"
    assert daemon.url in last["problem"]["detail"]
    assert last["completed_bytes"] >= taken[-1]["completed_bytes"]

    registry.blobs.bytes_per_second = None
    daemon.start()
    with following(tagfit, registry.name(LARGE)) as stream:
        assert list(stream)[-1]["status"] == "done"


def test_a_cut_connection_is_taken_up_by_the_daemon_itself(tagfit: str, registry: Registry) -> None:
    """Each transfer is cut once; the daemon tries again after a second."""
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    with following(tagfit, registry.name(LARGE)) as stream:
        until_bytes(stream, 4_000_000)
        registry.blobs.cut()
        registry.blobs.bytes_per_second = None
        lines = list(stream)

    completed = [line["completed_bytes"] for line in lines]
    assert completed == sorted(completed)
    assert lines[-1]["status"] == "done"


@pytest.mark.parametrize("path", ["/pull", "/api/pull"])
def test_a_stalled_pull_is_given_up(daemon: OllamaDaemon, registry: Registry, path: str) -> None:
    registry.blobs.bytes_per_second = 4_000  # sixteen seconds a chunk
    with tagfit_before(daemon.url, registry.host, stall_timeout=1.5) as url:
        body = {"model": registry.name(LARGE), "insecure": True}
        answer = httpx.post(url + path, json=body, timeout=30)
        last = json.loads(answer.text.splitlines()[-1])
        if path == "/pull":
            assert last["status"] == "failed"
            assert last["problem"]["status"] == 504
            assert "no progress for 1.5 s" in last["problem"]["detail"]
        else:
            assert "no progress for 1.5 s" in last["error"]
        wait_until(lambda: connections_to(daemon.port) == 0, "tagfit leaves", SOON_SECONDS)


def test_a_registry_that_says_nothing_is_504(standing_daemon: OllamaDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with tagfit_before(standing_daemon.url, host, stall_timeout=0.5) as url:
            body = {"model": f"{host}/library/tiny", "insecure": True}
            answer = httpx.post(url + "/pull", json=body, timeout=30)

    assert answer.status_code == 504
    assert answer.json()["title"] == "Pull stalled"


def test_a_full_disk_is_507(registry: Registry, tmp_path: Path) -> None:
    """The daemon's models are on a disk of 20 MB, half of the model."""
    folder = tmp_path / "ollama"
    models = folder / "models"
    models.mkdir(parents=True)
    with small_disk(models, megabytes=20):
        daemon = OllamaDaemon(folder)
        daemon.start()
        try:
            registry.blobs.bytes_per_second = SOME_BYTES_PER_SECOND
            with (
                tagfit_before(daemon.url, registry.host) as url,
                following(url, registry.name(LARGE)) as stream,
            ):
                last = list(stream)[-1]
        finally:
            daemon.stop()

    assert last["status"] == "failed"
    assert last["problem"]["status"] == 507
    assert "no space left on device" in last["problem"]["detail"]
    assert last["completed_bytes"] > 5_000_000


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        unavailable(f"no small disk without the right to mount: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_two_hundred_clients_follow_one_pull(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = SLOW_BYTES_PER_SECOND
    name, done = registry.name(LARGE), []

    def follow() -> None:
        with following(tagfit, name) as stream:
            done.append([line["status"] for line in stream][-1])

    threads = [threading.Thread(target=follow) for _ in range(200)]
    for thread in threads:
        thread.start()
    wait_until(lambda: bool(registry.blobs.transfers), "the daemon downloads")
    wait_until(lambda: connections_to(daemon.port) == 1, "all have joined one pull")
    for thread in threads:
        thread.join()
    assert done == ["done"] * 200


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"model": "a b"}, 400, "model"),
        ({"model": ""}, 400, "model"),  # an empty input field asks for no choice
        ({"model": " "}, 400, "model"),
        ({"model": "", "name": " "}, 400, "name"),
        ({"model": "evil.example/library/tiny"}, 403, None),
        ({"modell": "tiny"}, 400, "modell"),
        ({"model": "codellama:7b", "force": "yes"}, 400, "force"),
        ({"model": "codellama:7b", "format": "xml"}, 400, "format"),
        ({"model": "codellama:7b", "stream": 1}, 400, "stream"),
        ({"model": "codellama:7b", "quantization": "Q9_Z"}, 400, "quantization"),
        ({"quantization": "Q4_K_M"}, 400, "quantization"),
        ({"model": "hf.co/a/b", "quantization": "auto"}, 400, "quantization"),
        ({"model": "codellama:7b", "use_case": "poetry"}, 400, "use_case"),
        ({"model": "codellama:7b", "context_length": -1}, 400, "context_length"),
        ([], 400, ""),
    ],
)
def test_a_wrong_request_names_the_field(
    tagfit_before_nobody: str, body: object, status: int, field: str | None
) -> None:
    answer = httpx.post(tagfit_before_nobody + "/pull", json=body, timeout=30)

    assert answer.status_code == status, answer.text
    if field is not None:
        [error] = answer.json()["errors"]
        assert error["field"] == field
        assert error["message"]


@pytest.fixture(scope="module")
def tagfit_before_nobody() -> Iterator[str]:
    with tagfit_before("http://127.0.0.1:9", "registry.ollama.ai", "hf.co") as url:
        yield url


@pytest.mark.parametrize("path", ["/pull", "/api/pull"])
def test_a_server_that_is_stopped_ends_its_pulls_with_a_last_line(
    daemon: OllamaDaemon, registry: Registry, path: str
) -> None:
    """It waits as long as TAGFIT_SHUTDOWN_TIMEOUT allows, less the second for that line."""
    registry.blobs.bytes_per_second = 2e6
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "OLLAMA_HOST": daemon.url,
        "TAGFIT_PORT": str(port),
        "TAGFIT_ALLOWED_REGISTRIES": registry.host,
        "TAGFIT_SHUTDOWN_TIMEOUT": "2",
    }
    command = [sys.executable, "-m", "tagfit", "serve"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url), "it answers", 30)
        body = {"model": registry.name(LARGE), "insecure": True}
        with httpx.stream("POST", url + path, json=body, timeout=30) as response:
            lines = response.iter_lines()
            assert [next(lines), next(lines)]
            server.terminate()
            stopped_at = time.monotonic()
            refused = httpx.ConnectError, httpx.RemoteProtocolError
            last = json.loads(list(lines)[-1])
            lasted = time.monotonic() - stopped_at
        with pytest.raises(refused):
            httpx.get(url, timeout=5)
        _, log = server.communicate(timeout=20)

    assert 0.9 < lasted < 2
    if path == "/pull":
        assert last["status"] == "failed"
        assert last["problem"]["status"] == 503
    else:
        assert "tagfit was shut down" in last["error"]
    assert '"exception"' not in log
    assert server.returncode in (0, -signal.SIGTERM)
    wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading", SOON_SECONDS)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False
