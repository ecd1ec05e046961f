"""A server that replays LM Studio's REST API v1, in its place.

LM Studio is closed and cannot run here. This is written from its documentation alone, as of
2026-04-14: https://lmstudio.ai/docs/developer/rest/download, …/download-status, …/list,
…/streaming-events (the error object) and https://lmstudio.ai/docs/developer/core/authentication;
the answer to a missing token is as https://github.com/agustif/opencode-lmstudio/issues/41 logged
it of LM Studio 0.4.18. So it shows that tagfit speaks the documented protocol, and nothing else.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DOCUMENTED_MODELS: dict[str, Any] = {
    "models": [
        {
            "type": "llm",
            "publisher": "google",
            "key": "google/gemma-4-26b-a4b",
            "display_name": "Gemma 4 26B A4B",
            "architecture": "gemma4",
            "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
            "size_bytes": 17990911801,
            "params_string": "26B-A4B",
            "loaded_instances": [
                {
                    "id": "google/gemma-4-26b-a4b",
                    "config": {
                        "context_length": 4096,
                        "eval_batch_size": 512,
                        "parallel": 4,
                        "flash_attention": True,
                        "num_experts": 8,
                        "offload_kv_cache_to_gpu": True,
                    },
                }
            ],
            "max_context_length": 262144,
            "format": "gguf",
            "capabilities": {"vision": True, "trained_for_tool_use": True},
            "description": None,
            "variants": ["google/gemma-4-26b-a4b@q4_k_m"],
            "selected_variant": "google/gemma-4-26b-a4b@q4_k_m",
        },
        {
            "type": "embedding",
            "publisher": "gaianet",
            "key": "text-embedding-nomic-embed-text-v1.5-embedding",
            "display_name": "Nomic Embed Text v1.5",
            "quantization": {"name": "F16", "bits_per_weight": 16},
            "size_bytes": 274290560,
            "params_string": None,
            "loaded_instances": [],
            "max_context_length": 2048,
            "format": "gguf",
        },
    ]
}
"""The example of the page on the list of models."""
JOB_ID = "job_493c7c9ded"
TOTAL_BYTES = 2279145003
STARTED_AT = "2025-10-03T15:33:23.496Z"


def job(status: str, **fields: Any) -> dict[str, Any]:
    """A download's state with the fields that the pages give it."""
    return {
        "job_id": JOB_ID,
        "status": status,
        "total_size_bytes": TOTAL_BYTES,
        "started_at": STARTED_AT,
        **fields,
    }


def downloading(downloaded_bytes: int) -> dict[str, Any]:
    """A download that runs."""
    return job(
        "downloading",
        downloaded_bytes=downloaded_bytes,
        bytes_per_second=7834.710743801653,
        estimated_completion="2025-10-07T00:21:47.030Z",
    )


def completed() -> dict[str, Any]:
    """A download that has ended well."""
    return job("completed", downloaded_bytes=TOTAL_BYTES, completed_at="2025-10-03T15:43:12.102Z")


def error(kind: str, message: str, **fields: str) -> dict[str, Any]:
    """The error object."""
    return {"error": {"type": kind, "message": message, **fields}}


class LMStudioServer(ThreadingHTTPServer):
    """Answers a download with the first of ``jobs`` and each question for it with the next.

    The last one is repeated. An answer may be a pair of HTTP status and body.
    """

    daemon_threads = True

    def __init__(self, jobs: list[Any], token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.jobs = jobs
        self.token = token
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, Any]] = []
        """Method, path and body."""
        self.slow_seconds = 0.0
        """Before each answer."""

    def answer(self, method: str, path: str, authorization: str | None) -> tuple[int, Any]:
        """Status and body."""
        if self.token and authorization != f"Bearer {self.token}":
            message = "An LM Studio API token is required to make requests to this server"
            return 401, error("invalid_request", message, code="invalid_api_key")
        if (method, path) == ("GET", "/api/v1/models"):
            return 200, DOCUMENTED_MODELS
        if (method, path) == ("POST", "/api/v1/models/download") or (
            method == "GET" and path == f"/api/v1/models/download/status/{JOB_ID}"
        ):
            found = self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]
            return found if isinstance(found, tuple) else (200, found)
        return 200, {"error": f"Unexpected endpoint or method. ({method} {path})"}

    @property
    def polls(self) -> int:
        """Questions for a job."""
        return sum("/status/" in path for _, path, _ in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a reader may leave."""


class _Answer(BaseHTTPRequestHandler):
    server: LMStudioServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.requests.append((self.command, self.path, json.loads(body) if body else None))
        time.sleep(self.server.slow_seconds)
        status, found = self.server.answer(
            self.command, self.path, self.headers.get("authorization")
        )
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815 - the base class calls it

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


@contextmanager
def lmstudio_server(*jobs: Any, token: str = "") -> Iterator[LMStudioServer]:
    """A server on a free port."""
    server = LMStudioServer(list(jobs) or [completed()], token)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
