"""Ollama's own library, as the real daemon finds it behind an HTTP proxy.

The daemon goes through HTTP_PROXY where a pull is ``insecure``, so that names without a host, which
mean registry.ollama.ai, end at a registry of the test's. It can also be told to answer as no
registry of this program does: with a status, with a manifest that is broken.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.real.registry import Registry

HOST = "registry.ollama.ai"
PASSED_ON = ("content-type", "content-length", "location", "docker-content-digest")


class Library(ThreadingHTTPServer):
    """An HTTP proxy that knows one host."""

    daemon_threads = True

    def __init__(self, registry: Registry) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.registry = registry
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        """By path: status, headers and body in place of the registry's."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a reader that leaves is no error here."""


class _Answer(BaseHTTPRequestHandler):
    server: Library

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.hostname != HOST:
            self.send_error(502, f"{parts.hostname} is not here")
            return
        status, headers, body = self.server.answers.get(parts.path) or self._ask(parts.path)
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the base class calls it

    def _ask(self, path: str) -> tuple[int, dict[str, str], bytes]:
        answer = httpx.request(
            self.command,
            f"http://{self.server.registry.host}{path}",
            headers={"accept": self.headers.get("accept", "*/*")},
            trust_env=False,
        )
        headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        return answer.status_code, headers, answer.content

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


@contextmanager
def library_of(registry: Registry) -> Iterator[Library]:
    """The proxy, served while the context is open."""
    library = Library(registry)
    thread = threading.Thread(target=library.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield library
    finally:
        library.shutdown()
        library.server_close()
        thread.join()
