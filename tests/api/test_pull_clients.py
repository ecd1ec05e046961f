"""Ollama's official clients, unmodified, with tagfit in place of the daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import ollama
import pytest

from tests.conftest import LARGE, TINY
from tests.real.daemon import OllamaDaemon
from tests.real.processes import connections_to, free_port, wait_until
from tests.real.programs import CACHE, unavailable
from tests.real.registry import Registry
from tests.real.tagfit import tagfit_before

OLLAMA_JS_VERSION = "0.6.3"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "pull.md").read_text()


def test_python_client_pulls(tagfit: str, daemon: OllamaDaemon, registry: Registry) -> None:
    with ollama.Client(host=tagfit) as client:
        progress = list(client.pull(registry.name(TINY), insecure=True, stream=True))

    assert progress[-1].status == "success"
    assert registry.name(TINY) in daemon.installed()


def test_python_client_pulls_at_one_go(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    with ollama.Client(host=tagfit) as client:
        assert client.pull(registry.name(TINY), insecure=True).status == "success"

    assert registry.name(TINY) in daemon.installed()


async def test_asynchronous_python_client_cancels_and_pulls(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = 8e6
    async with ollama.AsyncClient(host=tagfit) as client:
        lines = await client.pull(registry.name(LARGE), insecure=True, stream=True)
        async for line in lines:
            if line.completed:
                break
        await lines.aclose()
        wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading")
        assert daemon.installed() == {}

        registry.blobs.bytes_per_second = None
        lines = await client.pull(registry.name(LARGE), insecure=True, stream=True)
        assert [line.status async for line in lines][-1] == "success"

    assert registry.name(LARGE) in daemon.installed()


@pytest.mark.parametrize("stream", [True, False])
def test_python_client_raises_what_tagfit_says(
    tagfit: str, registry: Registry, stream: bool
) -> None:
    unknown = registry.name("tiny:q9_Z")
    with ollama.Client(host=tagfit) as client, pytest.raises(ollama.ResponseError) as raised:
        list(client.pull(unknown, insecure=True, stream=stream))

    assert raised.value.status_code == 404
    assert raised.value.error.startswith(f"There is no tag {unknown}")


def test_python_client_raises_when_the_daemon_is_down(registry: Registry) -> None:
    with (
        tagfit_before(f"http://127.0.0.1:{free_port()}", registry.host) as url,
        ollama.Client(host=url) as client,
        pytest.raises(ollama.ResponseError, match="No Ollama daemon answers") as raised,
    ):
        client.pull(registry.name(TINY))

    assert raised.value.status_code == 502


def test_python_client_raises_when_the_daemon_dies(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    registry.blobs.bytes_per_second = 8e6
    with ollama.Client(host=tagfit) as client:
        lines = client.pull(registry.name(LARGE), insecure=True, stream=True)
        assert any(line.completed for line in lines)
        daemon.kill()
        with pytest.raises(ollama.ResponseError, match=daemon.url):
            list(lines)


def command_line(daemon: OllamaDaemon, url: str, model: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [daemon.binary, "pull", "--insecure", model],
        env={**daemon.environment, "OLLAMA_HOST": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_command_line_pulls(tagfit: str, daemon: OllamaDaemon, registry: Registry) -> None:
    ended = command_line(daemon, tagfit, registry.name(TINY))

    assert ended.returncode == 0, ended.stderr
    assert registry.name(TINY) in daemon.installed()


def test_command_line_shows_what_tagfit_says(
    tagfit: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    ended = command_line(daemon, tagfit, registry.name("tiny:q9_Z"))

    assert ended.returncode == 1
    assert f"There is no tag {registry.name('tiny:q9_Z')}" in ended.stderr


@pytest.fixture(scope="session")
def javascript_client() -> Path:
    """A folder in which node finds the package ``ollama``."""
    npm = shutil.which("npm")
    if npm is None:
        unavailable("Ollama's JavaScript client cannot be had: there is no npm")
    folder = CACHE / f"ollama-js-{OLLAMA_JS_VERSION}"
    if not (folder / "node_modules" / "ollama").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", f"ollama@{OLLAMA_JS_VERSION}"],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=120,
        )
    return folder


def run_javascript(folder: Path, url: str, model: str, loop: str) -> list[dict[str, object]]:
    """The lines that a script prints which pulls a model with the JavaScript client."""
    script = f"""
        import {{ Ollama }} from 'ollama'
        const client = new Ollama({{ host: {json.dumps(url)} }})
        const say = (value) => console.log(JSON.stringify(value))
        try {{
          const lines = await client.pull(
            {{ model: {json.dumps(model)}, insecure: true, stream: true }})
          for await (const line of lines) {{ {loop} }}
        }} catch (error) {{
          say({{ name: error.name, message: error.message, status: error.status_code }})
        }}
    """
    ended = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_javascript_client_pulls(
    tagfit: str, daemon: OllamaDaemon, registry: Registry, javascript_client: Path
) -> None:
    lines = run_javascript(javascript_client, tagfit, registry.name(TINY), "say(line)")

    assert lines[-1] == {"status": "success"}
    assert registry.name(TINY) in daemon.installed()


def test_javascript_client_throws_what_tagfit_says(
    tagfit: str, registry: Registry, javascript_client: Path
) -> None:
    unknown = registry.name("tiny:q9_Z")
    [thrown] = run_javascript(javascript_client, tagfit, unknown, "say(line)")

    assert thrown["name"] == "ResponseError"
    assert thrown["status"] == 404
    assert str(thrown["message"]).startswith(f"There is no tag {unknown}")


def test_javascript_client_cancels(
    tagfit: str, daemon: OllamaDaemon, registry: Registry, javascript_client: Path
) -> None:
    registry.blobs.bytes_per_second = 8e6
    thrown = run_javascript(
        javascript_client, tagfit, registry.name(LARGE), "if (line.completed) client.abort()"
    )

    assert [error["name"] for error in thrown] == ["AbortError"]
    wait_until(lambda: connections_to(daemon.port) == 0, "tagfit leaves the daemon")
    wait_until(lambda: not registry.blobs.transfers, "the daemon stops downloading")


@pytest.mark.parametrize("tag", [LARGE, "tiny:q9_Z"])
def test_the_document_s_program_pulls(tagfit: str, registry: Registry, tag: str) -> None:
    node = shutil.which("node")
    if node is None:
        unavailable("the document's program cannot run: there is no node")
    registry.blobs.bytes_per_second = 40e6
    program = DOCUMENT.partition("```js\n")[2].partition("```")[0]
    replaced = {
        "'http://localhost:11435": f"'{tagfit}",
        "'codellama:7b-instruct-q4_K_M'": f"'{registry.name(tag)}', insecure: true",
    }
    for before, after in replaced.items():
        assert before in program
        program = program.replace(before, after)
    around = "const controller = new AbortController(), show = (x) => console.log(x.status)\n"
    ended = subprocess.run(
        [node, "--input-type=module", "--eval", around + program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    if tag == LARGE:
        assert ended.stdout.splitlines()[-1] == "done", ended.stderr
    else:
        assert f"Error: There is no tag {registry.name(tag)}" in ended.stderr


@pytest.mark.parametrize(
    "body",
    [
        # https://github.com/open-webui/open-webui, backend/open_webui/routers/ollama.py
        {"model": "", "name": "NAME", "insecure": True},
        {"model": "NAME", "insecure": True},
        # https://github.com/continuedev/continue, core/llm/llms/Ollama.ts
        {"name": "NAME", "insecure": True, "stream": True},
    ],
)
def test_a_pull_as_editors_and_web_interfaces_ask_for_it(
    tagfit: str, daemon: OllamaDaemon, registry: Registry, body: dict[str, object]
) -> None:
    """They read chunks, not lines, and of an error the ``error`` of a JSON answer."""
    headers = {"content-type": "application/json", "authorization": "Bearer secret"}

    def ask(name: str) -> httpx.Response:
        content = json.dumps(body).replace("NAME", name)
        return httpx.post(tagfit + "/api/pull", content=content, headers=headers, timeout=30)

    pulled = ask(registry.name(TINY))
    assert json.loads(pulled.content.splitlines()[-1]) == {"status": "success"}
    assert registry.name(TINY) in daemon.installed()

    failed = ask(registry.name("tiny:q9_Z"))
    assert failed.status_code == 404
    assert failed.headers["content-type"] == "application/json"
    assert "There is no tag" in failed.json()["error"]
