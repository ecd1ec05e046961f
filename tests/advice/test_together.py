"""Models beside each other, by the rules of Ollama's scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from tagfit.advice.answers import Estimate, TogetherAnswer
from tagfit.advice.estimate import EstimateRequest, LoadedModel, read_subject
from tagfit.advice.full_estimate import full_estimate
from tagfit.catalog.library import load
from tagfit.problems import InvalidRequest, UnknownModel
from tagfit.units import Tokens
from tests.advice.test_steps import machine

CATALOG = load()
EDITOR = ("nomic-embed-text", "qwen2.5-coder:1.5b")


def ask(*vram: float, ollama: dict[str, str] | None = None, **request: Any) -> Estimate:
    asked = EstimateRequest(**{"context_length": Tokens(8192), **request})
    on = machine(*vram, ollama=ollama or {})
    return full_estimate(CATALOG, read_subject(CATALOG, asked), asked, on)


def beside(found: Estimate) -> TogetherAnswer:
    assert isinstance(found.together, TogetherAnswer)
    return found.together


def test_nothing_is_said_where_nothing_is_loaded() -> None:
    assert not ask(24, model="codellama:7b").together


def test_an_editors_three_models_fit_on_a_large_gpu() -> None:
    found = ask(24, model="qwen2.5-coder:7b", loaded=EDITOR)

    assert beside(found).fits
    assert beside(found).evicted == ()
    assert [one.processor for one in beside(found).loaded] == ["100% GPU", "100% GPU"]
    assert found.fit.verdict == "gpu"


def test_the_estimate_is_for_the_memory_that_the_others_leave() -> None:
    alone = ask(24, model="qwen2.5-coder:7b")
    found = ask(24, model="qwen2.5-coder:7b", loaded=EDITOR)
    taken = alone.hardware.gpus[0].free_memory - found.hardware.gpus[0].free_memory
    on_host = (alone.hardware.free_memory or 0) - (found.hardware.free_memory or 0)

    assert taken + on_host == sum(one.total_bytes for one in beside(found).loaded)
    assert found.fit.max_context_length <= alone.fit.max_context_length


def test_a_model_that_is_loaded_serves_again() -> None:
    once, twice = (ask(24, model="qwen2.5-coder:7b", loaded=EDITOR[:1] * n) for n in (1, 2))

    assert beside(once).loaded == beside(twice).loaded
    assert beside(twice).evicted == ()


def test_a_model_with_another_context_is_loaded_again() -> None:
    both = tuple(LoadedModel(model="llama3.2", context_length=Tokens(n)) for n in (4096, 8192))
    found = ask(24, model="qwen2.5-coder:7b", loaded=both)

    assert len(beside(found).evicted) == 1
    assert [one.context_length for one in beside(found).loaded] == [8192]
    assert "again for other settings" in beside(found).reason


def test_ollama_unloads_until_its_prediction_is_within_80_per_cent() -> None:
    """What is unloaded leaves no trace in the estimate."""
    found = ask(12, model="codellama:13b", loaded=EDITOR)

    assert not beside(found).fits
    assert len(beside(found).evicted) == 2
    assert "80 %" in beside(found).reason
    assert found.memory == ask(12, model="codellama:13b").memory


def test_no_more_models_stay_than_ollama_may_keep() -> None:
    one = ask(24, model="llama3.2:1b", loaded=EDITOR, ollama={"OLLAMA_MAX_LOADED_MODELS": "2"})

    assert beside(one).evicted == ("nomic-embed-text:137m-v1.5-fp16",)
    assert "2 models" in beside(one).reason


def test_three_models_a_gpu_are_the_default() -> None:
    four = (*EDITOR, "llama3.2:1b")

    assert len(beside(ask(24, model="qwen3:0.6b", loaded=four)).evicted) == 1
    assert beside(ask(24, 24, model="qwen3:0.6b", loaded=four)).evicted == ()


def test_without_a_gpu_only_their_number_counts() -> None:
    """Ollama predicts for GPUs alone; what RAM cannot hold is said by the verdict."""
    found = ask(model="llama3.1:70b", loaded=("llama3.1:70b-instruct-q8_0",))

    assert beside(found).evicted == ()
    assert not beside(found).fits
    assert found.fit.verdict == "none"


def test_a_second_gpu_takes_the_second_model() -> None:
    wanted = LoadedModel(model="codellama:7b-code", context_length=Tokens(8192))
    found = ask(12, 12, model="codellama:7b", loaded=(wanted,))
    free = [gpu.free_memory for gpu in found.hardware.gpus]

    assert beside(found).fits
    assert found.fit.verdict == "gpu"
    assert free[0] < free[1] == 12 << 30


def test_the_asked_models_own_tag_is_not_counted_twice() -> None:
    found = ask(12, model="codellama:7b", loaded=("codellama:7b-instruct",))

    assert beside(found).loaded == ()
    assert beside(found).fits


def test_settings_of_the_daemon_hold_for_all() -> None:
    def taken(kind: Any) -> int:
        wanted = LoadedModel(model="llama3.1:8b", context_length=Tokens(8192))
        found = ask(24, model="qwen2.5-coder:7b", kv_cache_type=kind, loaded=(wanted,))
        return beside(found).loaded[0].total_bytes

    assert taken("q8_0") < taken("f16")


def test_a_loaded_model_must_be_known() -> None:
    with pytest.raises(UnknownModel):
        ask(12, model="codellama:7b", loaded=("no-such-model",))
    with pytest.raises(InvalidRequest, match=r"loaded\[0\]"):
        ask(12, model="codellama:7b", loaded=("not a name!",))
