"""The client of the Ollama daemon: against a real one where it can be brought to do it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagfit.daemon.client import Daemon, Progress
from tagfit.daemon.ollama import Ollama, parse_host
from tagfit.problems import DaemonError, DaemonUnreachable, InvalidRequest, Problem
from tests.conftest import TINY
from tests.real.daemon import OllamaDaemon
from tests.real.processes import free_port
from tests.real.registry import Registry
from tests.scripted_daemon import STREAM, scripted_daemon

HOSTS = {
    "": "http://127.0.0.1:11434",
    "1.2.3.4": "http://1.2.3.4:11434",
    ":1234": "http://127.0.0.1:1234",
    "1.2.3.4:1234": "http://1.2.3.4:1234",
    "example.com": "http://example.com:11434",
    "example.com:1234": "http://example.com:1234",
    "example.com:": "http://example.com:11434",
    ":66000": "http://127.0.0.1:11434",
    ":-1": "http://127.0.0.1:11434",
    ":port": "http://127.0.0.1:11434",
    "[::1]": "http://[::1]:11434",
    "::1": "http://[::1]:11434",
    "[::1]:1337": "http://[::1]:1337",
    "[::]": "http://[::1]:11434",
    "[::]:1234": "http://[::1]:1234",
    "0.0.0.0": "http://127.0.0.1:11434",
    "0.0.0.0:1234": "http://127.0.0.1:1234",
    " 1.2.3.4 ": "http://1.2.3.4:11434",
    '"1.2.3.4"': "http://1.2.3.4:11434",
    ' " 1.2.3.4 " ': "http://1.2.3.4:11434",
    "'1.2.3.4'": "http://1.2.3.4:11434",
    "http://1.2.3.4": "http://1.2.3.4:80",
    "http://1.2.3.4:4321": "http://1.2.3.4:4321",
    "https://1.2.3.4": "https://1.2.3.4:443",
    "https://0.0.0.0:4321": "https://127.0.0.1:4321",
    "https://example.com/ollama": "https://example.com:443/ollama",
    "example.com/ollama/": "http://example.com:11434/ollama",
    "ollama.com": "https://ollama.com:443",
}
"""The cases of Ollama's own envconfig/config_test.go (v0.33.3), and some beside them."""


@pytest.mark.parametrize(("text", "url"), HOSTS.items())
def test_ollama_host_means_what_it_means_to_ollama(text: str, url: str) -> None:
    assert parse_host(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1",
        "unix:///run/ollama.sock",
        "http://user:secret@host",
        "a b",
        "a]b:80",
        "host/?a=b",
    ],
)
def test_an_ollama_host_that_cannot_be_called_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="OLLAMA_HOST="):
        parse_host(text)


@given(st.text())
def test_any_ollama_host_is_a_callable_url_or_refused(text: str) -> None:
    try:
        url = httpx.URL(parse_host(text))
    except ValueError:
        return
    assert url.scheme in ("http", "https")
    assert url.host
    assert not url.userinfo


@pytest.fixture
async def ollama(daemon: OllamaDaemon) -> AsyncIterator[Ollama]:
    async with Ollama(daemon.url) as client:
        yield client


async def test_the_client_is_what_the_rest_of_tagfit_asks_of_a_daemon(ollama: Ollama) -> None:
    daemon: Daemon = ollama  # the type checker's test

    assert daemon.title == "Ollama"
    assert await daemon.landed_bytes("sha256:0") is None, "no directory was named"


async def test_what_has_landed_is_what_is_allocated(tmp_path: Path) -> None:
    """A part has its layer's whole length from the start (server/download.go:229)."""
    blobs = tmp_path / "blobs"
    async with Ollama("http://127.0.0.1:1", lambda: str(tmp_path)) as ollama:
        assert await ollama.landed_bytes("sha256:aa") is None, "there is no such directory"
        assert await ollama.unfinished_bytes() == 0

        blobs.mkdir()
        assert await ollama.landed_bytes("sha256:aa") == 0
        with (blobs / "sha256-aa-partial").open("wb") as part:
            part.write(b"x" * 100_000)
            part.truncate(10**9)
        (blobs / "sha256-aa-partial-0").write_text("{}")
        landed = await ollama.landed_bytes("sha256:aa")
        assert landed is not None
        assert 100_000 <= landed < 200_000
        assert await ollama.unfinished_bytes() == landed

        (blobs / "sha256-aa").write_bytes(b"x" * 300_000)
        assert (await ollama.landed_bytes("sha256:aa") or 0) >= 300_000


