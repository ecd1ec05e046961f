"""Bad input gets a 4xx problem that names the field, the value and what is allowed."""

from typing import Any

import httpx
import pytest

JSON = {"content-type": "application/json"}
GPU = {"gpus": [{"memory": "12GiB"}], "memory": "32GiB"}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert answer.status_code == status, body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["error"] == body["detail"]
    assert body["type"].startswith("urn:tagfit:problem:")
    return body


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({}, "model", "required"),
        ({"model": 7}, "model", "expected `str`"),
        ({"model": ""}, "model", "length >= 1"),
        ({"model": "bad name!"}, "model", "no valid"),
        ({"model": "codellama:7b", "context": 1}, "context", "no such field"),
        ({"model": "codellama:7b", "contxt_length": 1}, "contxt_length", "'context_length'"),
        ({"model": "codellama:7b", "context_length": -1}, "context_length", "at least 1"),
        ({"model": "codellama:7b", "context_length": "lots"}, "context_length", "16k"),
        ({"model": "codellama:7b", "context_length": 1.5}, "context_length", "number"),
        ({"model": "codellama:7b", "parallel": 0}, "parallel", ">= 1"),
        ({"model": "codellama:7b", "kv_cache_type": "q3"}, "kv_cache_type", "q8_0"),
        ({"model": "codellama:7b", "flash_attention": True}, "flash_attention", "auto"),
        ({"model": "codellama:7b", "quantization": "Q9_K"}, "quantization", "file type"),
        ({"model": "codellama:7b", "mixture": "mine"}, "mixture", "llama.cpp-2023"),
        (
            {"model": "codellama:7b", "kv_cache_type": "q8_0", "flash_attention": "off"},
            "kv_cache_type",
            "flash attention",
        ),
        (
            {"model": "codellama:7b", "hardware": {"gpus": [{"memory": 12}]}},
            "hardware.gpus[0].memory",
            "GiB",
        ),
        (
            {"model": "codellama:7b", "hardware": {"gpus": [{"memory": "-1GiB"}]}},
            "hardware.gpus[0].memory",
            "size",
        ),
        ({"model": "codellama:7b", "hardware": {"gpus": [{}]}}, "hardware.gpus[0]", "memory"),
        (
            {"model": "codellama:7b", "hardware": {"gpus": [{"name": "RTX 9999 Ultra"}]}},
            "hardware.gpus[0].name",
            "memory too",
        ),
        (
            {"model": "codellama:7b", "hardware": {"gpus": [{"memory": "8GiB", "count": 0}]}},
            "hardware.gpus[0].count",
            ">= 1",
        ),
        (
            {"model": "codellama:7b", "hardware": {"gpus": [{"memory": "8GiB", "speed": 1}]}},
            "hardware.gpus[0].speed",
            "no such field",
        ),
        (
            {
                "model": "codellama:7b",
                "hardware": {"gpus": [{"memory": "8GiB", "free_memory": "9GiB"}]},
            },
            "hardware.gpus[0].free_memory",
            "more than",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
async def test_a_wrong_field_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], field: str, said: str
) -> None:
    found = problem(await client.post("/estimate", json=body), 400)

    assert found["errors"][0]["field"] == field
    assert said in found["detail"]
    assert field in found["detail"]


async def test_the_value_and_what_is_allowed_are_told(client: httpx.AsyncClient) -> None:
    body = {"model": "codellama:7b", "hardware": GPU, "kv_cache_type": "q3"}
    error = problem(await client.post("/estimate", json=body), 400)["errors"][0]

    assert error["value"] == "q3"
    assert "q8_0" in error["allowed"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("use_case=poetry", "use_case"),
        ("vram=12", "vram"),
        ("vram=12GiB&gpu=RTX+3060&gpu=RTX+3090&vram=1GiB&vram=2GiB", "vram"),
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("use_cse=chat", "use_cse"),
        ("use_case=chat&use_case=code", "use_case"),
        ("families=nosuchfamily", "families[0]"),
        ("quantizations=Q4_K_M,Q9", "quantizations[1]"),
        ("gpu=Voodoo+5", "gpu"),
        ("require_full_gpu=perhaps", "require_full_gpu"),
        ("max_download=10", "max_download"),
        ("families=", "families"),
        ("gpu=RTX+3060,", "gpu"),
    ],
)
async def test_a_wrong_query_parameter_is_named(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    found = problem(await client.get(f"/recommend?{query}"), 400)

    assert found["errors"][0]["field"].startswith(field)


@pytest.mark.parametrize(
    "body", [b"{bro", b"{'model': 1}", b"\xff\xfe", b"[" * 5000, b"[]", b"null", b'"x"', b"1"]
)
async def test_a_body_that_is_no_json_object_is_refused(
    client: httpx.AsyncClient, body: bytes
) -> None:
    found = problem(await client.post("/estimate", content=body, headers=JSON), 400)

    assert "body" in found["detail"]


async def test_an_empty_body_asks_nothing(client: httpx.AsyncClient) -> None:
    """POST /recommend without a body is the question without conditions."""
    assert (await client.post("/recommend", headers=JSON)).status_code == 200


async def test_a_large_body_is_refused_before_it_is_read(client: httpx.AsyncClient) -> None:
    body = b'{"model":"' + b"x" * 10_000_000 + b'"}'

    problem(await client.post("/estimate", content=body, headers=JSON), 413)


async def test_wrong_method_and_path(client: httpx.AsyncClient) -> None:
    refused = await client.delete("/estimate")

    assert problem(refused, 405)["title"] == "Method not allowed"
    assert "POST" in refused.headers["allow"]
    assert "/schema" in problem(await client.get("/estimates"), 404)["detail"]


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("codelama:13b", "codellama:13b"),
        ("codellama:14b", "codellama:13b"),
        ("qwen2.5-coder:7b-instruct-q4_K_N", "qwen2.5-coder:7b-instruct-q4_K_M"),
    ],
)
async def test_an_unknown_model_gets_near_names(
    client: httpx.AsyncClient, model: str, near: str
) -> None:
    for answer in (
        await client.post("/estimate", json={"model": model}),
        await client.get(f"/models/{model}"),
    ):
        found = problem(answer, 404)

        assert near in found["suggestions"]
        assert near in found["detail"]


async def test_a_wrong_cache_type_of_the_daemon_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/estimate",
        json={
            "model": "codellama:7b",
            "hardware": {"memory": "16GiB", "ollama": {"OLLAMA_KV_CACHE_TYPE": "q9"}},
        },
    )

    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["field"] == "hardware.ollama.OLLAMA_KV_CACHE_TYPE"
    assert error["value"] == "q9"
    assert "q8_0" in error["allowed"]


async def test_a_number_that_overflows_is_unset_as_for_ollama(client: httpx.AsyncClient) -> None:
    contexts = []
    for environment in ({}, {"OLLAMA_CONTEXT_LENGTH": "99999999999999999999"}):
        answer = await client.post(
            "/estimate",
            json={
                "model": "codellama:7b",
                "hardware": {"memory": "16GiB", "ollama": environment},
            },
        )
        contexts.append(answer.json()["runtime"]["context_length"])

    assert contexts[0] == contexts[1] == 4096
