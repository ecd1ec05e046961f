"""What a rate follows: bandwidth, bytes a token, context, experts, placement."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagfit.facts import Architecture, Device, Hardware, Runtime
from tagfit.sizing.mixtures import weights
from tagfit.sizing.placement import place
from tagfit.speed.devices import GIB, lookup
from tagfit.speed.roofline import Speed, speed
from tests.stopwatch import milliseconds

LLAMA_8B = Architecture(
    architecture="llama",
    block_count=32,
    context_length=131072,
    embedding_length=4096,
    feed_forward_length=14336,
    head_count=32,
    head_count_kv=8,
    vocab_size=128256,
)
QWEN3_30B_A3B = Architecture(
    architecture="qwen3moe",
    block_count=48,
    context_length=262144,
    embedding_length=2048,
    feed_forward_length=6144,
    head_count=32,
    head_count_kv=4,
    key_length=128,
    value_length=128,
    vocab_size=151936,
    expert_count=128,
    expert_used_count=8,
    expert_feed_forward_length=768,
)


def gpu(
    name: str = "a card of no name", gibibytes: int = 24, bandwidth: int | None = 10**12
) -> Device:
    return Device(
        name=name,
        memory_bytes=gibibytes * GIB,
        free_memory_bytes=gibibytes * GIB,
        bandwidth_bytes_per_second=bandwidth,
        compute_flops=10**14,
    )


def machine(*gpus: Device, host_bandwidth: int | None = 60_000_000_000) -> Hardware:
    return Hardware(
        gpus=gpus,
        memory_bytes=128 * GIB,
        free_memory_bytes=120 * GIB,
        bandwidth_bytes_per_second=host_bandwidth,
        cores=8,
    )


def rate(
    hardware: Hardware,
    architecture: Architecture = LLAMA_8B,
    quantization: str = "Q4_K_M",
    **runtime: int | bool | str,
) -> Speed:
    stored = weights(architecture, quantization)
    asked = msgspec.convert({"context_length": 4096} | runtime, Runtime)
    placement = place(architecture, stored, asked, hardware)
    return speed(architecture, stored, asked, placement, hardware)


def generation(found: Speed) -> float:
    return found.generation_tokens_per_second.expected


@given(st.sampled_from(["Q2_K", "Q4_K_M", "Q8_0"]), st.integers(512, 65536))
def test_the_range_is_in_order_and_positive(quantization: str, context: int) -> None:
    found = rate(machine(gpu()), quantization=quantization, context_length=context)

    for figures in (found.generation_tokens_per_second, found.prefill_tokens_per_second):
        assert 0 < figures.low < figures.expected < figures.high


@given(st.integers(10**11, 5 * 10**12), st.floats(1.05, 4))
def test_more_bandwidth_is_never_slower(bandwidth: int, factor: float) -> None:
    slow = rate(machine(gpu(bandwidth=bandwidth)))
    fast = rate(machine(gpu(bandwidth=round(bandwidth * factor))))

    assert generation(fast) >= generation(slow)


@given(st.integers(512, 32768), st.integers(512, 32768))
def test_more_context_is_never_faster(some: int, more: int) -> None:
    some, more = sorted((some, more))
    shallow, deep = (
        rate(machine(gpu()), context_length=context, micro_batch_size=512)
        for context in (some, more)
    )

    assert generation(deep) <= generation(shallow)


def test_fewer_bits_are_faster() -> None:
    rates = [
        generation(rate(machine(gpu()), quantization=name)) for name in ("Q8_0", "Q5_K_M", "Q4_K_M")
    ]

    assert rates == sorted(rates)


def test_of_experts_only_those_that_are_chosen_are_read() -> None:
    """30 billion parameters of which 3 are active are faster than 8 dense ones."""
    large = machine(gpu(gibibytes=48))
    sparse = generation(rate(large, QWEN3_30B_A3B, "Q8_0"))

    assert sparse > 1.1 * generation(rate(large, quantization="Q8_0"))


def test_what_stays_on_the_host_is_read_at_the_hosts_bandwidth() -> None:
    whole = rate(machine(gpu(gibibytes=24)))
    part = rate(machine(gpu(gibibytes=5)))
    none = rate(machine())

    assert generation(whole) > 2 * generation(part) > 2 * generation(none)
    assert "host memory (measured or given) 60 GB/s" in part.basis


def test_experts_on_the_host_cost_less_than_dense_layers_there() -> None:
    small = machine(gpu(gibibytes=8))

    assert generation(rate(small, QWEN3_30B_A3B, "Q8_0")) > 20


def test_an_unknown_bandwidth_is_assumed_low_and_said() -> None:
    known = rate(machine(gpu()))
    unknown = rate(machine(gpu(bandwidth=None)))
    slow_host = rate(machine(host_bandwidth=None))

    assert generation(unknown) < generation(known)
    assert "bandwidth unknown" in unknown.basis
    assert "bandwidth unknown" in slow_host.basis
    figures = unknown.generation_tokens_per_second
    assert figures.high / figures.low > 1.5


def test_a_second_gpu_speeds_prompts_up_not_generation() -> None:
    spread = msgspec.structs.replace(
        machine(gpu(), gpu()), environment={"OLLAMA_SCHED_SPREAD": "1"}
    )
    one, two = rate(machine(gpu()), context_length=16384), rate(spread, context_length=16384)

    assert generation(two) == pytest.approx(generation(one), rel=0.05)
    assert two.prefill_tokens_per_second.expected > 1.1 * one.prefill_tokens_per_second.expected


def test_a_gpu_without_a_layer_reads_prompts_nevertheless() -> None:
    """It copies the weights for each batch, as for the layers that it lacks (offload_op)."""
    without = rate(machine(), context_length=8192)
    none, one, most = (
        rate(machine(gpu()), offloaded_layers=layers, context_length=8192) for layers in (0, 1, 16)
    )

    assert generation(none) == pytest.approx(generation(without), rel=0.05)
    prefill = [each.prefill_tokens_per_second.expected for each in (none, one, most)]
    assert prefill[0] > 3 * without.prefill_tokens_per_second.expected
    assert prefill == sorted(prefill)
    assert prefill[0] == pytest.approx(prefill[1], rel=0.1)


def test_a_gpu_that_cannot_hold_what_that_takes_reads_none() -> None:
    tiny = msgspec.structs.replace(gpu(), free_memory_bytes=GIB // 2)
    without, beside = rate(machine()), rate(machine(tiny), offloaded_layers=0)

    assert beside.prefill_tokens_per_second == without.prefill_tokens_per_second


def test_a_known_name_stands_in_for_figures_that_are_not_given() -> None:
    known = lookup("RTX 3060")
    assert known is not None
    named = Device(
        name=known.name,
        memory_bytes=known.memory_bytes,
        free_memory_bytes=known.memory_bytes,
    )

    assert "360 GB/s" in rate(machine(named)).basis


def test_it_takes_less_than_a_fifth_of_a_millisecond() -> None:
    hardware, runtime = machine(gpu()), Runtime(context_length=4096)
    stored = weights(LLAMA_8B, "Q4_K_M")
    placement = place(LLAMA_8B, stored, runtime, hardware)
    speed(LLAMA_8B, stored, runtime, placement, hardware)

    assert milliseconds(lambda: speed(LLAMA_8B, stored, runtime, placement, hardware)) < 0.2
