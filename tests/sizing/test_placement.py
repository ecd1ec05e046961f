"""Where a model lies, against llama.cpp's accounting and against its own promises."""

from __future__ import annotations

from itertools import product
from statistics import median

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tagfit.facts import Architecture, Backend, Device, DeviceMemory, Hardware, Placement, Runtime
from tagfit.sizing import fit, rules
from tagfit.sizing.mixtures import weights
from tagfit.sizing.placement import max_context_length, place
from tests.reference_models import REFERENCE_MODELS
from tests.sizing.memory_rows import Row, rows
from tests.sizing.test_compute import experts_on_host
from tests.stopwatch import milliseconds

GIB = rules.GIB
LLAMA = REFERENCE_MODELS["llama-3.1-8b"]
LLAMA_Q4 = weights(LLAMA, "Q4_K_M")
MOE = REFERENCE_MODELS["qwen3-30b-a3b"]
MOE_Q4 = weights(MOE, "Q4_K_M")


def gpu(memory_gib: float, backend: Backend = "cuda", free_gib: float | None = None) -> Device:
    """A GPU of which all or so much memory is free."""
    free = memory_gib if free_gib is None else free_gib
    return Device(
        name=f"{backend} {memory_gib} GiB",
        memory_bytes=int(memory_gib * GIB),
        free_memory_bytes=int(free * GIB),
        backend=backend,
    )


def machine(*gpus: Device, memory_gib: float = 256, **environment: str) -> Hardware:
    """A machine whose RAM is all free."""
    size = int(memory_gib * GIB)
    return Hardware(gpus=gpus, memory_bytes=size, free_memory_bytes=size, environment=environment)


EVEN, UNEVEN = (1, 1), (2, 1)
"""Some rows were split 2 to 1 over two devices and do not say so."""


def row_placement(row: Row) -> Placement:
    """The row as a request: so many layers forced onto so many large GPUs."""
    wanted = row.on_gpu(0, "model")
    free = EVEN if resident_weights(row, EVEN)[0] == wanted else UNEVEN
    context = rules.DRIVER_CONTEXT["cuda"] / GIB
    gpus = [gpu(500 * share + context) for share in free[: row.gpus]]
    hardware = machine(*gpus, memory_gib=1024, OLLAMA_SCHED_SPREAD="1")
    return place(REFERENCE_MODELS[row.model], row.weights, row.runtime, hardware)


def is_request(row: Row) -> bool:
    """Whether a request can ask for the row's load.

    Not: RPC devices, --no-kv-offload, and rows with --n-cpu-moe, which do not say so.
    """
    return (
        row.backend.startswith("fake") and not row.keeps_cache_on_host and not experts_on_host(row)
    )


def resident_weights(row: Row, free: tuple[int, ...]) -> tuple[int, ...]:
    """Weights on each GPU, then on the host, for GPUs with so much free memory."""
    arch = REFERENCE_MODELS[row.model]
    model = fit.load(arch, row.weights, row.runtime, padded=True)
    shares = fit.split(min(row.ngl, model.layers), free[: row.gpus])
    return tuple(used.weights for used in fit.resident(model, shares))


def test_weights_lie_where_llama_cpp_puts_them_to_the_byte() -> None:
    wrong = []
    requests = [row for row in rows("split") if is_request(row)]
    for row in requests:
        wanted = (*(row.on_gpu(index, "model") for index in range(row.gpus)), row.on_host("model"))
        if wanted not in {resident_weights(row, EVEN), resident_weights(row, UNEVEN)}:
            wrong.append(row)

    assert len(requests) > 2000
    assert wrong == []


def test_experts_kept_on_the_host_are_found_in_the_rows_that_do_not_say_so() -> None:
    moved = [row for row in rows("split") if experts_on_host(row)]

    assert 70 < len(moved) < 100
    assert {row.model for row in moved} <= {
        name for name, arch in REFERENCE_MODELS.items() if arch.expert_count
    }


