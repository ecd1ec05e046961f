"""The image, built and run by a real engine: ``make image-test``.

Its name keeps it out of ``make test``, since it takes minutes and the engine takes root.
"""

from __future__ import annotations

import json
import shlex
import shutil
import threading
import time
import tomllib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.conftest import LARGE, TINY
from tests.real.daemon import OllamaDaemon
from tests.real.processes import free_port, wait_until
from tests.real.programs import ollama
from tests.real.registry import Registry
from tests.ship.documents import command_lines
from tests.ship.engine import Docker
from tests.ship.programs import ROOT

LARGEST_BYTES_ABOVE_BASE = 150 * 10**6
SLOWEST_START_SECONDS = 5.0
"""A guard against a hang; what is aimed at is 1.5 s on an idle machine."""
ASKERS = 8
MEMORY_BYTES = 256 * 2**20
CONFINED = (
    "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    f"--memory={MEMORY_BYTES}", "--cpus=1",
)  # fmt: skip


@contextmanager
def running(engine: Docker, image: str, *options: str) -> Iterator[tuple[str, str]]:
    """A container's name and URL; host network, so that nothing but the engine is needed."""
    port = free_port()
    name = engine(
        "run", "--detach", "--network=host", f"--env=TAGFIT_PORT={port}", *CONFINED, *options, image
    )
    try:
        yield name, f"http://127.0.0.1:{port}"
    finally:
        engine("rm", "--force", name)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_it_says_what_it_is(engine: Docker, image: str, base: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    config = engine.inspect(image)["Config"]
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in config["Labels"].items()}

    assert engine("run", "--rm", "--network=none", image, "--version") == f"tagfit {version}"
    assert (labels["version"], labels["base.name"]) == (version, base)
    assert {"title", "description", "licenses", "revision"} <= labels.keys()
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "tagfit", "healthcheck"]
    assert "NVIDIA_DRIVER_CAPABILITIES=utility" in config["Env"]


INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps([(found.name, found.version) for found in distributions()]))
"""


def test_its_bill_of_materials_lists_what_is_installed(engine: Docker, image: str) -> None:
    run = ("run", "--rm", "--network=none")
    installed = json.loads(engine(*run, "--entrypoint=python", image, "-c", INSTALLED))
    bill = json.loads(engine(*run, "--entrypoint=cat", image, "/opt/tagfit/sbom.cdx.json"))
    listed = [bill["metadata"]["component"], *bill["components"]]

    assert bill["bomFormat"] == "CycloneDX"
    assert {(one["name"], one["version"]) for one in listed} == {tuple(one) for one in installed}
    assert all(one["purl"].startswith("pkg:pypi/") for one in bill["components"])


def test_it_is_small_and_has_no_compiler(engine: Docker, image: str, base: str) -> None:
    above = engine.inspect(image)["Size"] - engine.inspect(base)["Size"]
    search = "import shutil; print([n for n in ('cc', 'gcc', 'g++', 'uv') if shutil.which(n)])"

    assert above < LARGEST_BYTES_ABOVE_BASE
    assert engine("run", "--rm", "--entrypoint=python", image, "-c", search) == "[]"


def test_confined_it_starts_soon_is_healthy_and_stops_when_asked(
    engine: Docker, image: str
) -> None:
    """Read-only root, no capability, a numeric user, little memory."""
    with running(engine, image, "--health-interval=1s") as (name, url):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        wait_until(
            lambda: engine.inspect(name)["State"]["Health"]["Status"] == "healthy",
            "the engine finds it healthy",
            30,
        )
        assert httpx.get(f"{url}/livez", trust_env=False).is_success
        recommended = httpx.get(
            f"{url}/recommend?vram=12GiB&ram=32GiB&format=tag", trust_env=False, timeout=30
        )
        assert recommended.is_success, recommended.text
        stopped_at = time.monotonic()
        engine("stop", "--time=20", name)
        state = engine.inspect(name)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False), engine("logs", name)
        assert time.monotonic() - stopped_at < 15


def test_the_hardware_inside_is_the_limit_and_not_the_host(engine: Docker, image: str) -> None:
    with running(engine, image) as (_, url):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        hardware = httpx.get(f"{url}/hardware", trust_env=False, timeout=30).json()

    assert hardware["memory"] == MEMORY_BYTES
    assert hardware["details"]["limits"]["memory_bytes"] == MEMORY_BYTES
    assert hardware["details"]["limits"]["cpus"] == 1


def test_a_limit_of_the_second_cgroup_version_is_read(
    engine: Docker, image: str, tmp_path: Path
) -> None:
    """The files of version 2, mounted where the kernel has them."""
    limit = 96 * 2**20
    tmp_path.chmod(0o755)
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1048576\n")
    with running(engine, image, f"--volume={tmp_path}:/sys/fs/cgroup:ro") as (_, url):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        hardware = httpx.get(f"{url}/hardware", trust_env=False, timeout=30).json()

    assert hardware["memory"] == limit


def test_the_limit_of_ollama_goes_before_its_own(engine: Docker, image: str) -> None:
    with running(engine, image, "--env=TAGFIT_OLLAMA_MEMORY_LIMIT=4GiB") as (_, url):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        hardware = httpx.get(f"{url}/hardware", trust_env=False, timeout=30).json()

    assert hardware["memory"] == 4 * 2**30


GREEDY = """
import os, time
for _ in range(3):
    os.fork()
