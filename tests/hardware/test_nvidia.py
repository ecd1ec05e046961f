"""NVIDIA GPUs, asked through nvidia-ml-py's own loader of a library with NVML's entry points."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tagfit.hardware.gpu import GpuReport
from tagfit.hardware.nvidia import probe

MIB = 2**20
RTX_3090 = "NVIDIA GeForce RTX 3090,24576,20000,400,9751,384"
RTX_3060 = "NVIDIA GeForce RTX 3060,12288,11900,200,7501,192"
A100 = "NVIDIA A100-SXM4-80GB,81920,81000,600,1593,5120"

Driver = Callable[..., dict[str, str]]
Tree = Callable[[Mapping[str, str]], Path]
NOTHING = Path("/nonexistent")


def ask(environment: Mapping[str, str]) -> GpuReport:
    return probe(environment, NOTHING)


def test_everything_that_nvml_knows_of_a_gpu_is_told(driver: Driver) -> None:
    report = ask(driver(RTX_3090))

    (gpu,) = report.gpus
    assert report.status.status == "ok"
    assert (report.driver_version, report.cuda_version) == ("580.95.05", "13.0")
    assert gpu.name == "NVIDIA GeForce RTX 3090"
    assert (gpu.vendor, gpu.backend, gpu.index) == ("nvidia", "cuda", 0)
    assert gpu.uuid == "GPU-00000001-0000-0000-0000-000000000000"
    assert (gpu.pci_bus_id, gpu.pci_id) == ("0000:01:00.0", "10de:2204")
    assert gpu.compute_capability == "8.6"
    assert gpu.memory_bytes == 24576 * MIB
    assert gpu.free_memory_bytes == 20000 * MIB
    assert gpu.reserved_memory_bytes == 400 * MIB
    assert gpu.used_memory_bytes == (24576 - 20000 - 400) * MIB
    assert gpu.power_limit_watts == 350
    assert (gpu.memory_clock_hertz, gpu.memory_bus_bits) == (9_751_000_000, 384)


@pytest.mark.parametrize(
    ("spec", "datasheet_gigabytes_per_second"),
    [
        ("RTX 3090,24576,1,0,9751,384", 936),
        ("RTX 4090,24564,1,0,10501,384", 1008),
        ("RTX 5090,32607,1,0,14001,512", 1792),
        ("T4,15360,1,0,5001,256", 320),
        ("A100-40GB,40960,1,0,1215,5120", 1555),
        ("H100 SXM,81559,1,0,2619,5120", 3352),
    ],
)
def test_bandwidth_is_twice_the_memory_clock_times_the_bus(
    driver: Driver, spec: str, datasheet_gigabytes_per_second: int
) -> None:
    (gpu,) = ask(driver(spec)).gpus

    assert gpu.bandwidth_bytes_per_second is not None
    assert gpu.bandwidth_bytes_per_second / 1e9 == pytest.approx(
        datasheet_gigabytes_per_second, rel=0.005
    )


def test_several_gpus_come_in_the_drivers_order(driver: Driver) -> None:
    gpus = ask(driver(RTX_3090, RTX_3060)).gpus

    assert [(gpu.index, gpu.memory_bytes // MIB) for gpu in gpus] == [(0, 24576), (1, 12288)]


def test_a_gpu_in_mig_mode_is_its_instances(driver: Driver) -> None:
    whole, first, second = ask(driver(RTX_3090, A100, mig="1")).gpus

    assert whole.parent_uuid is None
    assert [gpu.uuid for gpu in (first, second)] == [
        "MIG-00000001-0000-0000-0000-000000000000",
        "MIG-00000001-0000-0000-0000-000000000002",
    ]
    assert first.parent_uuid == "GPU-00000002-0000-0000-0000-000000000000"
    assert first.name == "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
    assert first.memory_bytes == 40960 * MIB
    assert first.bandwidth_bytes_per_second == pytest.approx(2039e9 / 2, rel=0.005)


def test_in_a_container_an_instance_is_told_though_its_gpu_is_not(driver: Driver) -> None:
    first, _ = ask(driver(A100, mig="0", no_whole="1")).gpus

    assert (first.memory_bytes, first.excluded) == (40960 * MIB, None)
    assert first.bandwidth_bytes_per_second is None


def test_mig_mode_without_instances_leaves_no_gpu_to_use(driver: Driver) -> None:
    (gpu,) = ask(driver(A100, empty_mig="0")).gpus

    assert gpu.excluded == "in MIG mode without an instance"


@pytest.mark.parametrize("when", ["lost", "lost_late"])
def test_a_lost_gpu_is_named_and_the_others_stay(driver: Driver, when: str) -> None:
    report = ask(driver(RTX_3090, RTX_3060, **{when: "0"}))

    assert [gpu.excluded for gpu in report.gpus] == ["GPU is lost", None]
    assert report.status.status == "ok"
    assert report.status.detail == "GPU 0: GPU is lost"


def test_only_lost_gpus_are_an_error(driver: Driver) -> None:
    assert ask(driver(RTX_3090, lost="0")).status.status == "error"


def test_an_old_driver_without_the_newer_calls_still_tells_memory(
    driver: Driver, old_driver_folder: Path
) -> None:
    environment = {**driver(RTX_3090), "LD_LIBRARY_PATH": str(old_driver_folder)}

    report = ask(environment)

    (gpu,) = report.gpus
    assert report.cuda_version == "13.0"
    assert (gpu.memory_bytes, gpu.free_memory_bytes) == (24576 * MIB, 20000 * MIB)
    assert gpu.reserved_memory_bytes is None
    assert gpu.bandwidth_bytes_per_second is None


def test_a_gpu_without_memory_of_its_own_is_integrated(driver: Driver) -> None:
    (gpu,) = ask(driver("NVIDIA GB10,0,0,0,0,0", shared="0")).gpus

    assert gpu.integrated
    assert gpu.memory_bytes == 0
    assert gpu.excluded is None


@pytest.mark.parametrize("call", ["init", "memory"])
def test_a_hanging_driver_is_ended(
    driver: Driver,
    driver_processes: Callable[[], set[int]],
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tagfit.hardware.nvidia.PATIENCE_SECONDS", 0.5)
    start = time.monotonic()

    with pytest.raises(TimeoutError):
        ask(driver(RTX_3090, hang=call))

    assert time.monotonic() - start < 0.8
    assert driver_processes() == set()


def test_a_process_that_nobody_ends_ends_itself(driver: Driver) -> None:
    """The service may be killed while a driver hangs."""
    program = "from tagfit.hardware import nvml; nvml.ORPHAN_SECONDS = 1; nvml.main()"

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=driver(RTX_3090, hang="init"),
        timeout=20,
        check=False,
    )

    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize("call", ["init", "memory"])
def test_a_crashing_driver_takes_only_its_own_process(driver: Driver, call: str) -> None:
    report = ask(driver(RTX_3090, crash=call))

    assert report.status.status == "error"
    assert report.status.detail == "the NVIDIA driver crashed (signal 11)"


def test_a_name_of_garbage_is_replaced(driver: Driver) -> None:
    (gpu,) = ask(driver(RTX_3090, garbage="name")).gpus

    assert gpu.name == "NVIDIA GPU"
    assert gpu.memory_bytes == 24576 * MIB


def test_an_impossible_memory_is_not_believed(driver: Driver) -> None:
    report = ask(driver(RTX_3090, garbage="memory"))

    assert report.status.status == "error"
    assert report.gpus[0].memory_bytes == 0
    assert "impossible memory" in (report.gpus[0].excluded or "")


def test_what_a_driver_prints_does_not_spoil_the_answer(driver: Driver) -> None:
    assert ask(driver(RTX_3090, garbage="noise")).status.status == "ok"


def test_a_count_of_garbage_is_cut(driver: Driver) -> None:
    report = ask(driver(RTX_3090, count="4294967295"))

    assert [gpu.name for gpu in report.gpus if gpu.excluded is None] == ["NVIDIA GeForce RTX 3090"]
    assert len(report.gpus) == 64


def test_clocks_of_garbage_give_no_bandwidth(driver: Driver) -> None:
    (gpu,) = ask(driver("RTX 3090,24576,1,0,4294967295,4294967295")).gpus

    assert gpu.bandwidth_bytes_per_second is None


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("9", "unavailable", "the NVIDIA driver is not loaded"),
        ("28", "unavailable", "the NVIDIA driver sees no GPU"),
        ("18", "error", "NVML: RM has detected an NVML/RM version mismatch."),
        ("4", "error", "NVML: Insufficient Permissions"),
        ("12345", "error", "NVML: stand-in error"),
    ],
)
def test_a_driver_that_does_not_start_is_a_status(
    driver: Driver, code: str, status: str, detail: str
) -> None:
    report = ask(driver(RTX_3090, init=code))

    assert (report.status.status, report.status.detail) == (status, detail)
    assert report.gpus == ()


def test_no_library_is_a_normal_answer() -> None:
    report = ask({})

    assert report.status.status == "unavailable"
    assert "libnvidia-ml.so.1" in (report.status.detail or "")


def test_a_driver_without_gpus_is_a_normal_answer(driver: Driver) -> None:
    assert ask(driver()).status.status == "unavailable"


def test_a_gpu_on_the_bus_without_a_driver_is_hinted_at(tree: Tree) -> None:
    """A container without the driver's library must not read as a machine without a GPU."""
    root = tree(
        {
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
            "sys/bus/pci/devices/0000:01:00.1/vendor": "0x10de\n",
            "sys/bus/pci/devices/0000:01:00.1/class": "0x040300\n",
        }
    )

    report = probe({}, root)

    assert "1 NVIDIA GPU(s) are on this machine's PCI bus" in (report.status.detail or "")


def test_wsls_library_is_found_where_it_lies(tree: Tree, driver: Driver) -> None:
    environment = driver(RTX_3090)
    library = Path(environment.pop("LD_LIBRARY_PATH")) / "libnvidia-ml.so.1"
    root = tree({"usr/lib/wsl/lib/README": ""})
    (root / "usr/lib/wsl/lib/libnvidia-ml.so.1").symlink_to(library)

    assert probe(environment, root).status.status == "ok"
