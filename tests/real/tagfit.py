"""tagfit itself, in front of a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tagfit.app import create_server_app
from tagfit.settings import Settings
from tests.real.serving import served


@contextmanager
def tagfit_before(daemon_url: str, *registries: str, **fields: Any) -> Iterator[str]:
    """The base URL of a tagfit that lets this daemon pull from these registries.

    Further fields are its settings'.
    """
    settings = Settings(ollama_url=daemon_url, allowed_registries=registries, **fields)
    with served(create_server_app(settings)) as url:
        yield url
