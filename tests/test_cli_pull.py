"""``tagfit pull``: the same pre-flight and the same progress in a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tagfit.cli import main, pull_line
from tagfit.pulls.stream import PullUpdate
from tests.conftest import TINY
from tests.real.daemon import OllamaDaemon
from tests.real.processes import free_port
from tests.real.registry import Registry

MACHINE = ["--vram", "12GiB", "--ram", "32GiB"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    # What it sets holds for the whole process; its own test has one.
    monkeypatch.setattr("tagfit.cli.configure_logging", lambda _: None)
    with capture_logs():
        yield


def test_no_log_line_stands_in_the_progress() -> None:
    command = [sys.executable, "-m", "tagfit", "pull", "codellama:7b", *MACHINE]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)

    assert ended.stdout.splitlines() == ["codellama:7b", "resolving", "failed"]
    assert len(ended.stderr.splitlines()) == 1
    assert "No Ollama daemon answers" in ended.stderr


def test_a_pull_ends_with_0(
    daemon: OllamaDaemon,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", daemon.url)
    monkeypatch.setenv("TAGFIT_ALLOWED_REGISTRIES", registry.host)
    monkeypatch.setenv("OLLAMA_MODELS", str(daemon.models))

    assert main(["pull", registry.name(TINY), "--insecure"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == registry.name(TINY)
    assert lines[-1] == "done"
    assert registry.name(TINY) in daemon.installed()

    assert main(["pull", registry.name(TINY), "--insecure", "--json"]) == 0
    updates = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert updates[-1]["status"] == "done"
    assert {update["model"] for update in updates} == {registry.name(TINY)}

    assert main(["pull", registry.name("tiny:q9_Z"), "--insecure"]) == 1
    assert "file does not exist" in capsys.readouterr().err


def test_what_does_not_fit_is_not_pulled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "llama3.1:405b", *MACHINE]) == 1

    assert "does not fit this machine" in capsys.readouterr().err


def test_force_goes_on_to_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    """Which is not there: a sentence and exit status 1."""
    assert main(["pull", "llama3.1:405b", "--force", *MACHINE]) == 1

    said = capsys.readouterr()
    assert "note: llama3.1:405b does not fit this machine" in said.out
    assert "No Ollama daemon answers" in said.err


def test_a_registry_that_is_not_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "evil.example/library/tiny"]) == 1

    assert "evil.example" in capsys.readouterr().err


def test_an_empty_model_is_no_free_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``tagfit pull "$TAG"`` passes it where TAG is not set."""
    assert main(["pull", "", *MACHINE]) == 1

    assert "names no tag" in capsys.readouterr().err


def test_without_a_model_the_best_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", *MACHINE]) == 1

    assert "best for chat" in capsys.readouterr().out.splitlines()[0]


def test_a_line_for_a_person() -> None:
    now = PullUpdate(
        status="downloading",
        model="m",
        total_bytes=8 << 30,
        total_basis="seen",
        completed_bytes=2 << 30,
        bytes_per_second=64 << 20,
        eta_seconds=96,
        layers=(),
    )

    assert pull_line(now) == "downloading  25 % of 8.0 GiB  64.0 MiB/s  1:36 left"
