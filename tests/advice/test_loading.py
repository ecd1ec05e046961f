"""What Ollama is told, and what ``ollama ps`` shows."""

from __future__ import annotations

import pytest

from tagfit.advice.estimate import EstimateRequest, Load, lay, read_subject
from tagfit.advice.loading import processor, settings, uncounted_cache_bytes
from tagfit.advice.machine import PostedGpu, PostedHardware, read_machine
from tagfit.catalog.library import load as load_catalog
from tagfit.facts import Device, DeviceMemory, Hardware, Placement, Runtime, Verdict
from tagfit.sizing import kv_cache
from tagfit.units import GIB, Bytes, Tokens
from tests.reference_models import REFERENCE_MODELS

CATALOG = load_catalog()
LLAMA = REFERENCE_MODELS["llama-3.1-8b"]
CUDA = Hardware(gpus=(Device(name="a", memory_bytes=8 * GIB, free_memory_bytes=8 * GIB),))


def placed(verdict: Verdict, gpu: int, host: int, *, compute: int = 0) -> Placement:
    """Weights of so many bytes on a GPU, and on the host, with a driver context of 500."""
    devices = tuple(
        DeviceMemory(
            name=name,
            kind="gpu" if name == "GPU" else "cpu",
            weights_bytes=size,
            kv_cache_bytes=0,
            compute_bytes=compute if name == "GPU" else 0,
            other_bytes=500 if name == "GPU" else 0,
            available_bytes=GIB,
            layers=1,
        )
        for name, size in (("GPU", gpu), ("CPU", host))
    )
    return Placement(
        devices=devices, offloaded_layers=1, total_layers=2, verdict=verdict, reason=""
    )


@pytest.mark.parametrize(
    ("placement", "column"),
    [
        (placed("gpu", 900, 100), "100% GPU"),
        (placed("partial", 680, 320), "32%/68% CPU/GPU"),
        (placed("partial", 875, 125), "13%/87% CPU/GPU"),
        (placed("cpu", 0, 1000), "100% CPU"),
        (placed("cpu", 0, 900, compute=100), "90%/10% CPU/GPU"),
        (placed("none", 900, 100), None),
    ],
)
def test_the_column_is_the_share_of_llama_servers_buffers(
    placement: Placement, column: str | None
) -> None:
    """Half a per cent rounds up, all layers on the GPU are 100 %, whatever the host keeps."""
    assert processor(placement, 1000) == column


def test_memory_mapped_weights_count_no_more_often_than_the_file_holds_them() -> None:
    """A tied embedding is on the host and, as output, on the GPU."""
    twice = placed("partial", 600, 600)

    assert processor(twice, 1000) == "40%/60% CPU/GPU"
    assert processor(twice, 1000, mapped=False) == "50%/50% CPU/GPU"


@pytest.mark.parametrize("vram", [4, 6, 10, 100])
def test_of_two_caches_ollama_sees_only_that_of_the_sliding_blocks(vram: int) -> None:
    """Gemma 3 12B: each sixth block is full attention; Llama has one cache, which it sees."""
    machine = read_machine(
        PostedHardware(gpus=(PostedGpu(memory=Bytes(vram * GIB)),), memory=Bytes(64 * GIB))
    ).hardware
    load = Load(context_length=Tokens(8192))
    for name, share in (("gemma3:12b", 1), ("llama3.1:8b", 0)):
        subject = read_subject(CATALOG, EstimateRequest(model=name))
        arch = subject.model.architecture
        runtime, placement = lay(subject, load, machine)
        blocks = kv_cache.cache_bytes_by_block(arch, runtime)
        full = [size for i, size in enumerate(blocks) if not kv_cache.slides(arch, i)]
        found = uncounted_cache_bytes(arch, runtime, placement, machine)

        assert len(found) == len(placement.devices)
        assert sum(found) == share * sum(full)
        for device, bytes_ in zip(placement.devices, found, strict=True):
            assert bytes_ <= device.kv_cache_bytes


def test_what_is_not_seen_is_not_in_the_column() -> None:
    assert processor(placed("partial", 600, 400), 1000, uncounted=(200, 0)) == "50%/50% CPU/GPU"
    assert processor(placed("partial", 600, 400), 1000, uncounted=(0, 250)) == "20%/80% CPU/GPU"


def test_what_is_ollamas_default_need_not_be_set() -> None:
    found = settings(LLAMA, Runtime(context_length=4096), CUDA, batch_asked=False)

    assert found.options == {"num_ctx": 4096}
    assert found.environment == {}
    assert found.not_settable == ()


def test_everything_else_is_an_option_or_a_variable() -> None:
    runtime = Runtime(
        context_length=8192,
        parallel=4,
        kv_cache_type="q8_0",
        batch_size=256,
        micro_batch_size=256,
        offloaded_layers=10,
    )
    found = settings(LLAMA, runtime, CUDA, batch_asked=True)

    assert found.options == {"num_ctx": 8192, "num_batch": 256, "num_gpu": 10}
    assert found.environment == {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_NUM_PARALLEL": "4"}


def test_flash_attention_is_set_where_the_backend_decides_otherwise() -> None:
    (gpu,) = CUDA.gpus
    off = Runtime(context_length=4096, flash_attention=False)
    sycl = Hardware(gpus=(Device(name="b", memory_bytes=1, free_memory_bytes=1, backend="sycl"),))

    assert gpu.backend == "cuda"
    assert settings(LLAMA, off, CUDA, batch_asked=False).environment == {
        "OLLAMA_FLASH_ATTENTION": "0"
    }
    assert settings(LLAMA, off, sycl, batch_asked=False).environment == {}


def test_what_ollama_cannot_be_told_is_named() -> None:
    runtime = Runtime(
        context_length=4096, parallel=2, kv_unified=True, batch_size=2048, micro_batch_size=512
    )
    found = settings(LLAMA, runtime, CUDA, batch_asked=True)

    assert found.not_settable == ("batch_size", "kv_unified")
