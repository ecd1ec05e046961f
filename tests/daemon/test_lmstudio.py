"""The client of LM Studio: against a server that replays its documentation (lmstudio_server.py)."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tagfit.catalog.library import load
from tagfit.catalog.lmstudio_names import name_of
from tagfit.daemon import lmstudio
from tagfit.daemon.client import Daemon, InstalledModel, LoadedModel, PullLine
from tagfit.daemon.lmstudio import LMStudio, parse_url
from tagfit.daemon.lmstudio_errors import LMSTUDIO_ERRORS, problem_of
from tagfit.problems import (
    DaemonError,
    DaemonTooOld,
    DaemonUnreachable,
    DiskFull,
    InvalidRequest,
    Problem,
    RegistryForbids,
    Stalled,
    UnknownModel,
)
from tagfit.pulls.shared import Key, Pulls
from tests.lmstudio_server import (
    JOB_ID,
    TOTAL_BYTES,
    LMStudioServer,
    completed,
    downloading,
    error,
    job,
    lmstudio_server,
)
from tests.real.processes import free_port

NAME = "hf.co/bartowski/Qwen_Qwen3-8B-GGUF:Q4_K_M"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmstudio, "POLL_SECONDS", 0.01)


def client(url: str, token: str = "") -> LMStudio:
    return LMStudio(url, token, lambda name: name_of(load(), name).request)


async def lines_of(server: LMStudioServer, name: str = NAME) -> list[PullLine]:
    async with client(server.url) as daemon, aclosing(await daemon.pull(name)) as download:
        return [line async for line in download]


async def test_the_client_is_what_the_rest_of_tagfit_asks_of_a_daemon() -> None:
    with lmstudio_server() as server:
        async with client(server.url) as lm_studio:
            daemon: Daemon = lm_studio  # the type checker's test

            assert daemon.title == "LM Studio"
            assert await daemon.version() == "", "its API tells none"
            assert await daemon.landed_bytes("sha256:0") is None
            assert await daemon.unfinished_bytes() == 0


async def test_a_closed_client_may_be_used_again() -> None:
    """An application can be shut down and started again."""
    with lmstudio_server(token="sk-1") as server:
        async with client(server.url, "sk-1") as daemon:
            await daemon.aclose()

            assert await daemon.installed()


async def test_a_download_is_told_in_ollamas_words() -> None:
    with lmstudio_server(job("downloading"), downloading(948), completed()) as server:
        lines = await lines_of(server)

    said = [line.progress for line in lines]
    assert said[0].status == "pulling manifest"
    assert [(line.completed_bytes, line.total_bytes) for line in said[1:4]] == [
        (0, TOTAL_BYTES),
        (948, TOTAL_BYTES),
        (TOTAL_BYTES, TOTAL_BYTES),
    ]
    assert said[4].status == "success"
    assert len(said) == 5


async def test_the_one_layer_has_a_digest_that_ollamas_clients_can_cut() -> None:
    """``ollama pull`` shows its characters 7 to 19 (cmd/cmd.go)."""
    with lmstudio_server(downloading(948), completed()) as server:
        digests = {line.progress.digest for line in await lines_of(server)} - {""}

    [digest] = digests
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)


async def test_a_line_says_what_its_json_says() -> None:
    with lmstudio_server(downloading(948), completed()) as server:
        for line in await lines_of(server):
            assert msgspec.json.decode(line.text, type=type(line.progress)) == line.progress
            assert b"null" not in line.text


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            NAME,
            {
                "model": "https://huggingface.co/bartowski/Qwen_Qwen3-8B-GGUF",
                "quantization": "Q4_K_M",
            },
        ),
        ("openai/gpt-oss-20b", {"model": "openai/gpt-oss-20b"}),
        (
            "gpt-oss:20b",
            {
                "model": "https://huggingface.co/lmstudio-community/gpt-oss-20b-GGUF",
                "quantization": "MXFP4",
            },
        ),
    ],
)
async def test_the_request_has_the_documented_form(name: str, body: dict[str, str]) -> None:
    with lmstudio_server(completed()) as server:
        await lines_of(server, name)

    assert server.requests[0] == ("POST", "/api/v1/models/download", body)


async def test_what_is_there_already_is_a_success_at_once() -> None:
    with lmstudio_server({"status": "already_downloaded"}) as server:
        said = [line.progress.status for line in await lines_of(server)]

    assert said == ["pulling manifest", "success"]
    assert server.polls == 0


async def test_a_size_may_come_later_and_stays() -> None:
    unsized = {"job_id": JOB_ID, "status": "downloading"}
    with lmstudio_server(unsized, downloading(948), unsized, completed()) as server:
        said = [line.progress for line in await lines_of(server)]

    assert said[1].status.startswith("pulling https://huggingface.co/")
    assert [line.completed_bytes for line in said[2:5]] == [948, 948, TOTAL_BYTES]


async def test_a_paused_download_is_followed_on() -> None:
    with lmstudio_server(job("paused"), job("paused"), completed()) as server:
        said = [line.progress.status for line in await lines_of(server)]

    assert said[-1] == "success"


@pytest.mark.parametrize(
    ("failed", "problem", "says"),
    [
        (job("failed"), DaemonError, "not why"),
        (job("failed", error="ENOSPC: no space left on device"), DiskFull, "ENOSPC"),
    ],
)
async def test_a_failed_download_ends_with_an_error_line(
    failed: dict[str, Any], problem: type[Problem], says: str
) -> None:
    with lmstudio_server(downloading(948), failed) as server:
        last = (await lines_of(server))[-1]

    assert isinstance(last.problem, problem)
    assert says in last.progress.error == last.problem.detail


@pytest.mark.parametrize(
    ("answer", "problem", "says"),
    [
        ((404, error("model_not_found", "No such model")), UnknownModel, "No such model"),
        ((400, error("invalid_request", '"model" is required')), InvalidRequest, "required"),
        ((500, error("internal_error", "it broke")), DaemonError, "it broke"),
        ((404, {"error": "Unexpected endpoint or method. (POST /x)"}), DaemonTooOld, "0.4.0"),
        ((200, {"error": "Unexpected endpoint or method. (POST /x)"}), DaemonTooOld, "0.4.0"),
        ((403, error("invalid_request", "not permitted")), DaemonError, "TAGFIT_LMSTUDIO_TOKEN"),
        ((502, b"<html>nginx</html>"), DaemonError, "answered 502"),
        ((200, b"<html>"), DaemonError, "cannot read"),
        ((200, {"status": "dancing"}), DaemonError, "cannot read"),
        ((200, {"status": "downloading"}), DaemonError, "without a job_id"),
    ],
)
async def test_a_refusal_is_a_problem_before_the_first_line(
    answer: tuple[int, Any], problem: type[Problem], says: str
) -> None:
    with lmstudio_server(answer) as server:
        async with client(server.url) as daemon:
            with pytest.raises(problem, match=says):
                await daemon.pull(NAME)


@pytest.mark.parametrize("name", ["hf.co/a/b:Q4_K_M", "gemma3:12b-it-q4_K_M"])
async def test_plain_http_cannot_be_asked_for(name: str) -> None:
    with lmstudio_server() as server:
        async with client(server.url) as daemon:
            with pytest.raises(InvalidRequest, match="HTTPS"):
                await daemon.pull(name, insecure=True)
    assert not server.requests


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gemma3:999b", UnknownModel),
        ("alfred:40b", UnknownModel),
        ("a b", InvalidRequest),
        ("registry.example.com/a/b", UnknownModel),
    ],
)
async def test_a_name_that_lm_studio_has_none_for_is_not_asked_for(
    name: str, problem: type[Problem]
) -> None:
    with lmstudio_server() as server:
        async with client(server.url) as daemon:
            with pytest.raises(problem):
                await daemon.pull(name)
    assert not server.requests


async def test_the_token_goes_with_every_request() -> None:
    with lmstudio_server(downloading(948), completed(), token="sk-lm-1") as server:
        async with client(server.url, "sk-lm-1") as daemon:
            assert await daemon.installed()
            async with aclosing(await daemon.pull(NAME)) as download:
                last = [line async for line in download][-1]
        async with client(server.url) as stranger:
            with pytest.raises(DaemonError, match="TAGFIT_LMSTUDIO_TOKEN") as refused:
                await stranger.installed()

    assert last.progress.status == "success"
    assert "sk-lm-1" not in refused.value.detail


async def test_installed_and_loaded_models() -> None:
    with lmstudio_server() as server:
        async with client(server.url) as daemon:
            installed = await daemon.installed()
            loaded = await daemon.loaded()

    assert installed[0] == InstalledModel(
        name="google/gemma-4-26b-a4b",
        size_bytes=17990911801,
        family="gemma4",
        parameter_size="26B-A4B",
        quantization="Q4_K_M",
    )
    assert installed[1].name == "gaianet/text-embedding-nomic-embed-text-v1.5-embedding"
    assert loaded == (
        LoadedModel(name="google/gemma-4-26b-a4b", size_bytes=17990911801, context_length=4096),
    )


async def test_a_server_that_is_down() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with client(url) as daemon:
        for call in (daemon.version, daemon.installed, daemon.loaded, lambda: daemon.pull(NAME)):
            with pytest.raises(DaemonUnreachable, match=url):
                await call()


async def test_a_server_that_goes_away_ends_the_pull() -> None:
    with lmstudio_server(downloading(948)) as server:
        daemon = client(server.url)
        download = await daemon.pull(NAME)
        assert (await anext(download)).progress.status == "pulling manifest"
    with pytest.raises(DaemonUnreachable, match="No LM Studio server answers"):
        async for _ in download:
            pass
    await daemon.aclose()


async def test_a_few_lost_answers_do_not_end_a_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    with lmstudio_server(downloading(948), completed()) as server:
        async with client(server.url) as daemon, aclosing(await daemon.pull(NAME)) as download:
            ask, lost = daemon._state, iter([True] * (lmstudio.LOST_POLLS - 1))

            async def losing(job_id: str) -> Any:
                if next(lost, False):
                    raise DaemonUnreachable("lost")
                return await ask(job_id)

            monkeypatch.setattr(download, "_ask", losing)
            last = [line async for line in download][-1]

    assert last.progress.status == "success"


async def test_a_server_that_was_restarted_has_forgotten_the_job() -> None:
    forgotten = (404, error("job_not_found", "Job not found"))
    with lmstudio_server(downloading(948), forgotten) as server:
        async with client(server.url) as daemon, aclosing(await daemon.pull(NAME)) as download:
            with pytest.raises(DaemonError, match="no longer knows"):
                async for _ in download:
                    pass


async def test_closing_ends_the_questions_and_says_that_the_download_goes_on() -> None:
    with lmstudio_server(downloading(948)) as server, capture_logs() as logs:
        async with client(server.url) as daemon:
            download = await daemon.pull(NAME)
            for _ in range(2):
                await anext(download)
            waiting = asyncio.create_task(anext(download))
            await asyncio.sleep(0)
            await download.aclose()
            await asyncio.wait([waiting])
            asked = server.polls
            await asyncio.sleep(0.05)

    assert server.polls == asked
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == [
        "LM Studio downloads on though nobody follows; pause or cancel it there"
    ]


async def test_closing_after_the_end_says_nothing() -> None:
    with lmstudio_server(downloading(948), completed()) as server, capture_logs() as logs:
        await lines_of(server)

    assert not logs


async def test_a_pull_is_shared_and_added_up_as_one_of_ollama() -> None:
    with lmstudio_server(job("downloading"), downloading(948), completed()) as server:
        pulls = Pulls(client(server.url))
        follower = pulls.follow(Key(NAME))
        await follower.decide()
        states = [msgspec.json.decode(state) async for state in follower.states()]
        follower.leave()
        await pulls.aclose()
        await pulls.daemon.aclose()

    assert states[-1]["status"] == "done"
    assert states[-1]["completed_bytes"] == states[-1]["total_bytes"] == TOTAL_BYTES


async def test_a_pull_that_stays_paused_stalls() -> None:
    with lmstudio_server(job("paused")) as server:
        pulls = Pulls(client(server.url), stall_seconds=0.3)
        follower = pulls.follow(Key(NAME))
        with pytest.raises(Stalled):
            await follower.end()
        await pulls.aclose()
        await pulls.daemon.aclose()


@pytest.mark.parametrize("row", LMSTUDIO_ERRORS, ids=lambda row: row.pattern)
def test_every_row_of_the_table_has_an_example_that_it_is_found_by(row: Any) -> None:
    found = problem_of(row.example)

    assert type(found) is row.problem
    assert row.example.rstrip(".") in found.detail


def test_an_unknown_text_goes_by_its_documented_type() -> None:
    assert isinstance(problem_of("?", "model_not_found"), UnknownModel)
    assert isinstance(problem_of("?", "invalid_request"), InvalidRequest)
    assert type(problem_of("?", "plugin_connection_error")) is DaemonError
    assert isinstance(problem_of("Api error with status 403", "unknown"), RegistryForbids)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234"),
        (" https://lm.example.com/base/ ", "https://lm.example.com/base"),
    ],
)
def test_a_url_of_the_server(text: str, url: str) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:1234",
        "tcp://a",
        "http://",
        "http://a:b@c",
        "http://a/?b",
        "http://[",
        "http://a:70000",
    ],
)
def test_a_url_that_cannot_be_called_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|out of range"):
        parse_url(text)


@given(st.text())
def test_any_text_is_a_callable_url_or_refused(text: str) -> None:
    for candidate in (text, f"http://{text}"):
        try:
            url = httpx.URL(parse_url(candidate))
        except ValueError:
            continue
        assert url.host
        assert not url.userinfo