async def test_a_closed_client_may_be_used_again(ollama: Ollama) -> None:
    """An application can be shut down and started again."""
    await ollama.aclose()

    assert await ollama.version()


async def test_version_installed_and_loaded_models(
    ollama: Ollama, daemon: OllamaDaemon, registry: Registry
) -> None:
    assert await ollama.installed() == ()
    async with aclosing(await ollama.pull(registry.name(TINY), insecure=True)) as pull:
        lines = [line.progress async for line in pull]

    assert lines[-1] == Progress(status="success")
    [model] = await ollama.installed()
    assert model.name == registry.name(TINY)
    assert model.size_bytes == daemon.installed()[model.name]
    assert model.quantization == "F16"
    assert await ollama.loaded() == ()
    assert (await ollama.version()).startswith("0.")


async def test_a_name_that_the_daemon_refuses(ollama: Ollama) -> None:
    with pytest.raises(InvalidRequest, match="invalid model name"):
        await ollama.pull("a b//")


async def test_a_daemon_that_is_down() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with Ollama(url) as ollama:
        for call in (ollama.version, ollama.installed, ollama.loaded, lambda: ollama.pull("tiny")):
            with pytest.raises(DaemonUnreachable, match=url):
                await call()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>nginx</html>", "answered 502"),
        (b"HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\n\r\n", "answered 301"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "loopback only"),
        (b'HTTP/1.1 500 Error\r\n\r\n{"error":"it broke"}', "it broke"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>\n", "cannot read"),
    ],
)
async def test_what_is_no_answer_of_ollama(answer: bytes, says: str) -> None:
    with scripted_daemon([answer]) as daemon:
        async with Ollama(daemon.url) as ollama:
            with pytest.raises(DaemonError, match=says):
                await ollama.version()
            with pytest.raises(DaemonError, match=says):
                async with aclosing(await ollama.pull("tiny")) as pull:
                    await anext(pull)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_a_server_that_does_not_speak_http(answer: bytes) -> None:
    with scripted_daemon([answer]) as daemon:
        async with Ollama(daemon.url) as ollama:
            with pytest.raises(DaemonUnreachable):
                await ollama.version()


async def read(*chunks: bytes) -> tuple[list[Progress], Problem | None]:
    """The lines that a body gives, and how it ended."""
    lines: list[Progress] = []
    with scripted_daemon([STREAM, *chunks]) as daemon:
        async with Ollama(daemon.url) as ollama, aclosing(await ollama.pull("tiny")) as pull:
            try:
                async for line in pull:
                    lines += [line.progress]
            except Problem as problem:
                return lines, problem
    return lines, None


async def test_lines_may_be_torn_anywhere() -> None:
    lines, problem = await read(
        b'{"status":"pulling mani', b'fest"}\n\n{"sta', b'tus":"success"}\n'
    )

    assert lines == [Progress(status="pulling manifest"), Progress(status="success")]
    assert problem is None


async def test_an_error_line_ends_a_pull() -> None:
    lines, problem = await read(b'{"status":"pulling manifest"}\n{"error":"it broke"}\n')

    assert lines[-1].error == "it broke"
    assert problem is None


async def test_a_body_that_ends_without_success_failed() -> None:
    """What a daemon that is killed leaves: complete lines, then perhaps a part of one."""
    lines, problem = await read(b'{"status":"pulling manifest"}\n{"status":"success"')

    assert [line.status for line in lines] == ["pulling manifest"]
    assert isinstance(problem, DaemonUnreachable)


async def test_a_line_that_is_no_json_ends_a_pull() -> None:
    _, problem = await read(b'{"status":"pulling manifest"}\n<html>\n')

    assert isinstance(problem, DaemonError)


async def test_a_line_without_end_ends_a_pull() -> None:
    _, problem = await read(*[b"x" * 1_000_000] * 20)

    assert isinstance(problem, DaemonError)
    assert "8000000 bytes" in problem.detail
