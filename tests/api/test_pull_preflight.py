"""Before a pull begins: which tag is meant, whether it fits, and whether there is room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import TINY
from tests.real.daemon import OllamaDaemon
from tests.real.gguf_models import write_llama
from tests.real.library import library_of
from tests.real.processes import free_port
from tests.real.registry import Registry
from tests.real.tagfit import tagfit_before
from tests.scripted_daemon import scripted_daemon

GIB = 1 << 30
SMALL = {"memory": "8GiB"}
WORKSTATION = {"gpus": [{"memory": "12GiB"}], "memory": "32GiB"}
TAGS = ["codellama:7b-instruct-q4_K_M", "codellama:13b-instruct-q4_K_M", "codellama:7b"]


@pytest.fixture(scope="module")
def library(
    published_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, OllamaDaemon]]:
    """tagfit before a daemon to which some tags of Ollama's library are there to be pulled."""
    folder = tmp_path_factory.mktemp("library")
    write_llama(folder / "model.gguf", 300_000)
    for tag in TAGS:
        published_registry.publish(tag, folder / "model.gguf")
    with library_of(published_registry) as proxy:
        daemon = OllamaDaemon(folder, HTTP_PROXY=proxy.url)
        daemon.start()
        try:
            with tagfit_before(daemon.url, "registry.ollama.ai", "hf.co") as url:
                yield url, daemon
        finally:
            daemon.stop()


@pytest.fixture(scope="module")
def alone() -> Iterator[str]:
    """tagfit without a daemon."""
    with tagfit_before(f"http://127.0.0.1:{free_port()}", "registry.ollama.ai", "hf.co") as url:
        yield url