def test_cpu_weights_are_counted_once_repacked_or_not() -> None:
    wrong = []
    for row in rows("cpu"):
        runtime = msgspec.structs.replace(row.runtime, offloaded_layers=None)
        arch = REFERENCE_MODELS[row.model]
        (host,) = place(arch, row.weights, runtime, machine(memory_gib=1024)).devices
        if host.weights_bytes != sum(row.bytes["model"].values()):
            wrong.append((row, host))

    assert wrong == []


def errors(row: Row) -> list[float]:
    """Relative error of the total of each device of a row."""
    *gpus, host = row_placement(row).devices

    def wanted(index: int) -> int:
        return sum(row.on_gpu(index, kind) for kind in ("model", "context", "compute"))

    def known(device: DeviceMemory) -> int:
        return device.total_bytes - device.other_bytes

    output = 4 * REFERENCE_MODELS[row.model].vocab_size * row.n_seq
    on_host = sum(row.on_host(kind) for kind in ("model", "context", "compute")) + output
    pairs = [(known(device), wanted(index)) for index, device in enumerate(gpus)]
    pairs.append((known(host), on_host))
    return [found / true - 1 for found, true in pairs if true]


def test_llama_server_takes_what_was_predicted_on_every_device() -> None:
    """Whole, partial, several GPUs: 99 % of totals within 1 %, none short by more than 1 %."""
    found = [
        error for row in rows("split") if row.is_server and is_request(row) for error in errors(row)
    ]

    assert len(found) > 1500
    assert sum(abs(error) <= 0.01 for error in found) >= 0.99 * len(found)
    assert median(map(abs, found)) == 0
    assert min(found) > -0.01


def on_one_gpu(row: Row) -> int:
    """What llama.cpp allocated on a row's only GPU."""
    return sum(row.on_gpu(0, kind) for kind in ("model", "context", "compute"))


def fitted(row: Row) -> Placement:
    """Where the row's load would go if the GPU had room for just what it took there."""
    free = on_one_gpu(row) + rules.DRIVER_CONTEXT["cuda"] + rules.FIT_MARGIN
    runtime = msgspec.structs.replace(row.runtime, offloaded_layers=None)
    hardware = machine(gpu(1024, free_gib=free / GIB), memory_gib=1024)
    return place(REFERENCE_MODELS[row.model], row.weights, runtime, hardware)


def settings_of(row: Row) -> tuple[object, ...]:
    """A row without its number of layers."""
    return (row.model, row.ftype, row.runtime.parallel, row.n_ctx, row.n_ubatch, row.fa, row.ctk)


def test_fit_chooses_the_layers_that_took_just_so_much_room() -> None:
    """On 95 % of the rows, and never more than what llama.cpp could really hold there.

    Of a mixture of experts all layers go to the GPU before their experts do: only whole loads
    say what --fit would choose.
    """
    one_gpu = [row for row in rows("split") if row.is_server and row.gpus == 1 and is_request(row)]
    taken = {(settings_of(row), row.ngl): on_one_gpu(row) for row in one_gpu}
    cases = exact = 0
    too_many = []
    for row in one_gpu:
        arch = REFERENCE_MODELS[row.model]
        layers = arch.block_count + 1
        if arch.expert_count and row.ngl < layers:
            continue
        found = fitted(row)
        cases += 1
        exact += found.offloaded_layers == min(row.ngl, layers)
        if found.offloaded_layers > row.ngl:
            real = taken.get((settings_of(row), found.offloaded_layers))
            if real is None or real > on_one_gpu(row):
                too_many.append((row, found))
        assert (found.verdict == "gpu") == (found.offloaded_layers == layers)

    assert cases > 800
    assert exact >= 0.95 * cases
    assert too_many == []


