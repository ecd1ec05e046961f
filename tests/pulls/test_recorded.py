"""The tally of what a real Ollama 0.33 daemon sent, case by case (tests/data)."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tagfit.daemon.client import Progress
from tagfit.daemon.pull_errors import FALLBACK, problem_of
from tagfit.pulls.stream import PullStatus, PullUpdate
from tagfit.pulls.tally import Tally, advance, update

DATA = Path(__file__).parents[1] / "data" / "ollama_pull_streams.json.gz"
STREAMS: dict[str, str] = json.loads(gzip.decompress(DATA.read_bytes()))
LINE_SECONDS = 0.06


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_is_one_progress(name: str) -> None:
    lines = [msgspec.json.decode(line, type=Progress) for line in STREAMS[name].splitlines()]
    tally, told = Tally(), list[PullUpdate]()
    for number, line in enumerate(lines):
        tally = advance(tally, line, number * LINE_SECONDS)
        told.append(update("m", tally))

    for before, after in pairwise(told):
        assert after.completed_bytes >= before.completed_bytes, "it never goes back"
        assert (after.total_bytes or 0) >= (before.total_bytes or 0)
        order = get_args(PullStatus)
        assert order.index(after.status) >= order.index(before.status)
    assert all(one.completed_bytes <= (one.total_bytes or 0) for one in told)
    assert (told[-1].status == "done") == (lines[-1].status == "success")


@pytest.mark.parametrize("name", STREAMS)
def test_no_recorded_error_is_unknown(name: str) -> None:
    error = json.loads(STREAMS[name].splitlines()[-1]).get("error", "")

    assert not error or type(problem_of(error)) is not FALLBACK
