"""GPUs by name: found in the ways that people and drivers write them, or honestly unknown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagfit.speed.devices import GIB, known_devices, lookup, parse_device, suggest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "expected", "gibibytes", "gigabytes_per_second"),
    [
        ("RTX 3060", "NVIDIA GeForce RTX 3060", 12, 360),
        ("rtx3060", "NVIDIA GeForce RTX 3060", 12, 360),
        ("RTX 3060 8GB", "NVIDIA GeForce RTX 3060", 8, 240),
        ("RTX 4060 Ti 16GB", "NVIDIA GeForce RTX 4060 Ti", 16, 288),
        ("4060 Ti", "NVIDIA GeForce RTX 4060 Ti", 8, 288),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090", 24, 1008),
        ("4060", "NVIDIA GeForce RTX 4060", 8, 272),
        ("4060 laptop", "NVIDIA GeForce RTX 4060 Laptop GPU", 8, 256),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "NVIDIA GeForce RTX 4060 Laptop GPU", 8, 256),
        ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation", 48, 960),
        ("Quadro RTX 6000", "NVIDIA Quadro RTX 6000", 24, 672),
        ("A100 80GB", "NVIDIA A100 PCIe 80GB", 80, 1935),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM4 80GB", 80, 2039),
        ("H100 PCIe", "NVIDIA H100 PCIe", 80, 2039),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM", 80, 3352),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 480GB", 96, 4000),
        ("NVIDIA GB10 (DGX Spark)", "NVIDIA GB10", 120, 273),
        ("M3 Max 64GB", "Apple M3 Max", 64, 400),
        ("Apple M3 Max (30-core GPU)", "Apple M3 Max", 36, 300),
        ("m4 pro", "Apple M4 Pro", 24, 273),
        ("RX 7900 XTX", "AMD Radeon RX 7900 XTX", 24, 960),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "AMD Radeon RX 7900 XTX", 24, 960),
        ("AMD Ryzen AI Max+ 395 w/ Radeon 8060S", "AMD Radeon 8060S", 64, 256),
        ("Intel(R) Arc(TM) B580 Graphics", "Intel Arc B580", 12, 456),
        ("DGX Spark", "NVIDIA GB10", 120, 273),
        ("GA106 [GeForce RTX 3060 Lite Hash Rate] (rev a1)", "NVIDIA GeForce RTX 3060", 12, 360),
    ],
)
def test_a_name_is_found_as_people_and_drivers_write_it(
    name: str, expected: str, gibibytes: int, gigabytes_per_second: int
) -> None:
    found = lookup(name)

    assert found is not None
    assert expected == found.name
    assert round(found.memory_bytes / GIB) == gibibytes
    assert round(found.bandwidth_bytes_per_second / 1e9) == gigabytes_per_second


@pytest.mark.parametrize(
    "name",
    ["banana", "RTX 9999", "GTX 3060", "RTX 6000", "RTX 3060 16GB", "AMD Radeon Graphics", ""],
)
def test_what_is_not_in_the_table_is_unknown_not_the_nearest(name: str) -> None:
    assert lookup(name) is None


@pytest.mark.parametrize(
    ("name", "gibibytes", "gigabytes_per_second", "units"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19.5, 777.5, 40),
        ("NVIDIA A100-SXM4-40GB MIG 7g.40gb", 39, 1555, 108),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 8.6, 254.875, 13),
        ("NVIDIA A100-SXM4-80GB MIG 1g.20gb+me", 18.2, 509.75, 13),
        ("NVIDIA A100-SXM4-80GB MIG 1c.3g.40gb", 39, 1019.5, 13),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 8.56, 419, 16),
        ("NVIDIA H200 MIG 3g.71gb", 68.45, 2400, 49),
        ("NVIDIA A30 MIG 2g.12gb", 11.7, 466.5, 28),
        ("A100 MIG 3g.40gb", 39, 967.5, 40),
    ],
)
def test_a_mig_instance_is_the_share_of_its_gpu(
    name: str, gibibytes: float, gigabytes_per_second: float, units: int
) -> None:
    """Memory by eighths, compute by slices; what is usable never more than the driver lists."""
    found = lookup(name)

    assert found is not None
    assert found.memory_bytes / GIB == pytest.approx(gibibytes, abs=0.01)
    assert found.bandwidth_bytes_per_second == gigabytes_per_second * 1e9
    assert found.units == units
    assert lookup(found.name, found.memory_bytes) == found


@pytest.mark.parametrize(
    ("name", "listed_gibibytes"),
    [
        # nvidia-smi mig -lgip
        ("A100-SXM4-40GB MIG 1g.5gb", 4.75),
        ("A100-SXM4-40GB MIG 2g.10gb", 9.75),
        ("A100-SXM4-40GB MIG 3g.20gb", 19.62),
        ("A100-SXM4-40GB MIG 7g.40gb", 39.5),
        ("H100 80GB HBM3 MIG 1g.10gb", 9.75),
        ("H100 80GB HBM3 MIG 1g.20gb", 19.62),
        ("H100 80GB HBM3 MIG 4g.40gb", 39.5),
        ("H100 80GB HBM3 MIG 7g.80gb", 79.25),
        ("H200 MIG 1g.18gb", 16),
        ("H200 MIG 2g.35gb", 32.25),
        ("H200 MIG 3g.71gb", 69.5),
        ("B200 MIG 1g.23gb", 20.5),
        ("B200 MIG 2g.45gb", 44.25),
        ("GB200 MIG 1g.24gb", 20),
        ("GB200 MIG 2g.47gb", 45.5),
    ],
)
def test_an_instance_is_never_promised_more_than_the_driver_lists(
    name: str, listed_gibibytes: float
) -> None:
    found = lookup(name)

    assert found is not None
    assert 0.85 * listed_gibibytes < found.memory_bytes / GIB <= listed_gibibytes


@pytest.mark.parametrize(
    "name",
    [
        "RTX 3060 MIG 1g.5gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.5000gb",
        "NVIDIA A100-SXM4-40GB MIG 9g.40gb",
        "NVIDIA A100-SXM4-40GB MIG 4c.3g.20gb",
        "NVIDIA A30 MIG 7g.24gb",
        "NVIDIA A100-SXM4-40GB MIG",
        "MIG 3g.20gb",
    ],
)
def test_an_instance_that_no_gpu_has_is_unknown(name: str) -> None:
    assert lookup(name) is None


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("2x RTX 3090", 2),
        ("4× L40S", 4),  # noqa: RUF001
        ("RTX 3090 x2", 2),
        ("Dual RTX 3090", 2),
        ("2 RTX 3090", 2),
        ("12 GB RTX 3060", 1),
        ("L4", 1),
    ],
)
def test_a_count_before_or_after_the_name_is_read(name: str, count: int) -> None:
    found, device = parse_device(name)

    assert (count, False) == (found, device is None)


def test_other_variants_of_a_name_are_told() -> None:
    found = lookup("RTX 3060")

    assert found is not None
    assert found.variants == ("NVIDIA GeForce RTX 3060 8 GB",)


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("RTX 3060 12GB", ()),
        ("M3 Max 64GB", ()),
        ("M2 Ultra 64GB", ("Apple M2 Ultra (76-core GPU) 64 GB",)),
    ],
)
def test_a_size_in_the_name_leaves_out_variants_of_others(
    name: str, variants: tuple[str, ...]
) -> None:
    found = lookup(name)

    assert found is not None
    assert found.variants == variants


def test_the_memory_that_a_driver_reports_picks_the_variant() -> None:
    """NVML's name has no memory in it."""
    found = lookup("NVIDIA GeForce RTX 3060", memory_bytes=8191 * 2**20)

    assert found is not None
    assert found.bandwidth_bytes_per_second == 240e9


def test_near_names_are_suggested_and_none_for_nonsense() -> None:
    assert "NVIDIA RTX 6000 Ada Generation" in suggest("RTX 6000")
    assert suggest("RTX 6000") == suggest("RTX 6000")
    assert suggest("banana") == ()


def test_every_device_is_found_by_its_own_name_and_says_its_source() -> None:
    for device in known_devices():
        found = lookup(device.name, device.memory_bytes)

        assert found is not None, device.name
        assert found.name == device.name
        assert device.source.startswith("https://")
        assert 10e9 < device.bandwidth_bytes_per_second < 20e12
        assert 1e11 < device.compute_flops < 5e15


def test_a_laptop_part_is_never_taken_for_the_desktop_part() -> None:
    for device in known_devices():
        desktop = lookup(device.name.replace(" Laptop GPU", ""))
        if device.laptop and desktop is not None:
            assert not desktop.laptop


@given(st.text(max_size=64))
def test_no_text_makes_it_fail(text: str) -> None:
    count, _ = parse_device(text)

    assert count >= 0
    assert len(suggest(text)) <= 5


def test_the_table_is_what_the_script_builds() -> None:
    script = ROOT / "service" / "data" / "build_devices.py"

    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0
