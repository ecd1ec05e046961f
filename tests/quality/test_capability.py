"""What models are good at: published points on one scale, a prior where there are none."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tagfit.catalog.library import load
from tagfit.quality.capability import UseCase, capability, checkpoint, prior, thinking

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "service" / "data" / "sources"
USES: tuple[UseCase, ...] = ("chat", "code", "autocomplete", "agent", "embedding", "vision")


def score(name: str, use: UseCase) -> float:
    family, size, variant = name.split("/")
    found = capability(family, size, variant, use)
    assert found is not None, name
    return found.score


@pytest.mark.parametrize(
    ("use", "better", "worse"),
    [
        ("chat", "llama3.1/70b/instruct", "llama3.1/8b/instruct"),
        ("chat", "llama3.1/8b/instruct", "llama2/7b/chat"),
        ("chat", "qwen2.5/7b/instruct", "mistral/7b/instruct"),
        ("chat", "qwen3/32b/", "qwen2.5/32b/instruct"),
        ("code", "qwen2.5-coder/32b/instruct", "qwen2.5-coder/7b/instruct"),
        ("code", "qwen2.5-coder/7b/instruct", "codellama/34b/instruct"),
        ("code", "deepseek-coder/6.7b/instruct", "codellama/7b/python"),
        ("code", "deepseek-r1/14b/qwen-distill", "deepseek-r1/7b/qwen-distill"),
        ("autocomplete", "qwen2.5-coder/7b/base", "starcoder2/7b/"),
        ("autocomplete", "deepseek-coder/6.7b/base", "codellama/7b/code"),
        ("agent", "qwen3/8b/", "llama3.2/3b/instruct"),
        ("embedding", "qwen3-embedding/8b/", "all-minilm/22m/l6-v2"),
        ("vision", "gemma3/27b/it", "gemma3/4b/it"),
        ("chat", "qwen3.5/9b/", "qwen3.5/4b/"),
        ("chat", "qwen3.5/2b/", "minicpm-v4.6//"),
        ("code", "qwen3.6/35b/a3b", "gemma4/26b/a4b-it"),
        ("agent", "qwen3.5/9b/", "gemma4/e4b/it"),
        ("autocomplete", "qwen2.5-coder/1.5b/base", "granite4/7b/a1b-h"),
        ("vision", "qwen3.5/4b/", "gemma4/e4b/it"),
    ],
)
def test_the_order_is_the_one_that_those_who_know_would_give(
    use: UseCase, better: str, worse: str
) -> None:
    assert score(better, use) > score(worse, use)


def test_every_point_has_a_source_and_a_date() -> None:
    tables = json.loads((SOURCES / "benchmarks.json").read_text())["tables"]
    tables += tomllib.loads((SOURCES / "model_cards.toml").read_text())["tables"]

    for table in tables:
        assert table["source"].startswith("https://"), table["benchmark"]
        assert table["date"] >= "2023"
        assert table["rows"]
    found = capability("llama3.1", "8b", "instruct", "chat")
    assert found is not None
    assert found.basis == "measured"
    assert all(point.source and point.date for point in found.points)


def test_a_point_names_the_table_that_it_is_from() -> None:
    """One benchmark may have been published by several makers."""
    sources = {}
    for name in ("gemma3/12b/it", "qwen3.6/27b/"):
        family, size, variant = name.split("/")
        found = capability(family, size, variant, "vision")
        assert found is not None
        sources[name] = {point.source for point in found.points}

    assert any("2503.19786" in source for source in sources["gemma3/12b/it"])
    assert not sources["gemma3/12b/it"] & sources["qwen3.6/27b/"]


def test_rows_name_checkpoints_of_the_library() -> None:
    """But for few of the newest, which a later catalog will have."""
    known = {f"{model.family}/{model.size}/{model.variant}" for model in load().models}
    tables = json.loads((SOURCES / "benchmarks.json").read_text())["tables"]
    tables += tomllib.loads((SOURCES / "model_cards.toml").read_text())["tables"]
    named = {name for table in tables for name in table["rows"]}

    assert len(named - known) <= 0.05 * len(named), sorted(named - known)


def test_what_cannot_serve_a_use_is_not_judged() -> None:
    assert capability("codellama", "7b", "code", "vision") is None
    assert capability("nobody", "7b", "chat", "chat") is None


def test_what_nobody_published_is_guessed_and_says_so() -> None:
    of_the_library = capability("mistral-medium-3.5", "128b", "", "chat")
    of_none = prior(7_000_000_000, "2025-01-01", "chat")

    assert of_the_library is not None
    for guess in (of_the_library, of_none):
        assert guess.basis == "prior"
        assert not guess.points
        assert "no published results" in guess.explanation


@pytest.mark.parametrize("use", USES)
def test_no_guess_is_among_the_best_of_the_measured(use: UseCase) -> None:
    judged = [capability(one.family, one.size, one.variant, use) for one in load().models]
    measured = sorted(one.score for one in judged if one and one.basis == "measured")
    guessed = [one.score for one in judged if one and one.basis == "prior"]

    assert max(guessed) < measured[-1]


def test_forms_of_a_checkpoint_are_as_good_as_it() -> None:
    """Quantization-aware training and prediction layers make no other model."""
    assert checkpoint("gemma4", "26b", "a4b-it-qat") == "gemma4/26b/a4b-it"
    assert checkpoint("qwen3.6", "27b", "mtp") == "qwen3.6/27b/"
    assert checkpoint("codellama", "7b", "instruct") == "codellama/7b/instruct"
    assert score("gemma4/26b/a4b-it-qat", "chat") == score("gemma4/26b/a4b-it", "chat")
    assert score("qwen3.6/27b/mtp", "agent") == score("qwen3.6/27b/", "agent")


def test_thinking_lengthens_answers_and_may_be_left() -> None:
    hybrid = thinking("qwen3.5", "9b", "", ("chat", "thinking"))
    always = thinking("qwen3", "4b", "thinking-2507", ("chat", "thinking"))
    never = thinking("qwen3", "4b", "instruct-2507", ("chat",))

    assert hybrid is not None
    assert hybrid.optional
    assert hybrid.length > 1
    assert 0.5 < hybrid.kept_without < 1
    assert always is not None
    assert not always.optional
    assert never is None


def test_an_agent_needs_more_than_one_right_answer() -> None:
    """So a small model that is half as good is less than half as good an agent."""
    once = thinking("qwen3.5", "9b", "", ("thinking",), "chat")
    often = thinking("qwen3.5", "9b", "", ("thinking",), "agent")

    assert once is not None
    assert often is not None
    assert often.kept_without < once.kept_without
    assert score("qwen3/0.6b/", "agent") < 0.2 * score("qwen3.6/27b/", "agent")


def test_images_are_read_as_well_without_thinking() -> None:
    found = thinking("qwen3.5", "4b", "", ("vision", "thinking"), "vision")

    assert found is not None
    assert found.kept_without == 1


@pytest.mark.parametrize("use", USES)
def test_the_prior_rises_with_size_and_date(use: UseCase) -> None:
    small, large = prior(10**9, "2024-01-01", use), prior(30 * 10**9, "2024-01-01", use)
    later = prior(10**9, "2026-01", use)

    assert 0 < small.score <= large.score <= 1
    assert small.score <= later.score <= 1


def test_scores_lie_between_nought_and_one() -> None:
    for model in load().models:
        for use in USES:
            found = capability(model.family, model.size, model.variant, use)
            assert found is None or 0 < found.score <= 1


@pytest.mark.parametrize(
    "family",
    [
        *("codellama", "llama2", "llama3.1", "llama3.2", "llama3.3"),
        *("mistral", "deepseek-coder", "qwen2.5-coder", "qwen2.5"),
    ],
)
def test_the_first_families_have_measured_scores(family: str) -> None:
    use: UseCase = "code" if "code" in family else "chat"
    tuned = [model for model in load().models if model.family == family]
    measured = [
        model for model in tuned if capability(model.family, model.size, model.variant, use)
    ]

    assert len(measured) >= 0.4 * len(tuned)


def test_the_data_is_what_the_script_builds() -> None:
    script = ROOT / "service" / "data" / "build_capability.py"

    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0