HARDWARE = st.builds(
    lambda sizes, memory, backend: machine(
        *(gpu(size, backend, free_gib=size * 0.95) for size in sizes), memory_gib=memory
    ),
    st.lists(st.sampled_from([2, 4, 6, 8, 12, 16, 24, 48, 80]), max_size=3),
    st.sampled_from([8, 16, 32, 64, 256]),
    st.sampled_from(["cuda", "rocm", "vulkan"]),
)
MODELS = st.sampled_from(
    ["llama-3.2-1b", "llama-3.1-8b", "gemma-2-9b", "qwen3-30b-a3b", "gpt-oss-20b", "llama-3.1-70b"]
)
QUANTIZATIONS = {"gpt-oss-20b": "MXFP4_MOE"}


def laid(model: str, runtime: Runtime, hardware: Hardware) -> Placement:
    arch = REFERENCE_MODELS[model]
    return place(arch, weights(arch, QUANTIZATIONS.get(model, "Q4_K_M")), runtime, hardware)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MODELS, HARDWARE, st.sampled_from([512, 4096, 8192, 32768]))
def test_nothing_is_promised_that_does_not_fit(
    model: str, hardware: Hardware, context: int
) -> None:
    """Each GPU keeps the margin that llama.cpp leaves; the host holds what is left.

    llama.cpp fills GPUs one after the other; when the last layer leaves the host, it begins to
    work on several micro-batches at once, and all GPUs take more than it had measured.
    """
    found = laid(model, Runtime(context_length=context), hardware)

    *gpus, host = found.devices
    if found.verdict != "none":
        assert host.total_bytes <= host.available_bytes
    pipeline = len(gpus) > 1 and found.verdict == "gpu"
    margin = 0 if pipeline else rules.FIT_MARGIN
    for device in gpus:
        if device.layers:
            assert device.total_bytes <= device.available_bytes - margin
    assert sum(device.layers for device in found.devices) == found.total_layers
    assert sum(device.layers for device in gpus) == found.offloaded_layers


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MODELS, HARDWARE)
def test_no_byte_of_the_model_is_lost(model: str, hardware: Hardware) -> None:
    """Devices hold all tensors; more only for padding, tied embeddings and factors of RoPE."""
    arch = REFERENCE_MODELS[model]
    stored = weights(arch, QUANTIZATIONS.get(model, "Q4_K_M"))
    held = sum(d.weights_bytes for d in laid(model, Runtime(context_length=4096), hardware).devices)

    (embedding,) = (t for t in stored.tensors if t.group.name == "token_embd.weight")
    twice = 0 if arch.has_output else embedding.total_bytes
    assert stored.tensor_bytes <= held <= 1.002 * stored.tensor_bytes + twice


def needed(model: str, runtime: Runtime) -> int:
    """Bytes on all devices, all layers on one large GPU."""
    found = laid(model, runtime, machine(gpu(1024)))
    return sum(device.total_bytes for device in found.devices)


@settings(max_examples=60, deadline=None)
@given(
    MODELS,
    st.sampled_from([256, 1000, 4096, 16384, 100000]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["q4_0", "q8_0", "f16"]),
)
def test_more_context_or_more_requests_never_need_less(
    model: str, context: int, parallel: int, kind: str
) -> None:
    runtime = msgspec.convert(
        {
            "context_length": context,
            "parallel": parallel,
            "kv_cache_type": kind,
            "batch_size": 2048,
            "micro_batch_size": 512,
        },
        Runtime,
    )
    base = needed(model, runtime)

    longer = msgspec.structs.replace(runtime, context_length=2 * context)
    assert needed(model, longer) >= base
    unified = msgspec.structs.replace(runtime, kv_unified=True)
    busier = msgspec.structs.replace(unified, parallel=2 * parallel)
    assert needed(model, busier) >= needed(model, unified)


