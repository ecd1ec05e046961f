"""The longest context that stays on the GPUs, with the batch that Ollama takes there."""

from __future__ import annotations

from tagfit.advice.estimate import EstimateRequest, longest_context, read_subject, resolve_load
from tagfit.catalog.library import load
from tagfit.facts import CacheType, Device, Hardware

GIB = 1 << 30


def test_a_larger_batch_beyond_a_step_does_not_shorten_the_context_before_it() -> None:
    """A q8_0 cache would last beyond 4096 tokens, where a batch of 1024 takes what it saves."""
    subject = read_subject(load(), EstimateRequest(model="dolphincoder:7b-starcoder2-q8_0"))
    small = Device(name="a", memory_bytes=8 * GIB, free_memory_bytes=8 * GIB)
    busy = Device(name="b", memory_bytes=12 * GIB, free_memory_bytes=int(3.6 * GIB))
    hardware = Hardware(gpus=(small, busy), memory_bytes=64 * GIB, free_memory_bytes=64 * GIB)

    def longest(cache_type: CacheType) -> int:
        asked = EstimateRequest(model="", kv_cache_type=cache_type)
        runtime = resolve_load(subject, asked, hardware)
        return longest_context(subject, asked, runtime, hardware, "gpu")

    assert 0 < longest("f16") <= longest("q8_0")
