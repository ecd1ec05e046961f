"""Fixtures of the real parts: daemon, registry, and tagfit behind a real HTTP server."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.real.daemon import OllamaDaemon
from tests.real.gguf_models import write_llama
from tests.real.registry import Registry
from tests.real.tagfit import tagfit_before

if os.environ.get("CI") == "true":
    hypothesis.settings.register_profile("ci", derandomize=True)
    hypothesis.settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """What was imported stays: looking through it again stops a test that watches the clock."""
    gc.collect()
    gc.freeze()


TINY = "tiny:f16"
"""Pulled before the daemon reports any progress."""
LARGE = "large:f16"
"""Seconds of progress once the blob server is slowed down."""


@pytest.fixture(scope="session")
def published_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(folder)
    registry.start()
    try:
        for tag, tensor_bytes in ((TINY, 500_000), (LARGE, 32_000_000)):
            write_llama(folder / "model.gguf", tensor_bytes)
            registry.publish(tag, folder / "model.gguf")
        yield registry
    finally:
        registry.stop()


@pytest.fixture
def registry(published_registry: Registry) -> Iterator[Registry]:
    """A registry that holds TINY and LARGE, at full speed; a test may slow it down."""
    yield published_registry
    published_registry.blobs.bytes_per_second = None


@pytest.fixture(scope="module")
def standing_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaDaemon]:
    """A daemon for all tests of a module that leave nothing in it."""
    daemon = OllamaDaemon(tmp_path_factory.mktemp("ollama"))
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def standing_tagfit(standing_daemon: OllamaDaemon, published_registry: Registry) -> Iterator[str]:
    """tagfit in front of it."""
    with tagfit_before(standing_daemon.url, published_registry.host) as url:
        yield url


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaDaemon]:
    """A running Ollama daemon without any model."""
    daemon = OllamaDaemon(tmp_path_factory.mktemp("ollama"))
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture
def tagfit(
    daemon: OllamaDaemon, registry: Registry, caplog: pytest.LogCaptureFixture
) -> Iterator[str]:
    """The base URL of tagfit in front of the daemon, which may pull from the registry."""
    with tagfit_before(daemon.url, registry.host) as url:
        yield url
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors, "the server logged no error"