def test_all_layers_on_the_gpu_is_verdict_gpu_with_figures_in_its_reason() -> None:
    found = place(LLAMA, LLAMA_Q4, Runtime(context_length=8192), machine(gpu(12)))

    assert found.verdict == "gpu"
    assert found.offloaded_layers == found.total_layers == 33
    assert "33 layers" in found.reason
    assert "12.0 GiB" in found.reason


def test_a_small_gpu_takes_the_last_layers() -> None:
    found = place(LLAMA, LLAMA_Q4, Runtime(context_length=4096), machine(gpu(4)))

    assert found.verdict == "partial"
    assert 0 < found.offloaded_layers < 33


def test_experts_are_what_goes_to_the_host_first() -> None:
    """All layers are on the GPU, some without their experts, and what is left is well used."""
    found = place(MOE, MOE_Q4, Runtime(context_length=8192), machine(gpu(12)))
    on_gpu, host = found.devices

    assert found.verdict == "partial"
    assert found.offloaded_layers == found.total_layers
    assert host.kv_cache_bytes == 0
    assert host.weights_bytes > 5 * GIB
    assert on_gpu.available_bytes - on_gpu.total_bytes < 1.4 * GIB


def test_without_a_gpu_the_ram_decides() -> None:
    runtime = Runtime(context_length=4096)

    assert place(LLAMA, LLAMA_Q4, runtime, machine(memory_gib=8)).verdict == "cpu"
    assert place(LLAMA, LLAMA_Q4, runtime, machine(memory_gib=4)).verdict == "none"


def test_a_partial_load_that_ram_cannot_hold_is_verdict_none() -> None:
    big = REFERENCE_MODELS["llama-3.1-70b"]
    found = place(
        big, weights(big, "Q4_K_M"), Runtime(context_length=4096), machine(gpu(8), memory_gib=16)
    )

    assert found.verdict == "none"
    assert "16.0 GiB" in found.reason


def test_forced_layers_use_the_margin_and_may_not_fit() -> None:
    forced = Runtime(context_length=4096, offloaded_layers=33)

    assert place(LLAMA, LLAMA_Q4, forced, machine(gpu(6))).verdict == "gpu"
    assert place(LLAMA, LLAMA_Q4, forced, machine(gpu(5))).verdict == "none"


def test_forced_layers_beyond_the_last_are_all() -> None:
    forced = Runtime(context_length=4096, offloaded_layers=999)

    assert place(LLAMA, LLAMA_Q4, forced, machine(gpu(12))).offloaded_layers == 33


@pytest.mark.parametrize(("margin", "verdict"), [("1024", "partial"), ("128", "gpu")])
def test_the_margin_can_be_set(margin: str, verdict: str) -> None:
    hardware = machine(gpu(6.2), LLAMA_ARG_FIT_TARGET=margin)

    assert place(LLAMA, LLAMA_Q4, Runtime(context_length=4096), hardware).verdict == verdict


def test_a_projector_goes_to_the_first_gpu_and_widens_the_margin() -> None:
    runtime = Runtime(context_length=4096)
    with_room, tight = (
        place(LLAMA, LLAMA_Q4, runtime, machine(gpu(size)), projector_bytes=GIB) for size in (9, 7)
    )

    assert with_room.verdict == "gpu"
    assert with_room.devices[0].other_bytes == GIB + rules.DRIVER_CONTEXT["cuda"]
    assert tight.verdict == "partial"


def test_a_projector_that_no_gpu_can_hold_stays_on_the_host() -> None:
    runtime = Runtime(context_length=4096)
    found = place(LLAMA, LLAMA_Q4, runtime, machine(gpu(4)), projector_bytes=4 * GIB)

    assert found.devices[-1].other_bytes == 4 * GIB