taken = bytearray(b"x") * (40 << 20)
time.sleep(60)
"""
"""Eight processes that take 40 MiB each: none is as large as the server, which the kernel ends."""


def test_killed_by_its_limit_it_comes_back(engine: Docker, image: str) -> None:
    with running(engine, image, "--restart=on-failure") as (name, url):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        httpx.get(f"{url}/recommend?vram=12GiB&ram=32GiB", trust_env=False, timeout=60)
        began = f"--since={time.time():.3f}"
        engine("exec", "--detach", name, "python", "-c", GREEDY)
        wait_until(lambda: engine.inspect(name)["RestartCount"] > 0, "the limit ends it, once", 60)
        wait_until(lambda: answers(url), "it answers again", 4 * SLOWEST_START_SECONDS)
        recommended = httpx.get(
            f"{url}/recommend?vram=12GiB&ram=32GiB", trust_env=False, timeout=60
        )

        happened = engine(
            "events", began, f"--until={time.time():.3f}", f"--filter=container={name}"
        )

    assert recommended.is_success
    assert " container oom " in happened


def test_stopped_under_load_it_finishes_what_it_answers(engine: Docker, image: str) -> None:
    """Every request that it has read, by its own log, has reached its asker whole."""
    machine = {"hardware": {"gpus": [{"memory": "12GiB"}], "memory": "32GiB"}}
    answered: dict[str, float] = {}
    stopped = threading.Event()

    def ask(client: httpx.Client) -> None:
        while not stopped.is_set():
            named = {"x-request-id": uuid.uuid4().hex}
            try:
                answer = client.post("/recommend", json=machine, headers=named)
            except httpx.TransportError:  # it takes no more connections
                continue
            if answer.is_success and answer.json()["recommendations"]:
                answered[named["x-request-id"]] = time.monotonic()

    with (
        running(engine, image) as (name, url),
        httpx.Client(
            base_url=url,
            trust_env=False,
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client,
        ThreadPoolExecutor(ASKERS) as pool,
    ):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        for _ in range(ASKERS):
            pool.submit(ask, client)
        try:
            wait_until(lambda: len(answered) > ASKERS, "it has answered as many", 120)
            stop_at = time.monotonic()
            engine("stop", "--time=20", name)
        finally:
            stopped.set()
        state = engine.inspect(name)["State"]
        log = engine.try_("logs", name)

    lines = [json.loads(line) for line in (log.stdout + log.stderr).splitlines()]
    read = {line["request_id"]: line["status"] for line in lines if line["event"] == "request"}
    assert any(at > stop_at for at in answered.values())
    assert read == dict.fromkeys(answered, 200)
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


@contextmanager
def beside(
    engine: Docker, image: str, daemon: OllamaDaemon, registry: Registry
) -> Iterator[tuple[str, str]]:
    """The container beside a real Ollama, sharing no more than the loopback."""
    options = (
        f"--env=OLLAMA_HOST={daemon.url}",
        f"--env=TAGFIT_ALLOWED_REGISTRIES={registry.host}",
    )
    with running(engine, image, *options) as (name, url):
        wait_until(lambda: answers(url), "it answers", SLOWEST_START_SECONDS)
        yield name, url


def test_beside_ollama_it_pulls(
    engine: Docker, image: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    with beside(engine, image, daemon, registry) as (_, url):
        body = {"model": registry.name(TINY), "insecure": True, "stream": False}
        pulled = httpx.post(f"{url}/api/pull", json=body, trust_env=False, timeout=60)

    assert pulled.json() == {"status": "success"}
    assert registry.name(TINY) in daemon.installed()


def test_a_pull_that_runs_is_finished_before_it_stops(
    engine: Docker, image: str, daemon: OllamaDaemon, registry: Registry
) -> None:
    body = {"model": registry.name(LARGE), "insecure": True}
    registry.blobs.bytes_per_second = 10_000_000
    with (
        beside(engine, image, daemon, registry) as (name, url),
        httpx.stream("POST", f"{url}/api/pull", json=body, trust_env=False, timeout=60) as pull,
    ):
        lines = pull.iter_lines()
        next(lines)
        engine("kill", "--signal=TERM", name)
        last = [json.loads(line) for line in lines][-1]
        exit_code = engine("wait", name)

    assert last == {"status": "success"}
    assert exit_code == "0"


def test_the_documented_commands_work(engine: Docker, image: str, base: str) -> None:
    """As written, but for names and ports that may be taken on this machine."""
    container = "tagfit-documented"
    elsewhere = f"--name {container} --network host --env TAGFIT_PORT={free_port()}"
    replaced = {
        "build --tag tagfit": f"build --network host --build-arg BASE={base} --tag {image}",
        "--name tagfit --publish 127.0.0.1:11435:11435": elsewhere,
        "run --rm --network host": f"run --detach --rm {elsewhere}",
        "exec tagfit": f"exec {container}",
        "stop tagfit": f"rm --force {container}",
    }
    try:
        for line in command_lines(ROOT / "docs" / "containers.md", "docker"):
            if " compose " in line:
                continue
            command = line
            for written, done in replaced.items():
                command = command.replace(written, done)
            words = shlex.split(command)[1:]
            if words[0] == "run":
                engine(*words[:-1], image)
                wait_until(
                    lambda: not engine.try_("exec", container, "tagfit", "healthcheck").returncode,
                    f"it is ready: {line}",
                )
            else:
                engine(*words)
    finally:
        engine.try_("rm", "--force", container)


def test_the_composition_is_understood(engine: Docker) -> None:
    """Every ``docker compose`` line of the page names files that make one configuration."""
    for line in command_lines(ROOT / "docs" / "containers.md", "docker"):
        words = shlex.split(line)[1:]
        if words[0] == "compose":
            files = words[1 : words.index("up")]
            found = json.loads(engine.compose(*files, "config", "--format=json"))
            assert set(found["services"]) == {"ollama", "tagfit"}
            gpus = [bool(service.get("gpus")) for service in found["services"].values()]
            assert gpus == [len(files) > 0] * 2


def test_composed_they_pull_and_see_the_models(
    engine: Docker, image: str, base: str, registry: Registry, tmp_path: Path
) -> None:
    """A real Ollama and tagfit, sharing the volume and the loopback of this machine."""
    ollama_port, port = free_port(), free_port()
    shutil.copy(ollama(), tmp_path / "ollama")
    (tmp_path / "Dockerfile").write_text(
        f'FROM {base}\nCOPY ollama /ollama\nENTRYPOINT ["/ollama", "serve"]\n'
    )
    engine("build", "--tag=ollama:test", tmp_path)
    override = tmp_path / "override.yaml"
    override.write_text(
        f"""