def pull(url: str, **body: Any) -> list[dict[str, Any]]:
    answer = httpx.post(url + "/pull", json={"insecure": True, **body}, timeout=30)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(url: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(url + "/pull", json={"insecure": True, **body}, timeout=30)
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == problem["status"]
    return problem


def preview(url: str, **query: Any) -> dict[str, Any]:
    answer = httpx.get(url + "/pull/preview", params=query, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("body", "pulled"),
    [
        (
            {"model": "codellama:13b-instruct", "quantization": "q4_k_m"},
            "codellama:13b-instruct-q4_K_M",
        ),
        ({"model": " codellama:7b "}, "codellama:7b"),
        ({"name": "codellama:7b"}, "codellama:7b"),
        ({"model": "", "name": "codellama:7b"}, "codellama:7b"),
        ({"model": "library/CodeLlama:7B"}, "codellama:7b"),
    ],
)
def test_the_first_line_says_what_is_pulled(
    library: tuple[str, OllamaDaemon], body: dict[str, Any], pulled: str
) -> None:
    url, daemon = library
    lines = pull(url, hardware=WORKSTATION, **body)

    assert lines[0]["model"] == pulled
    assert lines[0]["status"] == "resolving"
    assert "chosen" not in lines[0]
    assert lines[-1]["status"] == "done"
    assert lines[-1]["total_bytes"] == daemon.installed()[pulled], "the prediction has gone"


def test_the_first_line_says_what_was_chosen_and_its_predicted_size(
    library: tuple[str, OllamaDaemon], registry: Registry, tmp_path: Path
) -> None:
    url, daemon = library
    wish = {"model": "codellama:7b-instruct", "quantization": "auto"}
    expected = preview(url, **wish, vram="12GiB", ram="32GiB")
    write_llama(tmp_path / "model.gguf", 8_000_000)
    registry.publish(expected["model"], tmp_path / "model.gguf")
    registry.blobs.bytes_per_second = 20e6
    lines = pull(url, **wish, hardware=WORKSTATION)

    assert lines[0]["model"] == expected["model"]
    assert lines[0]["chosen"] == expected["chosen"]
    assert lines[0]["total_basis"] == "predicted"
    assert lines[0]["total_bytes"] == expected["download_bytes"] > 2_000_000_000
    assert expected["model"] in daemon.installed()


@pytest.mark.parametrize("body", [{}, {"quantization": "auto"}, {"model": "codellama"}])
def test_without_a_tag_it_is_what_recommend_gives(alone: str, body: dict[str, str]) -> None:
    families = {"families": ["codellama"]} if "model" in body else {}
    asked = {**families, "hardware": WORKSTATION}
    best = httpx.post(alone + "/recommend", json=asked, timeout=30).json()["recommendations"][0]

    found = preview(alone, vram="12GiB", ram="32GiB", **body)
    assert found["model"] == best["tag"]
    assert "best for chat" in found["chosen"]
    assert found["estimate"]["fit"]["verdict"] in ("gpu", "partial")


@pytest.mark.parametrize(
    ("model", "use_case"),
    [("nomic-embed-text", "embedding"), ("codellama:7b-code", "autocomplete")],
)
def test_a_choice_serves_what_the_model_is_for(alone: str, model: str, use_case: str) -> None:
    found = preview(alone, model=model, quantization="auto", vram="12GiB", ram="32GiB")

    assert f"best for {use_case}" in found["chosen"]


def test_a_model_that_does_not_fit_is_409_with_its_estimate_and_what_fits(alone: str) -> None:
    problem = refused(alone, model="codellama:70b", hardware=SMALL)

    assert problem["status"] == 409
    assert problem["title"] == "Does not fit"
    assert problem["estimate"]["fit"]["verdict"] == "none"
    assert problem["estimate"]["memory"]["total_bytes"] == problem["needed_bytes"]
    assert problem["needed_bytes"] > problem["available_bytes"] > 0
    assert problem["suggestions"]
    for tag in problem["suggestions"]:
        answer = httpx.post(
            alone + "/estimate", json={"model": tag, "hardware": SMALL}, timeout=30
        ).json()
        assert answer["fit"]["verdict"] != "none"


def test_force_makes_a_warning_of_it(library: tuple[str, OllamaDaemon]) -> None:
    url, _ = library
    body = {"model": "codellama:13b-instruct-q4_K_M", "hardware": {"memory": "4GiB"}}
    assert refused(url, **body)["status"] == 409

    lines = pull(url, **body, force=True)
    assert "does not fit this machine" in lines[0]["warnings"][0]
    assert "force" not in lines[0]["warnings"][0]
    assert lines[-1]["status"] == "done"


def test_what_fits_partly_is_pulled_with_a_warning(library: tuple[str, OllamaDaemon]) -> None:
    url, _ = library
    hardware = {"gpus": [{"memory": "6GiB"}], "memory": "32GiB"}
    lines = pull(url, model="codellama:13b-instruct-q4_K_M", hardware=hardware)

    assert "fits only partly on the GPU" in lines[0]["warnings"][0]
    assert all("warnings" not in line for line in lines[1:])


def test_a_disk_that_is_too_small_is_507_with_both_numbers(alone: str) -> None:
    hardware = {**WORKSTATION, "disk_free": "1GiB"}
    problem = refused(alone, model="codellama:7b", hardware=hardware)

    assert problem["status"] == 507
    assert problem["available_bytes"] == GIB
    assert problem["needed_bytes"] > 3 * GIB


def test_a_choice_leaves_out_what_the_disk_has_no_room_for(alone: str) -> None:
    problem = refused(alone, hardware={**WORKSTATION, "disk_free": "3GB"}, stream=False)

    assert problem["status"] == 502, "the pre-flight passed, and then there is no daemon"
    assert refused(alone, hardware={**WORKSTATION, "disk_free": 0})["status"] == 507


def test_an_unfinished_download_is_not_asked_for_twice(
    library: tuple[str, OllamaDaemon], tmp_path: Path
) -> None:
    """What lies in parts already is taken up by the pull: it needs no room."""
    _, daemon = library
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ("sha256-" + "0" * 64 + "-partial")).write_bytes(b"x" * 4_000_000)
    body = {"model": "codellama:7b", "hardware": {**WORKSTATION, "disk_free": "1GiB"}}
    with tagfit_before(
        daemon.url, "registry.ollama.ai", models_directory=str(tmp_path / "models")
    ) as url:
        available = refused(url, **body)["available_bytes"]

    assert available == pytest.approx(GIB + 4_000_000, abs=8192)


@pytest.mark.parametrize(
    ("model", "status", "says"),
    [
        ("gemma4:12b-mxfp8", 409, "Apple silicon"),
        ("gemma3:27b-cloud", 409, "Ollama's servers"),
        ("codellama:7b-instruct-q4_K_M", None, None),
        ("hf.co/someone/something:Q4_K_M", None, None),
    ],
)
def test_a_preview_says_what_a_pull_would_meet(
    alone: str, model: str, status: int | None, says: str | None
) -> None:
    found = preview(alone, model=model, vram="12GiB", ram="32GiB")

    assert found["model"] == model
    assert found["chosen"] is None
    assert found["starts"] == (status is None)
    assert (found["problem"] or {}).get("status") == status
    assert (says or "") in (found["problem"] or {}).get("detail", "")
    assert found["installed"] is None, "no daemon answers"
    assert found["daemon_version"] is None
    if model.startswith("codellama"):
        assert found["download_bytes"] == found["estimate"]["file"]["download_bytes"]
        assert found["disk_free_bytes"] is None