def test_unequal_gpus_are_filled_in_proportion_to_what_is_free() -> None:
    big = REFERENCE_MODELS["llama-3.1-70b"]
    found = place(
        big,
        weights(big, "Q4_K_M"),
        Runtime(context_length=4096),
        machine(gpu(48), gpu(24), memory_gib=64),
    )
    first, second, host = found.devices

    assert found.verdict == "gpu"
    # 48 and 24 GiB without a driver context each are 2.02 to 1
    assert (first.layers, second.layers, host.layers) == (55, 26, 0)


def test_unified_memory_is_not_counted_twice() -> None:
    """What the GPU takes of it, the host has no more."""
    shared = Hardware(
        gpus=(gpu(64, "rocm", free_gib=60),),
        memory_bytes=64 * GIB,
        free_memory_bytes=20 * GIB,
        unified_memory=True,
    )
    big = REFERENCE_MODELS["llama-3.1-70b"]

    found = place(big, weights(big, "Q4_K_M"), Runtime(context_length=4096), shared)

    assert found.verdict == "none"


def longest(arch: Architecture, hardware: Hardware, runtime: Runtime, verdict: str = "gpu") -> int:
    found = weights(arch, "Q4_K_M")
    if verdict == "gpu":
        return max_context_length(arch, found, runtime, hardware)
    return max_context_length(arch, found, runtime, hardware, verdict="any")


@pytest.mark.parametrize(("memory_gib", "parallel"), list(product([7, 8, 12], [1, 2])), ids=str)
def test_the_longest_context_fits_and_the_next_does_not(memory_gib: int, parallel: int) -> None:
    hardware = machine(gpu(memory_gib))
    runtime = Runtime(context_length=4096, parallel=parallel)

    length = longest(LLAMA, hardware, runtime)

    def verdict(context: int) -> str:
        changed = msgspec.structs.replace(runtime, context_length=context)
        return place(LLAMA, LLAMA_Q4, changed, hardware).verdict

    assert length % 256 == 0
    assert verdict(length) == "gpu"
    assert verdict(length + 256) != "gpu"


def test_a_smaller_cache_type_allows_a_longer_context() -> None:
    hardware = machine(gpu(8))
    lengths = [
        longest(
            LLAMA, hardware, msgspec.convert({"context_length": 1, "kv_cache_type": kind}, Runtime)
        )
        for kind in ("f16", "q8_0", "q4_0")
    ]

    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_the_longest_context_is_cut_to_the_trained_one() -> None:
    assert longest(LLAMA, machine(gpu(80)), Runtime(context_length=1)) == LLAMA.context_length


def test_no_context_fits_where_the_weights_do_not() -> None:
    assert longest(LLAMA, machine(gpu(4)), Runtime(context_length=1)) == 0


def test_the_longest_context_that_runs_at_all_may_use_the_ram() -> None:
    hardware = machine(gpu(4), memory_gib=16)
    runtime = Runtime(context_length=1)

    assert longest(LLAMA, hardware, runtime, "any") > longest(LLAMA, hardware, runtime)


def test_without_a_gpu_the_longest_context_is_what_ram_holds() -> None:
    length = longest(LLAMA, machine(memory_gib=8), Runtime(context_length=1))

    assert 8192 < length < LLAMA.context_length


def test_a_placement_over_eight_gpus_takes_less_than_a_millisecond() -> None:
    arch = msgspec.structs.replace(REFERENCE_MODELS["llama-3.1-70b"], block_count=100)
    stored = weights(arch, "Q4_K_M")
    hardware = machine(*[gpu(24)] * 8)
    runtime = Runtime(context_length=32768, micro_batch_size=512)
    place(arch, stored, runtime, hardware)

    assert milliseconds(lambda: place(arch, stored, runtime, hardware)) < 1


def test_gpus_without_a_layer_are_no_part_of_a_pipeline() -> None:
    """The search for the layers also tries all of them on the last of many GPUs."""
    found = place(LLAMA, LLAMA_Q4, Runtime(context_length=4096), machine(*[gpu(1.91)] * 6))

    assert sum(device.layers for device in found.devices) == found.total_layers
