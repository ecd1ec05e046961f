"""docs/pull.md is true: its fields, steps and limits are those of the code."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tagfit.api.pull_requests import PullBody
from tagfit.pulls.shared import LINE_SECONDS, SILENT_SECONDS
from tagfit.pulls.stream import LayerUpdate, PullStatus, PullUpdate, TotalBasis
from tagfit.settings import Settings

DOCUMENT = (Path(__file__).parents[2] / "docs" / "pull.md").read_text()


@pytest.mark.parametrize("kind", [PullUpdate, LayerUpdate, PullBody])
def test_every_field_is_described(kind: type[msgspec.Struct]) -> None:
    left_to_estimate = {"parallel", "flash_attention", "batch_size", "micro_batch_size"} | {
        "offloaded_layers",
        "kv_unified",
        "name",
    }
    for field in kind.__struct_fields__:
        assert f"`{field}`" in DOCUMENT or field in left_to_estimate


@pytest.mark.parametrize("word", [*get_args(PullStatus), *get_args(TotalBasis)])
def test_every_word_is_described(word: str) -> None:
    assert f"`{word}`" in DOCUMENT


def test_the_diagram_has_every_status() -> None:
    diagram = DOCUMENT.partition("```mermaid")[2].partition("```")[0]

    for status in get_args(PullStatus):
        assert f"--> {status}" in diagram


def test_limits_are_those_of_the_code() -> None:
    assert f"one line each {LINE_SECONDS:g} s, and one each {SILENT_SECONDS:g} s" in DOCUMENT
    assert f"`TAGFIT_STALL_TIMEOUT` ({Settings().stall_timeout:g} s)" in DOCUMENT
