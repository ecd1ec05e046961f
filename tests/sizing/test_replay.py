"""Buffers that lie between two known ones, and buffers that are asked for at once."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tagfit.catalog.library import load
from tagfit.facts import Runtime
from tagfit.sizing.compute import Compute, compute
from tagfit.sizing.device_weights import device_weights
from tagfit.sizing.mixtures import weights
from tagfit.sizing.outline import Layout, Segment
from tagfit.sizing.traced import traced
from tests.oracle.specimens import SPECIMENS

LONGEST = 512
"""Times 256 cells."""


def layouts(model: str) -> tuple[Layout, ...]:
    """Wholly on the GPU, and the last blocks only (of experts, half of them on the host); wholly
    on two GPUs."""
    arch = SPECIMENS[model]
    blocks = arch.block_count - arch.nextn_predict_layers
    half = blocks // 2
    later = Segment(0, half, blocks, "moe", 1) if arch.expert_count else Segment(0, half, blocks)
    earlier = Segment(0 if arch.expert_count else 1, 0, half)
    pipeline = (Segment(0, 0, half), Segment(1, half, blocks))
    return ((Segment(0, 0, blocks),), (earlier, later), pipeline)


def buffers(
    model: str, layout: Layout, steps: int, *, flash_attention: bool = True, file_type: str = "F16"
) -> Compute:
    """For so many times 256 cells."""
    arch = SPECIMENS[model]
    table = device_weights(arch, weights(arch, file_type), padded=True)
    runtime = Runtime(context_length=256 * steps, flash_attention=flash_attention)
    gpus = 2 if layout == layouts(model)[2] else 1
    return compute(table, runtime, layout, gpus=gpus, output_device=gpus - 1)


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    traced.cache_clear()
    yield
    traced.cache_clear()


@pytest.mark.parametrize("flash_attention", [True, False])
@pytest.mark.parametrize("model", sorted(SPECIMENS))
def test_what_lies_between_two_numbers_of_cells_is_what_is_found_for_it_alone(
    model: str, flash_attention: bool
) -> None:
    source = random.Random(model)
    inner = source.sample(range(2, LONGEST), 12)
    for layout in layouts(model):
        alone = {}
        for steps in inner[:4]:
            traced.cache_clear()
            alone[steps] = buffers(model, layout, steps, flash_attention=flash_attention)
        traced.cache_clear()
        for steps in (1, LONGEST, *inner[4:]):
            buffers(model, layout, steps, flash_attention=flash_attention)

        found = {
            steps: buffers(model, layout, steps, flash_attention=flash_attention) for steps in alone
        }

        assert found == alone


def test_a_turn_between_two_numbers_of_cells_is_not_passed_over() -> None:
    """From about 39,000 cells on each takes 6,144 bytes in place of 4,096: of all choices only one
    differs, where among the free blocks a slot is given back."""
    arch = load().find("gemma4:12b")[0].architecture
    table = device_weights(arch, weights(arch, "Q4_K_M"), padded=True)
    layout = (Segment(0, 0, 36), Segment(1, 36, 48))

    def on_gpus(context_length: int) -> tuple[int, ...]:
        runtime = Runtime(context_length=context_length, kv_cache_type="q8_0")
        return compute(table, runtime, layout, gpus=2, output_device=1).gpus

    alone = on_gpus(65536)
    traced.cache_clear()
    for context_length in (8192, 131072):
        on_gpus(context_length)

    assert on_gpus(65536) == alone


def test_a_slot_of_no_size_may_lie_beyond_all_others() -> None:
    """Nemotron 3 copies an empty part of its state, and gives it back after what lay below it."""
    arch = load().find("nemotron3:33b")[0].architecture
    table = device_weights(arch, weights(arch, "Q8_0"), padded=True)
    layout = (Segment(1, 0, 30), Segment(0, 30, 31), Segment(0, 31, 52, "moe", 1))

    found = compute(table, Runtime(context_length=65536), layout, gpus=1, output_device=0)

    assert found.gpus == (843809792,)


def test_many_threads_find_what_one_does() -> None:
    """File types differ in the weights that are copied, so each takes a course of its own."""
    _, partly, _ = layouts("qwen3moe")
    file_types = ("F32", "F16", "Q8_0", "Q5_1", "Q4_0", "IQ4_NL")
    cases = [(steps, file_type) for steps in range(2, 40, 2) for file_type in file_types]

    def found(case: tuple[int, str]) -> Compute:
        return buffers("qwen3moe", partly, case[0], file_type=case[1])

    wanted = [found(case) for case in cases]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            traced.cache_clear()
            buffers("qwen3moe", partly, 1)
            with ThreadPoolExecutor(len(file_types)) as pool:
                assert list(pool.map(found, cases)) == wanted
    finally:
        sys.setswitchinterval(interval)
