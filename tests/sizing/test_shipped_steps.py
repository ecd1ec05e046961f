"""The steps that are shipped: what the program itself would trace, and enough of them."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tagfit.advice.machine import PostedGpu, PostedHardware, read_machine
from tagfit.advice.recommend import RecommendRequest, recommend
from tagfit.catalog.library import load
from tagfit.sizing import fit
from tagfit.sizing.graph.allocator import Trace
from tagfit.sizing.outline import Layout
from tagfit.sizing.traced import Traced, traced
from tagfit.units import GIB, Bytes

SCRIPT = Path(__file__).parents[2] / "service" / "data" / "build_shipped_steps.py"
QUESTIONS = 60
MOST_TRACES = 3


def test_the_steps_are_those_that_the_script_traces() -> None:
    checked = subprocess.run(
        [sys.executable, SCRIPT, "--check"], check=False, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout


def test_hardly_any_graph_is_traced_for_a_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of any memory, which the script did not ask about."""
    traces = []
    trace = Traced._trace

    def counted(self: Traced, plan: Layout) -> Trace:
        traces.append(plan)
        return trace(self, plan)

    monkeypatch.setattr(Traced, "_trace", counted)
    traced.cache_clear()
    fit.load.cache_clear()
    source = random.Random("never asked")
    sizes = iter(lambda: source.randrange(4 * GIB, 96 * GIB), None)
    for size in islice(sizes, QUESTIONS):
        gpus = (PostedGpu(memory=Bytes(size)),)
        here = read_machine(PostedHardware(gpus=gpus, memory=Bytes(64 * GIB)))
        recommend(load(), RecommendRequest(use_case=source.choice(("chat", "code"))), here)

    assert len(traces) <= MOST_TRACES
