"""The file server that the registry sends its readers to, where a public registry has a CDN.

Ollama downloads only from another host name than the registry's, by ranges. This one counts what
it sends, and can be slowed down while it sends.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHUNK_BYTES = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class BlobServer(ThreadingHTTPServer):
    """Files below a folder, at ``http://localhost:PORT/``."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Transfer)
        self.folder = folder
        self.url = f"http://localhost:{self.server_port}/"
        self.bytes_per_second: float | None = None
        self.sent_bytes = 0
        self.transfers: set[socket.socket] = set()
        """The connections on which a file is being sent."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def cut(self) -> None:
        """Break off what is being sent."""
        for connection in list(self.transfers):
            with suppress(OSError):  # its reader was faster
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End serving, and what is being sent."""
        self.shutdown()
        self.cut()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a reader that leaves is no error here."""


class _Transfer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BlobServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        content = self._answer()
        self.server.transfers.add(self.connection)
        try:
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = content[start : start + CHUNK_BYTES]
                self.wfile.write(chunk)
                self.server.sent_bytes += len(chunk)
                self._pause(len(chunk))
        finally:
            self.server.transfers.discard(self.connection)

    def _pause(self, sent_bytes: int) -> None:
        """Wait as long as that should take, or until another speed is set."""
        speed = self.server.bytes_per_second
        if speed:
            until = time.monotonic() + sent_bytes / speed
            while self.server.bytes_per_second == speed and (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.05))

    def _answer(self) -> memoryview:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return memoryview(b"")
        content = memoryview(path.read_bytes())
        total = len(content)
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), total - 1)
            content = content[first : last + 1]
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""
