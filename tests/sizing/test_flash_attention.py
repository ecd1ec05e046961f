"""Where llama.cpp's flash attention runs, and what it costs where a GPU cannot run it."""

from __future__ import annotations

from typing import Any

import pytest

from tagfit.facts import Architecture, CacheType, Device, Hardware, Runtime
from tagfit.sizing.flash_attention import runs_on_cuda
from tagfit.sizing.mixtures import weights
from tagfit.sizing.placement import place
from tagfit.sizing.runtime import resolve
from tests.oracle.specimens import BASE
from tests.reference_models import REFERENCE_MODELS

GIB = 1 << 30


def machine(**more: Any) -> Hardware:
    gpu = Device(name="GPU", memory_bytes=64 * GIB, free_memory_bytes=64 * GIB)
    return Hardware(gpus=(gpu,), memory_bytes=64 * GIB, free_memory_bytes=64 * GIB, **more)


def arch(key: int, value: int, heads: int, heads_kv: int) -> Architecture:
    changed = {"head_count": heads, "head_count_kv": heads_kv}
    lengths = {"key_length": key, "value_length": value}
    return Architecture(architecture="llama", **(BASE | changed | lengths))


@pytest.mark.parametrize(
    ("key", "value", "heads", "heads_kv", "runs"),
    [
        (128, 128, 8, 8, True),
        (80, 80, 8, 8, True),
        (160, 160, 8, 2, False),
        (32, 32, 8, 8, False),
        (512, 512, 8, 8, False),
        (512, 512, 8, 4, True),
        (192, 128, 16, 16, False),
        (192, 128, 16, 2, True),
        (192, 128, 16, 4, False),
        (128, 64, 8, 8, False),
    ],
)
def test_cuda_has_kernels_for_some_heads_only(
    key: int, value: int, heads: int, heads_kv: int, runs: bool
) -> None:
    """ggml-cuda/fattn.cu:541: by their lengths, and for some by the queries for each."""
    assert runs_on_cuda(arch(key, value, heads, heads_kv), "f16") == runs


def test_cuda_does_not_read_every_cache_type() -> None:
    assert runs_on_cuda(arch(128, 128, 8, 2), "q4_0")
    assert not runs_on_cuda(arch(128, 128, 8, 2), "iq4_nl")


@pytest.mark.parametrize(
    ("cache_type", "wanted", "on"),
    [("f16", "auto", False), ("q8_0", "auto", True), ("f16", "on", True), ("f16", "off", False)],
)
def test_what_a_gpu_cannot_run_is_off_unless_asked_for_or_needed(
    cache_type: CacheType, wanted: Any, on: bool
) -> None:
    """A quantized cache needs it, whatever the GPU can (llama-context.cpp:3843)."""
    model = arch(160, 160, 8, 2)
    settings: dict[str, Any] = {"kv_cache_type": cache_type, "flash_attention": wanted}

    assert resolve(model, GIB, machine(), **settings).flash_attention == on
    assert resolve(model, GIB, Hardware(), flash_attention="auto").flash_attention


def test_attention_that_a_gpu_cannot_run_brings_the_cache_to_the_host() -> None:
    model = arch(160, 160, 8, 2)
    runtime = Runtime(context_length=32768)
    supported = arch(128, 128, 8, 2)

    def host_bytes(model: Architecture) -> int:
        return place(model, weights(model, "F16"), runtime, machine()).devices[-1].compute_bytes

    cache_row = 2 * 2 * 160 * 2
    assert host_bytes(model) - host_bytes(supported) > cache_row * runtime.context_length


def test_an_embedding_model_answers_for_every_token() -> None:
    """llama-server --embedding keeps all logits of a batch (server-context.cpp:43)."""
    model = REFERENCE_MODELS["qwen3-0.6b"]
    few = resolve(model, GIB, machine(), context_length=2048, batch_size=512)
    every = resolve(model, GIB, machine(), context_length=2048, batch_size=512, embedding=True)

    def gpu_bytes(runtime: Runtime) -> int:
        return place(model, weights(model, "F16"), runtime, machine()).devices[0].compute_bytes

    assert gpu_bytes(every) > 4 * model.vocab_size * 512 > gpu_bytes(few)


def test_only_models_with_an_output_matrix_copy_their_token_embedding() -> None:
    """BERT never multiplies with it; Gemma 4 loads it twice (models/gemma4.cpp:49)."""
    bert = REFERENCE_MODELS["nomic-embed-text-v1.5"]
    runtime = Runtime(context_length=512)
    stored = weights(bert, "F16")
    found = place(bert, stored, runtime, machine())

    held = sum(device.weights_bytes for device in found.devices)
    assert held == pytest.approx(stored.tensor_bytes, rel=1e-3)
