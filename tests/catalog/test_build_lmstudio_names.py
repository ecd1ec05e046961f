"""A repository holds a checkpoint where name and sizes agree."""

from __future__ import annotations

import json

import pytest

from data.build_lmstudio_names import (
    PUBLISHERS,
    SOURCE,
    TARGET,
    encoded,
    files_of,
    same_checkpoint,
    same_size,
)
from tagfit.catalog.library import Model, load
from tagfit.sizing import mixtures


def model(tag: str) -> Model:
    return load().find(tag)[0]


@pytest.mark.parametrize(
    ("tag", "repository"),
    [
        ("llama3.1:8b-instruct-q4_K_M", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
        ("qwen3:8b-q4_K_M", "bartowski/Qwen_Qwen3-8B-GGUF"),
        ("gemma3:4b-it-q4_K_M", "unsloth/gemma-3-4b-it-GGUF"),
        ("deepseek-r1:14b-qwen-distill-q4_K_M", "unsloth/DeepSeek-R1-Distill-Qwen-14B-GGUF"),
        ("mistral-nemo:12b-instruct-2407-q4_K_M", "bartowski/Mistral-Nemo-Instruct-2407-GGUF"),
        ("qwen3-coder:30b-a3b-q4_K_M", "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF"),
        ("phi4:14b-q4_K_M", "microsoft/phi-4-gguf"),
        ("llama2:7b-text-q4_K_M", "TheBloke/Llama-2-7B-GGUF"),
    ],
)
def test_the_same_words_name_the_same_checkpoint(tag: str, repository: str) -> None:
    assert same_checkpoint(model(tag), repository)


@pytest.mark.parametrize(
    ("tag", "repository"),
    [
        ("llama2:7b-text-q4_K_M", "TheBloke/Llama-2-7B-Chat-GGUF"),
        ("llama2:7b-chat-q4_K_M", "TheBloke/Llama-2-7B-GGUF"),
        ("qwen3:8b-q4_K_M", "unsloth/Qwen3-8B-Base-GGUF"),
        ("qwen3:8b-q4_K_M", "mradermacher/Qwen3-8B-abliterated-GGUF"),
        ("qwen3:8b-q4_K_M", "unsloth/Qwen3-4B-GGUF"),
        ("gemma3:4b-it-q4_K_M", "unsloth/gemma-3-4b-it-qat-GGUF"),
        ("qwen3-vl:8b-thinking-q4_K_M", "unsloth/Qwen3-VL-8B-Thinking-1M-GGUF"),
        ("mistral:7b-instruct-v0.2-q4_K_M", "MaziyarPanahi/Mistral-7B-Instruct-v0.3-GGUF"),
        ("llama3:8b-instruct-q4_K_M", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF"),
    ],
)
def test_another_word_is_another_checkpoint(tag: str, repository: str) -> None:
    assert not same_checkpoint(model(tag), repository)


def test_a_file_of_another_size_is_another_checkpoint() -> None:
    """Within 1.5 %, and what the listing rounds away."""
    qwen = model("qwen3:8b-q4_K_M")
    predicted_bytes = mixtures.file_bytes(mixtures.weights(qwen.architecture, "Q4_K_M"))
    shown = f"{predicted_bytes / 2**30:.1f} GB"

    assert same_size(qwen, "Q4_K_M", predicted_bytes)
    assert same_size(qwen, "Q4_K_M", shown)
    assert not same_size(qwen, "Q4_K_M", round(predicted_bytes * 1.03))
    assert not same_size(qwen, "Q4_K_S", predicted_bytes)
    assert not same_size(qwen, "Q9_X", predicted_bytes), "no such file type"


def test_a_quantization_is_asked_of_the_first_publisher_that_has_it() -> None:
    qwen = model("qwen3:8b-q4_K_M")
    sizes = {
        name: mixtures.file_bytes(mixtures.weights(qwen.architecture, name))
        for name in ("Q4_K_M", "Q8_0")
    }
    rows = [
        {"repository": "unsloth/Qwen3-8B-GGUF", "sizes": sizes},
        {"repository": "lmstudio-community/Qwen3-8B-GGUF", "sizes": {"Q8_0": sizes["Q8_0"]}},
    ]

    assert files_of(qwen, rows) == {
        "lmstudio-community/Qwen3-8B-GGUF": ["Q8_0"],
        "unsloth/Qwen3-8B-GGUF": ["Q4_K_M"],
    }


def test_every_repository_comes_from_the_listing() -> None:
    listed = {row["repository"]: row for row in json.loads(SOURCE.read_text())["repositories"]}
    shipped = json.loads(TARGET.read_text())

    assert len(shipped) > 100
    for repositories in shipped.values():
        for repository, spellings in repositories.items():
            assert repository.partition("/")[0] in PUBLISHERS
            assert set(spellings) <= set(listed[repository]["sizes"])


def test_every_row_of_the_listing_says_where_it_is_from() -> None:
    for row in json.loads(SOURCE.read_text())["repositories"]:
        assert "commit" in row or row["source"].startswith("https://"), row["repository"]


def test_the_shipped_file_is_what_the_sources_give() -> None:
    """A few families of it; ``--check`` compares all."""
    rows = json.loads(SOURCE.read_text())["repositories"]
    some = tuple(one for one in load().models if one.family in {"qwen3", "llama3.1", "alfred"})
    shipped = json.loads(TARGET.read_text())
    families = {"qwen3", "llama3.1", "alfred"}

    assert json.loads(encoded(some, rows)) == {
        key: files for key, files in shipped.items() if key.partition("/")[0] in families
    }
