"""The real Ollama daemon, with a models folder of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx

from tests.real import programs
from tests.real.processes import Server, free_port


class OllamaDaemon(Server):
    """A daemon on a loopback port, seen directly and not through tagfit."""

    def __init__(self, folder: Path, **variables: str) -> None:
        """Further variables are its environment's."""
        self.binary = programs.ollama()
        self.port = free_port()
        self.models = folder / "models"
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.models),
            "OLLAMA_NO_CLOUD": "1",
            **variables,
        }
        super().__init__(
            [self.binary, "serve"],
            self.environment,
            f"http://127.0.0.1:{self.port}",
            folder / "daemon.log",
        )

    def installed(self) -> dict[str, int]:
        """The installed models and their sizes in bytes."""
        rows = self._call("GET", "/api/tags").json()["models"]
        return {row["name"]: row["size"] for row in rows}

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        response = httpx.request(method, self.url + path, timeout=60, trust_env=False, **content)
        assert response.is_success, response.text
        return response
