"""The machine as Ollama finds it, put together from all probes, in time and without failing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from tagfit.facts import Device
from tagfit.hardware.cgroup import Limits
from tagfit.hardware.cpu import Cpu
from tagfit.hardware.disk import Disk
from tagfit.hardware.gpu import Gpu, GpuReport, ProbeStatus
from tagfit.hardware.host import Memory
from tagfit.hardware.probe import Probed, Prober, describe
from tagfit.hardware.probed import assemble

Driver = Callable[..., dict[str, str]]
Tree = Callable[[Mapping[str, str]], Path]
GIB = 2**30
MIB = 2**20
RTX_3090 = "NVIDIA GeForce RTX 3090,24576,20000,400,9751,384"
RTX_3060 = "NVIDIA GeForce RTX 3060,12288,11900,200,7501,192"


def prober(environment: Mapping[str, str] | None = None, **settings: Any) -> Prober:
    usual: dict[str, Any] = {"timeout_seconds": 10, "measure_bandwidth": False}
    return Prober(environment=environment or {}, **usual | settings)


def put_together(**parts: Any) -> Probed:
    usual: dict[str, Any] = {
        "reports": {},
        "memory": Memory(32 * GIB, 24 * GIB),
        "cpu": Cpu(performance_cores=8),
        "limits": Limits(),
        "disk": Disk(),
        "bandwidth_bytes_per_second": None,
        "environment": {},
    }
    return assemble(**usual | parts)


def report(*gpus: Gpu) -> GpuReport:
    return GpuReport(status=ProbeStatus("ok"), gpus=gpus)


async def test_this_machine() -> None:
    probed = await prober().probe()

    hardware = probed.hardware
    assert 0 < hardware.memory_bytes <= psutil.virtual_memory().total
    assert 0 < hardware.free_memory_bytes <= hardware.memory_bytes
    assert hardware.cores >= 1
    assert probed.probe["memory"].status == "ok"


async def test_gpus_of_the_driver_are_the_machines(driver: Driver) -> None:
    environment = driver(RTX_3090, RTX_3060) | {"CUDA_VISIBLE_DEVICES": "1"}

    probed = await prober(environment).probe()

    assert probed.hardware.gpus == (
        Device(
            name="NVIDIA GeForce RTX 3060",
            memory_bytes=12288 * MIB,
            free_memory_bytes=11900 * MIB,
            bandwidth_bytes_per_second=360_048_000_000,
        ),
    )
    assert [gpu.index for gpu in probed.gpus] == [1, 0]
    assert (probed.nvidia_driver_version, probed.cuda_version) == ("580.95.05", "13.0")
    assert probed.hardware.environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert probed.probe["nvidia"] == ProbeStatus("ok")


async def test_warm_answers_are_the_same_and_quick(driver: Driver) -> None:
    machine = prober(driver(RTX_3090))
    first = await machine.probe()
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        assert await machine.probe() is first
        seconds.append(time.monotonic() - start)

    assert min(seconds) < 0.05


async def test_a_refresh_probes_again(tmp_path: Path, driver: Driver) -> None:
    machine = prober(driver(RTX_3090), root=tmp_path)
    first = await machine.probe()

    assert await machine.probe(refresh=True) is not first


async def test_an_old_answer_is_probed_again() -> None:
    machine = prober(cache_seconds=0)

    assert await machine.probe() is not await machine.probe()


async def test_calls_at_the_same_time_share_one_probe() -> None:
    machine = prober(cache_seconds=0)

    first, *others = await asyncio.gather(*(machine.probe(refresh=True) for _ in range(20)))

    assert all(other is first for other in others)


async def test_a_caller_who_leaves_does_not_spoil_it_for_the_others() -> None:
    machine = prober()
    leaving, staying = asyncio.create_task(machine.probe()), asyncio.create_task(machine.probe())
    await asyncio.sleep(0)
    leaving.cancel()

    assert (await staying).hardware.memory_bytes


def test_an_instance_serves_one_event_loop_after_another() -> None:
    machine = prober(cache_seconds=0)

    assert asyncio.run(machine.probe()).hardware.memory_bytes
    assert asyncio.run(machine.probe()).hardware.memory_bytes


async def test_a_hanging_driver_costs_less_than_a_second_and_then_nothing(driver: Driver) -> None:
    """The best of three, as other programs may have the cores."""
    first: list[float] = []
    second: list[float] = []
    for _ in range(3):
        machine = Prober(environment=driver(RTX_3090, hang="init"))
        start = time.monotonic()
        probed = await machine.probe()
        first.append(time.monotonic() - start)

        assert probed.probe["nvidia"].status == "timeout"
        assert probed.hardware.memory_bytes

        start = time.monotonic()
        await machine.probe()
        second.append(time.monotonic() - start)

    assert min(first) < 1
    assert min(second) < 0.05


async def test_a_driver_that_hangs_is_asked_by_one_process_only(
    driver: Driver, driver_processes: Callable[[], set[int]]
) -> None:
    machine = Prober(
        environment=driver(RTX_3090, hang="memory"), timeout_seconds=0.3, cache_seconds=0
    )
    await machine.probe()
    start = time.monotonic()

    for _ in range(3):
        probed = await machine.probe(refresh=True)
        assert probed.probe["nvidia"].status == "timeout"

    assert time.monotonic() - start < 0.5
    assert len(driver_processes()) == 1


async def test_a_gpu_that_wakes_up_slowly_is_found_by_the_next_answer(driver: Driver) -> None:
    environment = driver(RTX_3090, slow="1")
    machine = Prober(environment=environment, timeout_seconds=0.5, cache_seconds=0)

    assert (await machine.probe()).hardware.gpus == ()

    await asyncio.sleep(2.5)
    probed = await machine.probe()

    assert [gpu.name for gpu in probed.hardware.gpus] == ["NVIDIA GeForce RTX 3090"]
    assert probed.probe["nvidia"] == ProbeStatus(
        "timeout", "no answer within 0.5 s; its last one is used"
    )


async def test_a_crashing_driver_is_a_field_of_the_answer(driver: Driver) -> None:
    probed = await prober(driver(RTX_3090, crash="init")).probe()

    assert probed.probe["nvidia"].status == "error"
    assert probed.hardware.gpus == ()


async def test_without_sys_and_proc_all_is_unknown_and_said(tmp_path: Path) -> None:
    probed = await prober(root=tmp_path).probe()

    hardware = probed.hardware
    assert (hardware.memory_bytes, hardware.free_memory_bytes) == (0, 0)
    assert (hardware.gpus, hardware.cores) == ((), 1)
    assert hardware.disk_free_bytes is None
    statuses = {name: status.status for name, status in probed.probe.items()}
    assert statuses == {
        "nvidia": "unavailable",
        "amd": "unavailable",
        "intel": "unavailable",
        "apple": "unavailable",
        "ollama": "disabled",
        "memory": "error",
        "cpu": "ok",
        "cgroup": "ok",
        "bandwidth": "disabled",
        "disk": "ok",
    }
    assert "meminfo" in (probed.probe["memory"].detail or "")


async def test_ollamas_own_limit_comes_before_the_sidecars(tree: Tree) -> None:
    """Beside Ollama in a pod the service's own control group is not Ollama's."""
    root = tree(
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{128 * MIB}\n",
            "sys/fs/cgroup/memory.current": f"{100 * MIB}\n",
            "sys/fs/cgroup/cpu.max": "10000 100000\n",
            "sys/devices/system/cpu/online": "0-7\n",
        }
    )

    alone = (await prober(root=root).probe()).hardware
    beside = (await prober(root=root, ollama_memory_limit=6 * GIB).probe()).hardware

    assert (alone.memory_bytes, alone.free_memory_bytes, alone.cores) == (128 * MIB, 28 * MIB, 1)
    assert (beside.memory_bytes, beside.free_memory_bytes, beside.cores) == (6 * GIB, 6 * GIB, 8)


async def test_bandwidth_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def measure(cores: int) -> int:
        runs.append(cores)
        return 50 * 10**9

    monkeypatch.setattr("tagfit.hardware.bandwidth.measure", measure)
    monkeypatch.setattr("tagfit.hardware.bandwidth.LEAST_FREE_BYTES", 0)
    machine = prober(measure_bandwidth=True, cache_seconds=0)

    first, second = await machine.probe(), await machine.probe()

    if first.limits.cpus is None:
        assert len(runs) == 1
        assert first.hardware.bandwidth_bytes_per_second == 50 * 10**9
        assert second.hardware.bandwidth_bytes_per_second == 50 * 10**9


async def test_bandwidth_is_not_measured_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagfit.hardware.bandwidth.LEAST_FREE_BYTES", 2**60)

    probed = await prober(measure_bandwidth=True).probe()

    assert probed.probe["bandwidth"].status == "unavailable"
    assert probed.hardware.bandwidth_bytes_per_second is None


def test_limits_bound_memory_and_cores() -> None:
    limits = Limits(memory_bytes=8 * GIB, free_memory_bytes=5 * GIB, cpus=1.5)

    hardware = put_together(limits=limits).hardware

    assert (hardware.memory_bytes, hardware.free_memory_bytes) == (8 * GIB, 5 * GIB)
    assert hardware.cores == 2


def test_limits_beyond_the_machine_bound_nothing() -> None:
    limits = Limits(memory_bytes=64 * GIB, free_memory_bytes=60 * GIB, cpus=64)

    hardware = put_together(limits=limits).hardware

    assert (hardware.memory_bytes, hardware.free_memory_bytes) == (32 * GIB, 24 * GIB)
    assert hardware.cores == 8


@pytest.mark.parametrize("impossible", [0, 4096, 2**63])
def test_an_impossible_size_is_not_believed(impossible: int) -> None:
    limits = Limits(memory_bytes=impossible, free_memory_bytes=impossible)
    gpu = Gpu(name="card", vendor="amd", backend="rocm", index=0, memory_bytes=impossible)

    limited = put_together(limits=limits).hardware
    unknown = put_together(limits=limits, memory=None, reports={"amd": report(gpu)})

    assert limited.memory_bytes == 32 * GIB
    assert (unknown.hardware.memory_bytes, unknown.hardware.free_memory_bytes) == (0, 0)
    assert unknown.hardware.gpus == ()
    assert unknown.gpus[0].excluded == "its driver tells an impossible memory"


def test_a_gpu_without_memory_of_its_own_has_the_hosts() -> None:
    """Jetson and DGX Spark, whose driver gives no memory."""
    gb10 = Gpu(name="NVIDIA GB10", vendor="nvidia", backend="cuda", integrated=True)

    hardware = put_together(reports={"nvidia": report(gb10)}).hardware

    assert hardware.unified_memory
    (device,) = hardware.gpus
    assert (device.memory_bytes, device.free_memory_bytes) == (32 * GIB, 24 * GIB)


def test_an_unused_integrated_gpu_does_not_make_memory_unified() -> None:
    igpu = Gpu(name="UHD", vendor="intel", backend="vulkan", integrated=True, unified=True)

    probed = put_together(reports={"intel": report(igpu)})

    assert probed.hardware.gpus == ()
    assert not probed.hardware.unified_memory
    assert probed.gpus[0].excluded


async def test_all_of_it_can_be_written_as_json(driver: Driver) -> None:
    probed = await prober(driver(RTX_3090)).probe()

    assert msgspec.json.decode(msgspec.json.encode(probed), type=Probed) == probed


async def test_a_person_reads_what_was_found_and_what_was_not(driver: Driver) -> None:
    environment = driver(RTX_3090, RTX_3060) | {"CUDA_VISIBLE_DEVICES": "0"}

    text = describe(await prober(environment).probe())

    assert "GPU        NVIDIA GeForce RTX 3090, 24.0 GiB, 19.5 GiB free, 936 GB/s" in text
    assert "not used: hidden by CUDA_VISIBLE_DEVICES=0" in text
    assert "driver     NVIDIA 580.95.05, CUDA up to 13.0" in text
    assert "amd        unavailable: no AMD card in /sys/class/drm" in text
    assert "None" not in text


async def test_nothing_of_a_failing_probe_is_logged(
    driver: Driver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    await prober(driver(RTX_3090, crash="init")).probe()

    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
