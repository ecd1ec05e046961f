"""What a registry can do wrong, in the real daemon's words, and the problem that becomes of it.

The registry is scripted, since no real one can be brought to most of this; the daemon is real, so
that the table of its errors is held against what it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.real.daemon import OllamaDaemon
from tests.real.library import Library, library_of
from tests.real.registry import MANIFEST_TYPE, Registry
from tests.real.tagfit import tagfit_before

MANIFEST = "/v2/library/codellama/manifests/7b"
BLOBS = "/v2/library/codellama/blobs/"
ONE, TWO, THREE = (f"sha256:{str(digit) * 64}" for digit in (1, 2, 3))
"""The daemon keeps what it has begun of a layer, so each case has its own."""
Answers = dict[str, tuple[int, dict[str, str], bytes]]


def manifest(digest: str, size: int = 5, media_type: str = "model") -> Answers:
    layer = {
        "mediaType": f"application/vnd.ollama.image.{media_type}",
        "digest": digest,
        "size": size,
    }
    content = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [layer]}
    return {MANIFEST: (200, {"content-type": MANIFEST_TYPE}, json.dumps(content).encode())}


REFUSALS: dict[str, tuple[Answers, int, str]] = {
    "too old": (
        {MANIFEST: (412, {}, b"\n\nThe model requires a newer version of Ollama.\n")},
        412,
        "Update the daemon",
    ),
    "denied": ({MANIFEST: (403, {}, b'{"errors":[{"code":"DENIED"}]}')}, 403, "DENIED"),
    "unauthorized": (
        {
            MANIFEST: (
                401,
                {"www-authenticate": 'Bearer realm="http://registry.ollama.ai/token",scope="x"'},
                b"",
            ),
            "/token": (401, {}, b"who are you"),
        },
        401,
        "sign in",
    ),
    "another host's sign-in": (
        {MANIFEST: (401, {"www-authenticate": 'Bearer realm="http://evil.example/t"'}, b"")},
        502,
        "realm host",
    ),
    "broken inside": ({MANIFEST: (503, {}, b"upstream unavailable")}, 502, "503"),
    "too many requests": ({MANIFEST: (429, {}, b"slow down")}, 502, "429"),
    "no such tag": ({MANIFEST: (404, {}, b"")}, 404, "There is no tag codellama:7b"),
    "no such quantization": (
        {MANIFEST: (400, {}, b"The specified tag is not a valid quantization scheme.")},
        404,
        "There is no tag codellama:7b",
    ),
    "sharded": (
        {MANIFEST: (400, {}, b'{"error":"The specified tag is a sharded GGUF."}')},
        409,
        "another quantization",
    ),
    "no registry": ({MANIFEST: (200, {}, b"<html>")}, 502, "What answers is no registry"),
    "empty manifest": ({MANIFEST: (200, {}, b"")}, 502, "JSON"),
    "empty digest": (manifest(""), 502, "The manifest is broken"),
    "no digest": (manifest("sha256:../../../etc/passwd"), 502, "The manifest is broken"),
    "missing layer": (
        {**manifest(ONE), BLOBS + ONE: (404, {}, b"")},
        502,
        "not every layer",
    ),
    "no redirect": (
        {**manifest(TWO), BLOBS + TWO: (200, {}, b"12345")},
        502,
        "Location",
    ),
    "strange status": (
        {**manifest(THREE), BLOBS + THREE: (302, {}, b"")},
        502,
        "Ollama reported",
    ),
    "made for MLX": (manifest(ONE, media_type="tensor"), 409, "MLX"),
}


@pytest.fixture(scope="module")
def library(published_registry: Registry) -> Iterator[Library]:
    with library_of(published_registry) as library:
        yield library


@pytest.fixture(scope="module")
def url(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    daemon = OllamaDaemon(tmp_path_factory.mktemp("ollama"), HTTP_PROXY=library.url)
    daemon.start()
    try:
        with tagfit_before(daemon.url, "registry.ollama.ai") as url:
            yield url
    finally:
        daemon.stop()


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("path", ["/pull", "/api/pull"])
def test_a_registry_s_failure_is_a_problem_with_a_status(
    library: Library, url: str, case: str, path: str
) -> None:
    library.answers, status, says = REFUSALS[case]
    body = {"model": "codellama:7b", "insecure": True}
    if path == "/pull":
        body["force"] = True  # whatever the machine of this test can run
    answer = httpx.post(url + path, json=body, timeout=30, trust_env=False)
    problem = answer.json()

    assert answer.status_code == problem["status"] == status, problem
    assert says in problem["detail"]
    assert problem["error"] == problem["detail"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
