"""LM Studio's names: known from listings, checked by size, never invented."""

from __future__ import annotations

import pytest

from tagfit.catalog.library import UnknownTag, load
from tagfit.catalog.lmstudio_names import (
    LMStudioName,
    file_type_of,
    held_by,
    lmstudio_name,
    name_of,
)
from tagfit.catalog.names import parse_name


def test_a_tag_is_a_repository_and_a_quantization() -> None:
    name = name_of(load(), "gpt-oss:20b")

    assert name.request == {
        "model": "https://huggingface.co/lmstudio-community/gpt-oss-20b-GGUF",
        "quantization": "MXFP4",
    }
    assert name.command == (
        "lms get https://huggingface.co/lmstudio-community/gpt-oss-20b-GGUF@MXFP4"
    )


def test_every_name_of_a_tag_means_the_same() -> None:
    catalog = load()

    assert name_of(catalog, "llama3.1") == name_of(catalog, "Llama3.1:8b-instruct-q4_K_M")


def test_what_is_named_by_the_catalog_is_named_alike_by_its_tag() -> None:
    catalog = load()
    model, tag = catalog.find("qwen2.5-coder:7b-instruct-q4_K_M")

    assert tag.quantization == "Q4_K_M"
    assert lmstudio_name(model, "Q4_K_M") == name_of(catalog, tag.name)


@pytest.mark.parametrize("tag", ["alfred:40b", "qwen3.5:27b-nvfp4"])
def test_a_tag_that_no_listed_repository_holds_has_no_name(tag: str) -> None:
    with pytest.raises(UnknownTag, match=r"no repository of Hugging Face is known"):
        name_of(load(), tag)


def test_a_tag_that_the_library_lacks_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownTag) as missing:
        name_of(load(), "gemma3:13b")

    assert missing.value.suggestions


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "hf.co/unsloth/Qwen3-8B-GGUF:Q5_K_M",
            LMStudioName("https://huggingface.co/unsloth/Qwen3-8B-GGUF", "Q5_K_M"),
        ),
        (
            "https://huggingface.co/unsloth/Qwen3-8B-GGUF",
            LMStudioName("https://huggingface.co/unsloth/Qwen3-8B-GGUF"),
        ),
        ("qwen/qwen3-8b", LMStudioName("qwen/qwen3-8b")),
    ],
)
def test_names_of_its_own_are_passed_on(text: str, name: LMStudioName) -> None:
    assert name_of(load(), text) == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("registry.example.com/a/b:c", "from Hugging Face only"),
        ("qwen/qwen3-8b:q8_0", "takes no quantization"),
    ],
)
def test_what_it_cannot_be_asked_for(text: str, says: str) -> None:
    with pytest.raises(UnknownTag, match=says):
        name_of(load(), text)


def test_without_a_quantization_lm_studio_chooses() -> None:
    name = LMStudioName("qwen/qwen3-8b")

    assert name.request == {"model": "qwen/qwen3-8b"}
    assert name.command == "lms get qwen/qwen3-8b"


@pytest.mark.parametrize(
    ("spelled", "file_type"), [("q4_k_m", "Q4_K_M"), ("fp16", "F16"), ("mxfp4", "MXFP4_MOE")]
)
def test_file_types_however_a_file_spells_them(spelled: str, file_type: str) -> None:
    assert file_type_of(spelled) == file_type


@pytest.mark.parametrize("host", ["hf.co", "huggingface.co", "https://huggingface.co"])
def test_a_known_repository_says_which_checkpoint_it_holds(host: str) -> None:
    catalog = load()
    found = held_by(catalog, parse_name(f"{host}/Unsloth/qwen3-8b-gguf:q4_k_m"))

    assert found == (catalog.find("qwen3:8b")[0], "Q4_K_M")


@pytest.mark.parametrize(
    "text",
    ["hf.co/a/b:Q4_K_M", "hf.co/unsloth/Qwen3-8B-GGUF", "unsloth/Qwen3-8B-GGUF", "qwen3:8b"],
)
def test_any_other_name_holds_nothing_known(text: str) -> None:
    assert held_by(load(), parse_name(text)) is None