def test_mlx_tags_are_pulled_on_apple_silicon(alone: str) -> None:
    found = preview(alone, model="gemma4:12b-mxfp8", gpu="M3 Max")

    assert found["starts"]


def test_a_preview_of_an_unknown_tag_is_404_with_near_names(alone: str) -> None:
    answer = httpx.get(alone + "/pull/preview", params={"model": "codelama:7b-instruct"})

    assert answer.status_code == 404
    assert "codellama:7b-instruct" in answer.json()["suggestions"]


def test_a_preview_of_an_empty_name_is_400(alone: str) -> None:
    answer = httpx.get(alone + "/pull/preview", params={"model": " "})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "model"


@pytest.mark.parametrize("path", ["/pull", "/api/pull"])
def test_an_unknown_tag_comes_with_near_names(library: tuple[str, OllamaDaemon], path: str) -> None:
    url, _ = library
    body = {"model": "codelama:7b-instruct-q4_K_M", "insecure": True}
    answer = httpx.post(url + path, json=body, timeout=30)

    assert answer.status_code == 404
    assert "codellama:7b-instruct-q4_K_M" in answer.json()["suggestions"]
    assert "did you mean codellama:7b-instruct-q4_K_M" in answer.json()["detail"]


def test_a_quantization_that_has_no_tag_is_404_with_those_that_have(alone: str) -> None:
    problem = refused(alone, model="codellama:7b-instruct", quantization="IQ2_XS")

    assert problem["status"] == 404
    assert "codellama:7b-instruct-q4_K_M" in problem["suggestions"]


def test_a_tag_that_the_catalog_lacks_may_exist(
    library: tuple[str, OllamaDaemon], published_registry: Registry, tmp_path: Path
) -> None:
    """The catalog is of one day, so the daemon has the last word."""
    url, _ = library
    assert refused(url, model="codellama:99b-new")["status"] == 404

    write_llama(tmp_path / "model.gguf", 300_000)
    published_registry.publish("codellama:99b-new", tmp_path / "model.gguf")
    lines = pull(url, model="codellama:99b-new")
    assert "nothing is known of its size" in lines[0]["warnings"][0]
    assert lines[-1]["status"] == "done"


def test_what_is_installed_is_told_apart_from_an_older_one_of_the_name(
    library: tuple[str, OllamaDaemon],
) -> None:
    """The tiny file that the test's library has is not the manifest that the catalog knows."""
    url, _ = library
    pull(url, model="codellama:7b", hardware=WORKSTATION)

    assert preview(url, model="codellama:7b")["installed"] is False
    assert preview(url, model="codellama:7b")["daemon_version"] == "0.33.3"
    [row] = [
        row
        for row in httpx.get(url + "/models/installed").json()["models"]
        if row["name"] == "codellama:7b"
    ]
    assert row["tag"] is None
    assert row["size_bytes"] > 300_000
    assert row["loaded"] is False


def test_installed_models_of_a_registry_elsewhere_count_by_name(
    tagfit: str, registry: Registry
) -> None:
    name = registry.name(TINY)
    assert preview(tagfit, model=name)["installed"] is False
    pull(tagfit, model=name)

    assert preview(tagfit, model=name)["installed"] is True


def test_a_daemon_that_is_too_old_is_412() -> None:
    """An old daemon is not at hand, so this one is scripted: it tells a version, nothing else."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 19\r\nconnection: close\r\n\r\n"
    with (
        scripted_daemon([head, b'{"version":"0.5.7"}']) as daemon,
        tagfit_before(daemon.url, "registry.ollama.ai") as url,
    ):
        problem = refused(url, model="gemma3:4b", hardware=WORKSTATION)

    assert problem["status"] == 412
    assert "0.6.0 and later; the daemon is 0.5.7" in problem["detail"]


def test_ollamas_own_format_is_not_looked_over(library: tuple[str, OllamaDaemon]) -> None:
    """A client that is made for Ollama could not say ``force``."""
    url, _ = library
    body = {"model": "codellama:13b-instruct-q4_K_M", "insecure": True, "hardware": SMALL}
    for path, extra in (("/api/pull", {}), ("/pull", {"format": "ollama"})):
        answer = httpx.post(url + path, json={**body, **extra}, timeout=30)
        assert answer.text.endswith('{"status":"success"}\n')


def test_installed_models_need_a_daemon(alone: str) -> None:
    assert httpx.get(alone + "/models/installed").status_code == 502
