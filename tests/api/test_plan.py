"""``/plan`` and ``/estimate`` never disagree: what a plan names can be posted back."""

import json
from typing import Any

import httpx
import pytest

from tagfit.cli import main


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/plan", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_contract(client: httpx.AsyncClient) -> None:
    found = await ask(
        client,
        model="codellama:13b-instruct-q5_K_M",
        context_length="8k",
        min_generation_tokens_per_second=20,
        min_prefill_tokens_per_second=300,
    )

    assert set(found) == {
        "tag",
        "family",
        "parameters",
        "context_length",
        "context_length_limit",
        "quantizations",
        "basis",
        "library_date",
        "warnings",
    }
    assert found["tag"] == "codellama:13b-instruct-q5_K_M"
    first = found["quantizations"][0]
    assert set(first) == {
        "quantization",
        "tag",
        "download_bytes",
        "retention",
        "gpu",
        "gpu_memory_bytes",
        "cpu",
        "examples",
        "reason",
        "request",
    }
    # 40 layers x 8192 cells x (K + V) x 5120 elements x 2 bytes
    assert first["gpu"]["kv_cache_bytes"] == 40 * 8192 * 2 * 5120 * 2
    assert first["gpu"]["bandwidth_bytes_per_second"] > 0
    assert first["gpu"]["compute_flops"] > 0
    assert first["cpu"]["bandwidth_bytes_per_second"] > 0
    assert "cores" in first["cpu"]


async def test_what_was_not_asked_for_is_not_answered(client: httpx.AsyncClient) -> None:
    found = await ask(client, model="llama3.1:8b", quantizations=["Q4_K_M"])

    (one,) = found["quantizations"]
    assert "bandwidth_bytes_per_second" not in one["gpu"]
    assert "compute_flops" not in one["gpu"]


@pytest.mark.parametrize("model", ["llama3.1:8b", "llama3.2-vision:11b"])
async def test_every_example_can_be_posted_back(client: httpx.AsyncClient, model: str) -> None:
    """It lies wholly on the GPU there, as fast as the plan says and as was asked."""
    found = await ask(
        client,
        model=model,
        quantizations=["Q4_K_M", "Q8_0"],
        context_length=8192,
        min_generation_tokens_per_second=30,
    )

    for one in found["quantizations"]:
        assert len(one["examples"]) >= 5
        for example in one["examples"]:
            body = one["request"] | {"hardware": example["hardware"]}
            answer = await client.post("/estimate", json=body)
            assert answer.status_code == 200, answer.text
            estimate = answer.json()
            assert estimate["model"]["quantization"] == one["quantization"]
            assert estimate["fit"]["verdict"] == example["verdict"]
            assert example["verdict"] == ("cpu" if example["kind"] == "CPU" else "gpu")
            rate = estimate["speed"]["generation_tokens_per_second"]
            assert rate == example["generation_tokens_per_second"]
            assert rate["expected"] >= 30


async def test_query_and_body_ask_the_same(client: httpx.AsyncClient) -> None:
    body = await ask(
        client,
        model="qwen2.5-coder:7b",
        quantizations=["Q4_K_M", "Q8_0"],
        context_length="16k",
        kv_cache_type="q8_0",
        min_generation_tokens_per_second=25.5,
    )
    query = await client.get(
        "/plan?model=qwen2.5-coder:7b&quantizations=Q4_K_M,Q8_0&context_length=16k"
        "&kv_cache_type=q8_0&min_generation_tokens_per_second=25.5"
    )

    assert query.json() == body


async def test_the_impossible_is_an_answer(client: httpx.AsyncClient) -> None:
    found = await ask(client, model="llama3.1:405b", min_generation_tokens_per_second=5000)

    assert all(one["examples"] == [] for one in found["quantizations"])
    assert all("fast enough" in one["reason"] for one in found["quantizations"])


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({}, "model", None),
        ({"model": "llama3.1:8b", "min_generation_tokens_per_second": 0}, None, 0),
        ({"model": "llama3.1:8b", "min_prefill_tokens_per_second": "fast"}, None, "fast"),
        ({"model": "llama3.1:8b", "quantizations": ["Q4"]}, "quantizations[0]", "Q4"),
        ({"model": "llama3.1:8b", "offloaded_layers": 5}, "offloaded_layers", 5),
        ({"model": "llama3.1:8b", "kv_cache_type": "q7"}, "kv_cache_type", "q7"),
        ({"model": "llama3.1:8b", "hardware": {}}, "hardware", {}),
    ],
)
async def test_a_mistake_names_field_and_value(
    client: httpx.AsyncClient, body: dict[str, Any], field: str | None, value: Any
) -> None:
    answer = await client.post("/plan", json=body)

    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert error["field"] == (field or list(body)[-1])
    assert error.get("value") == value


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "0", "1e7"])
async def test_a_rate_is_a_number_above_0(client: httpx.AsyncClient, number: str) -> None:
    answer = await client.get(f"/plan?model=llama3.1:8b&min_generation_tokens_per_second={number}")

    assert answer.status_code == 400


async def test_an_unknown_model_gets_near_names(client: httpx.AsyncClient) -> None:
    answer = await client.get("/plan?model=lama3.1:8b")

    assert answer.status_code == 404
    assert "llama3.1:8b" in answer.json()["suggestions"]


async def test_the_command_line_asks_the_same(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--context-length", "8k", "--min-generation-tokens-per-second", "40"]
    assert main(["plan", "llama3.1:8b", *options, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["plan", "llama3.1:8b", *options]) == 0
    lines = capsys.readouterr().out.splitlines()

    over_http = await ask(
        client, model="llama3.1:8b", context_length="8k", min_generation_tokens_per_second=40
    )
    assert whole == over_http
    for one in over_http["quantizations"]:
        assert any(line.split()[:1] == [one["quantization"]] for line in lines)
    for example in over_http["quantizations"][0]["examples"]:
        assert any(example["name"] in line for line in lines)
