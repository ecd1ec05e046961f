"""``/recommend`` holds its contract, and gives what the request allows."""

from typing import Any

import httpx
import pytest

from tagfit.advice.candidates import candidates
from tagfit.advice.jobs import JOBS
from tagfit.advice.recommend import _narrowed
from tagfit.app import create_server_app
from tagfit.settings import Settings
from tests.real.processes import wait_until
from tests.real.serving import served

GPU = {"gpus": [{"name": "RTX 3060", "memory": "12GiB"}], "memory": "32GiB"}


async def ask(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/recommend", json={"hardware": GPU, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_contract(client: httpx.AsyncClient) -> None:
    found = await ask(client, use_case="code", context_length=16384)
    best = found["recommendations"][0]

    assert best["rank"] == 1
    assert best["tag"] == best["estimate"]["model"]["tag"]
    assert best["pull"] == {
        "command": f"ollama pull {best['tag']}",
        "request": {"model": best["tag"]},
    }
    assert best["estimate"]["runtime"]["context_length"] == 16384
    assert best["reasons"]
    assert found["use_case"] == "code"
    assert found["considered"] > sum(found["excluded"].values())


async def test_rank_order_is_score_order(client: httpx.AsyncClient) -> None:
    found = (await ask(client, limit=20))["recommendations"]
    scores = [one["score"] for one in found]

    assert scores == sorted(scores, reverse=True)
    assert [one["rank"] for one in found] == list(range(1, len(found) + 1))


async def test_one_quantization_a_checkpoint(client: httpx.AsyncClient) -> None:
    found = (await ask(client, limit=20))["recommendations"]
    models = [one["estimate"]["model"] for one in found]
    checkpoints = [(m["family"], m["parameters"], m["tag"].rsplit("-", 1)[0]) for m in models]

    assert len(set(checkpoints)) == len(checkpoints)


@pytest.mark.parametrize(
    ("use_case", "capability"),
    [
        ("chat", "chat"),
        ("code", "chat"),
        ("autocomplete", "insert"),
        ("agent", "tools"),
    ],
)
async def test_every_tag_can_do_what_was_asked(
    client: httpx.AsyncClient, use_case: str, capability: str
) -> None:
    found = (await ask(client, use_case=use_case, limit=10))["recommendations"]

    assert found
    for one in found:
        assert capability in one["estimate"]["model"]["capabilities"]


async def test_an_agent_gets_a_long_context(client: httpx.AsyncClient) -> None:
    found = (await ask(client, use_case="agent"))["recommendations"]

    assert {one["estimate"]["runtime"]["context_length"] for one in found} == {32768}


async def test_limits_narrow(client: httpx.AsyncClient) -> None:
    found = await ask(
        client,
        families=["qwen2.5-coder", "codellama"],
        quantizations=["Q4_K_M", "q5_k_m"],
        max_download="6GB",
        require_full_gpu=True,
        min_generation_tokens_per_second=10,
        limit=50,
    )

    assert found["recommendations"]
    for one in found["recommendations"]:
        estimate = one["estimate"]
        assert estimate["model"]["family"] in ("qwen2.5-coder", "codellama")
        assert estimate["model"]["quantization"] in ("Q4_K_M", "Q5_K_M")
        assert estimate["file"]["download_bytes"] <= 6_000_000_000
        assert estimate["fit"]["verdict"] == "gpu"
        assert estimate["speed"]["generation_tokens_per_second"]["expected"] >= 10


async def test_nothing_fits_is_an_answer(client: httpx.AsyncClient) -> None:
    """An empty list, and the nearest miss with what it would need."""
    found = await ask(client, hardware={"memory": "64MiB"})
    miss = found["nearest_miss"]

    assert found["recommendations"] == []
    assert found["excluded"]
    assert miss["needed_bytes"] > miss["available_bytes"]
    assert miss["tag"] in miss["reason"]


async def test_the_best_tag_as_plain_text(client: httpx.AsyncClient) -> None:
    best = (await ask(client))["recommendations"][0]["tag"]
    text = await client.get("/recommend?format=tag&gpu=RTX+3060&vram=12GiB&ram=32GiB")

    assert text.text == best + "\n"
    assert text.headers["content-type"].startswith("text/plain")


async def test_no_tag_as_plain_text_is_a_problem(client: httpx.AsyncClient) -> None:
    answer = await client.get("/recommend?format=tag&ram=64MiB")

    assert answer.status_code == 404
    assert answer.json()["title"] == "Nothing fits"
    assert ".." not in answer.json()["detail"]


async def test_no_tag_as_plain_text_names_the_limits(client: httpx.AsyncClient) -> None:
    answer = await client.get("/recommend?format=tag&ram=8GiB&max_download=1MB")

    assert answer.status_code == 404
    assert "tags: download too large" in answer.json()["detail"]


@pytest.mark.parametrize("rate", ["inf", "nan", "1e309", "1000001", "-1"])
async def test_a_speed_floor_is_a_finite_number(client: httpx.AsyncClient, rate: str) -> None:
    answer = await client.get(f"/recommend?ram=8GiB&min_generation_tokens_per_second={rate}")

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "min_generation_tokens_per_second"


async def test_the_same_question_gets_the_same_bytes(client: httpx.AsyncClient) -> None:
    first, second = [
        await client.get("/recommend?use_case=code&vram=16GiB&ram=32GiB") for _ in range(2)
    ]

    assert first.content == second.content


async def test_every_recommended_tag_is_in_the_library(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/models")).json()["models"]
    names = {tag["name"] for model in listed for tag in model["tags"]}

    for use_case in ("chat", "code", "autocomplete", "agent"):
        for one in (await ask(client, use_case=use_case))["recommendations"]:
            assert one["tag"] in names


async def test_a_model_that_cannot_use_the_cache_type_is_passed_over(
    client: httpx.AsyncClient,
) -> None:
    """Heads of 80 elements are no multiple of q8_0's blocks: llama.cpp refuses that model only."""
    found = await ask(client, kv_cache_type="q8_0", families=["dolphin-phi", "llama2"], limit=20)

    families = {one["estimate"]["model"]["family"] for one in found["recommendations"]}
    assert families == {"llama2"}
    assert any("cannot hold heads of 80" in reason for reason in found["excluded"])


async def test_settings_that_no_model_runs_with_are_a_mistake(client: httpx.AsyncClient) -> None:
    answer = await client.get("/recommend?kv_cache_type=q8_0&flash_attention=off&vram=12GiB")

    assert answer.status_code == 400
    assert "flash attention" in answer.json()["detail"]


EDITOR = [
    {"use_case": "chat", "context_length": 8192},
    {"use_case": "autocomplete", "context_length": 4096},
    {"use_case": "embedding"},
]


async def test_roles_get_a_set_that_fits_together(client: httpx.AsyncClient) -> None:
    found = await ask(client, roles=EDITOR)

    assert found["together"]["fits"]
    assert found["together"]["evicted"] == []
    assert [one["use_case"] for one in found["recommendations"]] == [
        "chat",
        "autocomplete",
        "embedding",
    ]


async def test_a_set_as_plain_text_is_a_tag_a_line(client: httpx.AsyncClient) -> None:
    body = {"hardware": GPU, "roles": EDITOR}
    answer = await client.post("/recommend", json={**body, "format": "tag"})
    found = await client.post("/recommend", json=body)

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    tags = [one["tag"] for one in found.json()["recommendations"]]
    assert answer.text == "".join(f"{tag}\n" for tag in tags)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"roles": EDITOR, "use_case": "code"}, "use_case"),
        ({"roles": EDITOR, "limit": 3}, "limit"),
        ({"roles": EDITOR * 2}, "roles"),
        ({"roles": [{"use_case": "poetry"}]}, "roles[0].use_case"),
        ({"roles": [{}, {"families": ["nope"]}]}, "roles[1].families[0]"),
        ({"roles": [{"limit": 3}]}, "roles[0].limit"),
        ({"roles": [{"kv_cache_type": "q8_0"}, {}]}, "roles[1].kv_cache_type"),
        ({"licences": ["Apache"]}, "licences[0]"),
    ],
)
async def test_a_wrong_field_of_a_role_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await client.post("/recommend", json={"hardware": GPU, **body})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field


async def test_the_same_request_gives_the_same_bytes(client: httpx.AsyncClient) -> None:
    body = {"hardware": GPU, "use_case": "code", "explain": True}
    first = await client.post("/recommend", json=body)
    second = await client.post("/recommend", json=body)

    assert first.content == second.content
    assert first.json()["recommendations"][0]["explanation"]["formula"].startswith("score = ")


def test_what_many_machines_share_is_found_when_the_server_starts() -> None:
    candidates.cache_clear()
    _narrowed.cache_clear()

    with served(create_server_app(Settings())):
        wait_until(lambda: candidates.cache_info().currsize == len(JOBS), "all uses are known", 60)
