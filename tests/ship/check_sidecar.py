"""The container beside an Ollama that runs models: what is recommended is as large as estimated.

The model is the recommended one to its last tensor, but for its weights, which are zeros: a hole in
the file. TAGFIT_LLAMA_CPP names a folder with llama-server, of the build that Ollama has; ``make
image-test`` builds it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tagfit.catalog.library import load as load_catalog
from tests.oracle.memory_accounts import write_model
from tests.oracle.memory_cases import catalog_subject
from tests.real import programs
from tests.real.daemon import OllamaDaemon
from tests.real.programs import unavailable
from tests.real.registry import Registry
from tests.ship.check_image import beside
from tests.ship.engine import Docker

QUESTIONS = {
    "any": {"hardware": {"memory": "700MiB"}},
    "mixture of experts": {"hardware": {"memory": "1GiB"}, "families": ["granite3.1-moe"]},
    "embedding": {"hardware": {"memory": "700MiB"}, "use_case": "embedding"},
}
"""Machines so small that the recommended model is small enough for a test."""
LARGEST_ERROR = 0.03
"""Ollama adds up llama-server's log by component, backend and kind (llm/llama_server.go:2729), so
that of the two KV caches of a model with sliding windows only the last is counted."""


@pytest.fixture
def running_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaDaemon]:
    """A daemon that finds llama-server where Ollama's own installation has it."""
    tools = Path(os.environ.get("TAGFIT_LLAMA_CPP", ""))
    if not (tools / "llama-server").is_file():
        unavailable(
            "TAGFIT_LLAMA_CPP names no folder with llama-server; make image-test builds one, with a"
            " C++ compiler"
        )
    libraries = tmp_path / "lib" / "ollama"
    libraries.mkdir(parents=True)
    shutil.copy(tools / "llama-server", libraries)
    program = Path(shutil.copy(programs.ollama(), tmp_path / "ollama"))
    monkeypatch.setattr(programs, "ollama", lambda: program)
    daemon = OllamaDaemon(tmp_path / "home")
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_what_is_recommended_is_pulled_and_loaded_in_the_memory_that_was_estimated(
    question: dict[str, Any],
    engine: Docker,
    image: str,
    running_daemon: OllamaDaemon,
    registry: Registry,
    tmp_path: Path,
) -> None:
    asked = {"context_length": 2048, "limit": 1} | question
    with (
        beside(engine, image, running_daemon, registry) as (_, url),
        httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
    ):
        (best,) = client.post("/recommend", json=asked).json()["recommendations"]
        publish(best["tag"], registry, tmp_path)
        name = registry.name(best["tag"])
        body = {"model": name, "insecure": True, "stream": False}
        pulled = client.post("/api/pull", json=body).json()

    # Asked to embed nothing, Ollama loads a model of any kind (server/routes.go:858).
    load = {"model": name, "options": {"num_ctx": asked["context_length"]}}
    with httpx.Client(base_url=running_daemon.url, trust_env=False, timeout=120) as ollama:
        loaded = ollama.post("/api/embed", json=load)
        (seen,) = ollama.get("/api/ps").json()["models"]

    assert pulled == {"status": "success"}
    assert name in running_daemon.installed()
    assert loaded.is_success, loaded.text
    estimated = best["estimate"]["memory"]["total_bytes"]
    assert seen["size"] == pytest.approx(estimated, rel=LARGEST_ERROR)


def publish(tag: str, registry: Registry, folder: Path) -> None:
    """The tag as the catalog has it."""
    (model, quantization) = next(
        (model, one.quantization)
        for model in load_catalog().models
        for one in model.tags
        if tag in (one.name, *one.aliases)
    )
    write_model(folder / "model.gguf", catalog_subject(model, quantization or ""))
    registry.publish(tag, folder / "model.gguf")
