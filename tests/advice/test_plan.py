"""``/plan`` asks ``/estimate`` backwards: what it says is enough is, and what is less is not."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tagfit.advice.answers import Estimate
from tagfit.advice.estimate import EstimateRequest, estimate, read_subject
from tagfit.advice.example_devices import OLDER, SEVERAL, offers
from tagfit.advice.machine import Machine, PostedHardware, read_machine
from tagfit.advice.plan import Plan, PlanRequest, QuantizationPlan, plan
from tagfit.catalog.library import load
from tagfit.facts import Device, Hardware
from tagfit.problems import InvalidRequest, UnknownModel
from tagfit.sizing.rules import MIB
from tagfit.speed.devices import known_devices, parse_device
from tagfit.units import decode_quantity

CATALOG = load()
TAGS = sorted(
    tag.name
    for model in CATALOG.models
    for tag in model.tags
    if tag.quantization is not None and tag.kind == "gguf"
)
SAMPLE = (
    "llama3.1:8b",
    "codellama:13b-instruct-q5_K_M",
    "qwen3:30b",
    "gemma3:12b",
    "llama3.2-vision:11b",
    "nomic-embed-text",
    "deepseek-r1:671b",
)

tags = st.sampled_from(TAGS)
contexts = st.integers(256, 65536)


def asked(tag: str, **fields: Any) -> PlanRequest:
    return msgspec.convert({"model": tag, **fields}, PlanRequest, dec_hook=decode_quantity)


def only(request: PlanRequest) -> QuantizationPlan:
    """The plan for the asked tag alone."""
    tag = CATALOG.find(request.model)[1]
    assert tag.quantization is not None
    try:
        found = plan(CATALOG, replace(request, quantizations=(tag.quantization,)))
    except InvalidRequest as error:
        assume("cannot hold heads" not in error.detail)  # a quantized cache that it cannot use
        raise
    return found.quantizations[0]


def estimated(request: dict[str, Any], machine: Machine) -> Estimate:
    asked = msgspec.convert(request, EstimateRequest, dec_hook=decode_quantity)
    return estimate(read_subject(CATALOG, asked), asked, machine, "chat")


def posted(request: dict[str, Any], hardware: dict[str, Any]) -> Estimate:
    """As ``/estimate`` answers it."""
    read = msgspec.convert(hardware, PostedHardware, dec_hook=decode_quantity)
    return estimated(request, read_machine(read))


def one_gpu(memory: int, host: int | None, **more: int) -> dict[str, Any]:
    return {"gpus": [{"memory": memory, **more}], "memory": host or 2**44}


@settings(max_examples=60, deadline=None)
@given(
    tag=tags,
    context=contexts,
    parallel=st.integers(1, 3),
    cache=st.sampled_from(("f16", "q8_0", "q4_0")),
)
def test_the_least_memory_holds_it_and_a_little_less_does_not(
    tag: str, context: int, parallel: int, cache: str
) -> None:
    request = asked(tag, context_length=context, parallel=parallel, kv_cache_type=cache)
    found = only(request)
    gpu, host = found.gpu.free_memory_bytes, found.gpu.host_memory_bytes
    assert posted(found.request, one_gpu(gpu, host)).fit.verdict == "gpu"
    if gpu > 128 * MIB:
        less = posted(found.request, one_gpu(gpu - 64 * MIB, host))
        assert less.fit.verdict != "gpu"


@settings(max_examples=40, deadline=None)
@given(tag=tags, context=contexts)
def test_the_least_ram_holds_it_without_a_gpu_and_less_does_not(tag: str, context: int) -> None:
    found = only(asked(tag, context_length=context))
    free = found.cpu.free_memory_bytes
    assert posted(found.request, {"memory": 2**44, "free_memory": free}).fit.verdict == "cpu"
    less = {"memory": 2**44, "free_memory": free - 1}
    assert posted(found.request, less).fit.verdict == "none"
    if found.cpu.memory_bytes:
        sold = {"memory": found.cpu.memory_bytes}
        assert posted(found.request, sold).fit.verdict == "cpu"


@settings(max_examples=40, deadline=None)
@given(tag=tags, context=contexts, rate=st.floats(1, 100))
def test_the_least_bandwidth_is_fast_enough_and_less_is_not(
    tag: str, context: int, rate: float
) -> None:
    found = only(asked(tag, context_length=context, min_generation_tokens_per_second=rate))
    for need, hardware in (
        (found.gpu, one_gpu(found.gpu.free_memory_bytes, found.gpu.host_memory_bytes)),
        (found.cpu, {"memory": 2**44}),
    ):
        bandwidth = need.bandwidth_bytes_per_second
        if not isinstance(bandwidth, int) or bandwidth <= 10**9:
            continue

        def generates(bandwidth: int, hardware: dict[str, Any] = hardware) -> float:
            told = {**hardware}
            if "gpus" in told:
                told["gpus"] = [{**told["gpus"][0], "bandwidth": bandwidth}]
            else:
                told["bandwidth"] = bandwidth
            return posted(found.request, told).speed.generation_tokens_per_second.expected

        assert generates(bandwidth) >= rate
        assert generates(bandwidth - 10**9) < rate


@pytest.mark.parametrize("tag", SAMPLE)
def test_the_least_compute_reads_fast_enough_and_less_does_not(tag: str) -> None:
    rate = 1000.0
    found = only(asked(tag, context_length=2048, min_prefill_tokens_per_second=rate))
    compute = found.gpu.compute_flops
    assert isinstance(compute, int)

    def reads(flops: int) -> float:
        free = found.gpu.free_memory_bytes
        gpu = Device(
            name="GPU",
            memory_bytes=free,
            free_memory_bytes=free,
            bandwidth_bytes_per_second=flops // 60,
            compute_flops=flops,
        )
        machine = Machine(Hardware(gpus=(gpu,)))
        return estimated(found.request, machine).speed.prefill_tokens_per_second.expected

    assert reads(compute) >= rate
    if compute > 10**12:
        assert reads(compute - 10**12) < rate
    cores = found.cpu.cores
    if isinstance(cores, int):
        host = {"memory": 2**44, "cores": cores}
        assert posted(found.request, host).speed.prefill_tokens_per_second.expected >= rate


@settings(max_examples=40, deadline=None)
@given(tag=tags, rates=st.lists(st.floats(0.5, 2000), min_size=2, max_size=2))
def test_more_tokens_a_second_never_need_less(tag: str, rates: list[float]) -> None:
    def infinite(amount: Any) -> float:
        return float("inf") if amount is None else float(amount)

    slow, fast = (
        only(
            asked(
                tag,
                context_length=2048,
                min_generation_tokens_per_second=rate,
                min_prefill_tokens_per_second=rate,
            )
        )
        for rate in sorted(rates)
    )
    assert slow.gpu.free_memory_bytes == fast.gpu.free_memory_bytes
    for lesser, greater in (
        (slow.gpu.bandwidth_bytes_per_second, fast.gpu.bandwidth_bytes_per_second),
        (slow.cpu.bandwidth_bytes_per_second, fast.cpu.bandwidth_bytes_per_second),
    ):
        assert infinite(lesser) <= infinite(greater)
    assert {one.kind for one in fast.examples} <= {one.kind for one in slow.examples}


@settings(max_examples=40, deadline=None)
@given(tag=tags, lengths=st.lists(contexts, min_size=3, max_size=3))
@example(tag="minicpm-v4.6:q4_1", lengths=[256, 256, 3841])
def test_a_longer_context_never_needs_less_memory(tag: str, lengths: list[int]) -> None:
    """At one batch size: Ollama itself takes smaller batches where a longer context needs room.

    An image encoder leaves the host for a GPU that a longer context has made large enough.
    """
    _, stored = CATALOG.find(tag)
    needs = [only(asked(tag, context_length=length, batch_size=512)) for length in sorted(lengths)]
    for short, long in pairwise(needs):
        assert short.gpu.free_memory_bytes <= long.gpu.free_memory_bytes
        assert short.cpu.free_memory_bytes <= long.cpu.free_memory_bytes
        left = short.gpu.host_free_memory_bytes - stored.vision_bytes
        assert left <= long.gpu.host_free_memory_bytes


@settings(max_examples=25, deadline=None)
@given(tag=tags, context=contexts, rate=st.none() | st.floats(1, 100))
def test_every_example_does_what_was_asked_as_estimated(
    tag: str, context: int, rate: float | None
) -> None:
    found = only(asked(tag, context_length=context, min_generation_tokens_per_second=rate))
    for machine in found.examples:
        answer = posted(found.request, machine.hardware)
        assert answer.fit.verdict == ("cpu" if machine.kind == "CPU" else "gpu")
        assert answer.speed.generation_tokens_per_second == machine.generation_tokens_per_second
        assert answer.speed.prefill_tokens_per_second == machine.prefill_tokens_per_second
        assert machine.generation_tokens_per_second.expected >= (rate or 0)
    kinds = [example.kind for example in found.examples]
    assert len(kinds) == len(set(kinds))
    assert (found.reason is None) == any(kind != "CPU" for kind in kinds)


@pytest.mark.parametrize(
    ("tag", "rate"), [("llama3.1:8b", 45.0), ("qwen3:30b", 60.0), ("codellama:70b", 12.0)]
)
def test_an_example_is_the_least_of_its_kind(tag: str, rate: float) -> None:
    """No device of the kind with less memory, or as much and less bandwidth, does it."""
    found = only(asked(tag, context_length=8192, min_generation_tokens_per_second=rate))
    examples = {example.kind: example.name for example in found.examples}
    for kind, choices in offers().items():
        for offer in choices:
            if offer.name == examples.get(kind):
                break
            machine = {"gpus": [{"name": offer.name}]}
            answer = posted(
                found.request, machine if offer.unified else machine | {"memory": 2**44}
            )
            speed = answer.speed.generation_tokens_per_second.expected
            assert answer.fit.verdict != "gpu" or speed < rate, offer.name


def test_every_name_is_read_as_the_device_it_stands_for() -> None:
    table = {(known.name, known.units) for known in known_devices()}
    for kind, choices in offers().items():
        for offer in choices:
            for count in (1, *SEVERAL.get(kind, ())):
                name = f"{count}x {offer.name}" if count > 1 else offer.name
                read, known = parse_device(name)
                assert known is not None
                assert read == count
                assert (known.name, known.units) in table
                assert known.memory_bytes == offer.memory_bytes
                assert known.bandwidth_bytes_per_second == offer.bandwidth_bytes_per_second
                assert known.architecture not in OLDER


def test_several_cards_where_no_single_one_does() -> None:
    found = only(asked("codellama:70b", min_generation_tokens_per_second=10))
    names = {example.kind: example.name for example in found.examples}
    assert names["NVIDIA desktop"] == "2x NVIDIA GeForce RTX 3090"
    assert not names["NVIDIA data centre"].startswith("2x")


def test_what_no_device_does_is_an_answer_with_its_reason() -> None:
    slow = only(asked("llama3.1:8b", min_generation_tokens_per_second=100_000))
    large = only(asked("deepseek-r1:671b", context_length=16_000_000, parallel=64))
    assert slow.examples == large.examples == ()
    assert slow.gpu.bandwidth_bytes_per_second is None
    assert large.gpu_memory_bytes is None
    assert "fast enough" in str(slow.reason)
    assert "nor up to 8 of one" in str(large.reason)


def test_every_tag_of_the_checkpoint_the_asked_one_first() -> None:
    found = plan(CATALOG, asked("llama3.1:8b-instruct-q5_K_M"))
    tags = [one.tag for one in found.quantizations]
    model, _ = CATALOG.find("llama3.1:8b")
    assert tags[0] == found.tag == "llama3.1:8b-instruct-q5_K_M"
    assert set(tags) == {tag.name for tag in model.tags if tag.quantization}
    sizes = [one.gpu.free_memory_bytes for one in found.quantizations[1:]]
    assert sizes == sorted(sizes)


def test_a_quantization_without_a_tag_can_be_asked_by_name() -> None:
    found = plan(CATALOG, asked("qwen3:8b", quantizations=["iq4_xs"], context_length="8k"))
    (one,) = found.quantizations
    assert (one.quantization, one.tag) == ("IQ4_XS", None)
    assert one.request == {
        "model": found.tag,
        "quantization": "IQ4_XS",
        "context_length": 8192,
    }


def test_the_context_does_not_grow_with_the_machine() -> None:
    """Ollama's default would: an example with more memory had to hold a longer context."""
    found = plan(CATALOG, asked("llama3.1:8b"))
    assert found.context_length == 4096
    assert "context_length not given" in found.warnings[0]
    short = plan(CATALOG, asked("nomic-embed-text"))
    assert short.context_length == short.context_length_limit == 2048


def test_a_context_beyond_training_is_cut_as_ollama_cuts_it() -> None:
    most = plan(CATALOG, asked("llama3.2", context_length=131072))
    found = plan(CATALOG, asked("llama3.2", context_length=10**30))

    assert found.context_length == found.context_length_limit == 131072
    assert found.quantizations == most.quantizations
    assert "Ollama cuts it" in found.warnings[0]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"quantizations": ["Q4_K_M", "Q9_X"]}, "quantizations[1]"),
        ({"kv_cache_type": "q8_0", "flash_attention": "off"}, "kv_cache_type"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(CATALOG, asked("llama3.1:8b", **fields))
    assert caught.value.errors[0].field == field


def test_an_unknown_tag_gets_near_names() -> None:
    with pytest.raises(UnknownModel) as caught:
        plan(CATALOG, asked("lama3.1:8b"))
    assert "llama3.1:8b" in caught.value.suggestions


def test_the_same_question_gets_the_same_bytes() -> None:
    def encoded() -> bytes:
        found: Plan = plan(CATALOG, asked("mixtral:8x7b", min_generation_tokens_per_second=20))
        return msgspec.json.encode(found)

    assert encoded() == encoded()
