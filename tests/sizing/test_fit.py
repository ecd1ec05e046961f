"""The layers that --fit gives each GPU."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagfit.facts import Runtime
from tagfit.sizing import fit, rules
from tagfit.sizing.mixtures import weights
from tests.reference_models import REFERENCE_MODELS
from tests.sizing import slow_fit

DENSE = ("llama-3.2-1b", "llama-3.1-8b", "gemma-2-9b", "qwen2.5-coder-7b", "llama-3.1-70b")
EXPERTS = ("qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-20b", "deepseek-coder-v2-lite")
MEMORY = ((1.5,), (3,), (6,), (12,), (2, 4), (8, 3), (11, 7, 5))
"""GiB that llama.cpp may use of each GPU."""


def loaded(model: str, context: int) -> fit.Load:
    arch = REFERENCE_MODELS[model]
    quantization = "MXFP4_MOE" if model == "gpt-oss-20b" else "Q4_K_M"
    runtime = Runtime(context_length=context)
    return fit.load(arch, weights(arch, quantization), runtime, padded=True)


def slowly(model: fit.Load, targets: tuple[int, ...]) -> fit.Shares:
    """What llama.cpp's own search ends with, when not everything fits."""
    experts = model.arch.expert_count > 0

    def used(shares: fit.Shares) -> tuple[int, ...]:
        return tuple(part.total for part in fit.measure(model, shares)[:-1])

    shares = slow_fit.back_to_front(used, targets, model.layers, experts=experts)
    everything = fit.split(model.layers, targets)
    dense = tuple(
        share._replace(partial=share.layers - (index == len(everything) - 1))
        for index, share in enumerate(everything)
    )
    if not experts or sum(used(dense)) >= sum(targets):
        return shares
    return slow_fit.front_to_back(used, targets, shares)


def test_the_direct_search_ends_where_llama_cpps_does() -> None:
    """It needs three measurements a GPU, false position ten.

    They may differ where a buffer shrinks with more layers, so that two answers are right.
    """
    differing, cases = [], 0
    for model, gpus in product([*DENSE, *EXPERTS], MEMORY):
        targets = tuple(int(size * rules.GIB) for size in gpus)
        load = loaded(model, 8192)
        found = fit.fit(load, targets, targets)
        if found == fit.split(load.layers, targets):
            continue
        cases += 1
        if found != slowly(load, targets):
            differing.append((model, gpus, found))

    assert cases > 30
    assert len(differing) <= 0.03 * cases


@pytest.mark.parametrize("model", DENSE)
@settings(max_examples=12, deadline=None)
@given(target=st.integers(1, 40).map(lambda size: size * rules.GIB // 4))
def test_one_layer_more_would_be_too_much(model: str, target: int) -> None:
    load = loaded(model, 4096)
    (share,) = fit.fit(load, (target,), (target,))

    if share.layers < load.layers:
        assert fit.room(load, (fit.Share(share.layers + 1),), (target,)) < 0
    if share.layers:
        assert fit.room(load, (share,), (target,)) >= 0


def test_layers_are_split_by_free_memory() -> None:
    assert [share.layers for share in fit.split(33, (2, 1))] == [22, 11]
    assert [share.layers for share in fit.split(33, (1, 1))] == [17, 16]
    assert [share.layers for share in fit.split(3, (0, 1))] == [0, 3]


def test_the_host_keeps_token_embeddings_and_what_no_gpu_takes() -> None:
    load = loaded("llama-3.1-8b", 4096)
    nothing, everything = (
        fit.resident(load, shares)[-1].weights
        for shares in ((fit.Share(0),), (fit.Share(load.layers),))
    )

    assert everything == 128256 * 4096 * 18 // 32
    assert nothing == load.weights.host.blocks(0, 32) + load.weights.host.output + everything + (
        load.weights.host.rope
    )


def test_a_part_of_a_layer_may_overflow_to_the_next_gpu() -> None:
    load = loaded("qwen3-30b-a3b", 4096)
    shares = (fit.Share(10, 1, "up", overflow_to_next=True), fit.Share(39))
    alone = (fit.Share(10), fit.Share(39))

    *with_overflow, host = fit.resident(load, shares)
    *without, host_without = fit.resident(load, alone)
    moved = load.weights.gpu.elsewhere("up", 9, 10)

    assert with_overflow[0].weights == without[0].weights - moved
    assert with_overflow[1].weights == without[1].weights + moved
    assert host == host_without