services:
  ollama:
    image: ollama:test
    network_mode: host
    ports: !reset []
    environment: {{OLLAMA_HOST: "127.0.0.1:{ollama_port}", OLLAMA_NO_CLOUD: "1"}}
  tagfit:
    image: {image}
    build: !reset null
    network_mode: host
    ports: !reset []
    environment:
      OLLAMA_HOST: "http://127.0.0.1:{ollama_port}"
      TAGFIT_PORT: "{port}"
      TAGFIT_ALLOWED_REGISTRIES: "{registry.host}"
"""
    )
    url = f"http://127.0.0.1:{port}"
    project = (
        "--project-name=tagfit-test", f"--file={ROOT}/compose.yaml", f"--file={override}",
    )  # fmt: skip
    try:
        engine.compose(*project, "up", "--detach", "--no-build", "--pull=never")
        wait_until(lambda: answers(url), "it answers", 4 * SLOWEST_START_SECONDS)
        body = {"model": registry.name(TINY), "insecure": True, "stream": False}
        pulled = httpx.post(f"{url}/api/pull", json=body, trust_env=False, timeout=60)
        tags = httpx.get(f"http://127.0.0.1:{ollama_port}/api/tags", trust_env=False).json()
        hardware = httpx.get(f"{url}/hardware", trust_env=False, timeout=30).json()
    finally:
        engine.compose(*project, "down", "--volumes", "--timeout=20")

    assert pulled.json() == {"status": "success"}
    assert [model["name"] for model in tags["models"]] == [registry.name(TINY)]
    assert hardware["details"]["disk"]["models_directory"] == "/ollama/models"
