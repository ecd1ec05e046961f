"""``/pull`` before a server that replays LM Studio's documentation: the same stream as Ollama's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import ollama
import pytest

from tagfit.daemon import lmstudio
from tests.lmstudio_server import (
    TOTAL_BYTES,
    LMStudioServer,
    completed,
    downloading,
    error,
    job,
    lmstudio_server,
)
from tests.real.tagfit import tagfit_before

NAME = "hf.co/bartowski/Qwen_Qwen3-8B-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmstudio, "POLL_SECONDS", 0.05)


@contextmanager
def tagfit_and(*jobs: Any, token: str = "") -> Iterator[tuple[str, LMStudioServer]]:
    """tagfit's base URL and the server behind it."""
    with (
        lmstudio_server(*jobs, token=token) as server,
        tagfit_before(
            "http://127.0.0.1:1",
            "registry.ollama.ai",
            "hf.co",
            "huggingface.co",
            daemon="lmstudio",
            lmstudio_url=server.url,
            lmstudio_token=token,
        ) as url,
    ):
        yield url, server


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, timeout=30, trust_env=False)


def asked(server: LMStudioServer) -> list[dict[str, str]]:
    """The downloads that the server was asked for."""
    return [body for method, _, body in server.requests if method == "POST"]


def test_a_download_is_the_same_stream_as_a_pull() -> None:
    with tagfit_and(job("downloading"), downloading(948), completed(), token="sk-1") as (
        url,
        server,
    ):
        answer = post(url, "/pull", model=NAME)

    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.status_code == 200
    assert lines[-1]["status"] == "done"
    assert lines[-1]["total_bytes"] == lines[-1]["completed_bytes"] == TOTAL_BYTES
    assert asked(server) == [
        {"model": "https://huggingface.co/bartowski/Qwen_Qwen3-8B-GGUF", "quantization": "Q4_K_M"}
    ]


def test_a_tag_of_the_library_is_found_where_lm_studio_has_it() -> None:
    with tagfit_and(completed()) as (url, server):
        answer = post(url, "/pull", model="qwen3:4b-instruct-2507-q4_K_M", force=True)

    assert answer.status_code == 200, answer.text
    assert asked(server) == [
        {
            "model": "https://huggingface.co/lmstudio-community/Qwen3-4B-Instruct-2507-GGUF",
            "quantization": "Q4_K_M",
        }
    ]


def test_the_body_for_lm_studio_is_a_body_for_tagfit() -> None:
    body = {"model": "https://huggingface.co/unsloth/Qwen3-8B-GGUF", "quantization": "Q4_K_M"}
    with tagfit_and(completed()) as (url, server):
        answer = post(url, "/pull", **body)

    assert answer.status_code == 200, answer.text
    assert asked(server) == [body]


def test_a_tag_that_lm_studio_has_nowhere_is_not_found() -> None:
    with tagfit_and() as (url, server):
        answers = [
            post(url, "/pull", model="alfred:40b", force=True),
            post(url, "/api/pull", model="alfred:40b"),
            httpx.get(url + "/pull/preview?model=alfred:40b", trust_env=False, timeout=30),
        ]

    for answer in answers:
        assert answer.status_code == 404
        detail = answer.json()["detail"]
        assert detail.startswith("No repository of Hugging Face is known that holds alfred")
    assert not asked(server)


def test_an_unknown_tag_comes_with_near_names() -> None:
    with tagfit_and() as (url, _):
        for path in ("/pull", "/api/pull"):
            answer = post(url, path, model="codelama:7b")
            assert answer.status_code == 404
            assert "codellama:7b" in answer.json()["suggestions"]
            assert answer.json()["detail"].count("codelama:7b") == 1


def test_what_it_refuses_has_a_status() -> None:
    with tagfit_and((404, error("model_not_found", "No such model"))) as (url, _):
        answer = post(url, "/pull", model="qwen/qwen9-8b")

    assert answer.status_code == 404


def test_ollamas_own_client_follows_a_download() -> None:
    jobs = (job("downloading"), downloading(948), completed())
    with tagfit_and(*jobs) as (url, _), ollama.Client(host=url) as client:
        lines = list(client.pull(NAME, stream=True))

    assert lines[0].status == "pulling manifest"
    assert lines[-1].status == "success"
    assert max(line.completed or 0 for line in lines) == TOTAL_BYTES


def test_installed_models_are_those_of_lm_studio() -> None:
    with tagfit_and() as (url, _):
        models = httpx.get(url + "/models/installed", trust_env=False).json()["models"]

    assert [model["name"] for model in models] == [
        "google/gemma-4-26b-a4b",
        "gaianet/text-embedding-nomic-embed-text-v1.5-embedding",
    ]


def test_the_token_is_told_to_nobody_else() -> None:
    with tagfit_and(token="sk-lm-secret") as (url, _):
        answers = [
            httpx.get(url + path, trust_env=False, timeout=30).text
            for path in ("/hardware", "/models/installed", "/pull/preview?model=qwen/qwen3-8b")
        ]

    assert not any("sk-lm-secret" in text for text in answers)


def test_recommend_gives_lm_studios_names_and_they_can_be_pulled() -> None:
    machine = {"gpus": [{"name": "RTX 4090"}], "memory": "64GiB"}
    body = {"use_case": "code", "limit": 3, "hardware": machine}
    with tagfit_and(completed()) as (url, server):
        found = post(url, "/recommend", **body).json()
        first = found["recommendations"][0]["pull"]
        pulled = post(url, "/pull", **first["request"], hardware=machine)

    assert found["excluded"]["not known where LM Studio finds it"] > 0
    for one in found["recommendations"]:
        request = one["pull"]["request"]
        assert request["model"].startswith("https://huggingface.co/")
        assert one["pull"]["command"] == f"lms get {request['model']}@{request['quantization']}"
    assert pulled.status_code == 200, pulled.text
    assert asked(server) == [first["request"]]


def test_what_a_listed_repository_holds_is_looked_at_before() -> None:
    with tagfit_and() as (url, server):
        answer = post(
            url,
            "/pull",
            model="https://huggingface.co/unsloth/Llama-3.3-70B-Instruct-GGUF",
            quantization="Q4_K_M",
            hardware={"memory": "16GiB"},
        )

    assert answer.status_code == 409
    assert answer.json()["estimate"]["model"]["family"] == "llama3.3"
    assert not asked(server)


def test_auto_takes_what_lm_studio_can_find() -> None:
    with tagfit_and(completed()) as (url, server):
        answer = post(url, "/pull", model="qwen3", hardware={"memory": "64GiB"})

    assert answer.status_code == 200, answer.text
    assert asked(server)[0]["model"].startswith("https://huggingface.co/")
