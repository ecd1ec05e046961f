"""Bandwidth of the host's memory: measured or given, else by name, else assumed, and said."""

from __future__ import annotations

import pytest

from tagfit.facts import Device, Hardware
from tagfit.speed.peaks import ASSUMED_HOST_BANDWIDTH, host_peak

MAC = Device(
    name="Apple M3 Max",
    memory_bytes=48 << 30,
    free_memory_bytes=48 << 30,
    backend="metal",
    bandwidth_bytes_per_second=400_000_000_000,
)


@pytest.mark.parametrize(
    ("hardware", "gigabytes_per_second", "name", "assumed"),
    [
        (
            Hardware(cpu="AMD Ryzen 7 7700X", cores=8, bandwidth_bytes_per_second=60 * 10**9),
            60,
            "host memory (measured or given)",
            False,
        ),
        (
            Hardware(cpu="AMD Ryzen 7 7700X", cores=8),
            83.2,
            "host memory (2 channels of DDR5-5200 by name)",
            False,
        ),
        (
            Hardware(cpu="dual-channel DDR4-3200", cores=8),
            51.2,
            "host memory (2 channels of DDR4-3200 by name)",
            False,
        ),
        (Hardware(gpus=(MAC,), unified_memory=True), 400, "host memory (the GPU's)", False),
        (Hardware(cpu="wat"), ASSUMED_HOST_BANDWIDTH / 1e9, "host memory", True),
        (Hardware(), ASSUMED_HOST_BANDWIDTH / 1e9, "host memory", True),
    ],
)
def test_the_best_source_counts_and_is_named(
    hardware: Hardware, gigabytes_per_second: float, name: str, *, assumed: bool
) -> None:
    peak = host_peak(hardware)

    assert peak.bandwidth / 1e9 == pytest.approx(gigabytes_per_second)
    assert peak.name == name
    assert bool(peak.assumed) == assumed


def test_a_few_of_a_servers_cores_do_not_read_all_of_its_channels() -> None:
    """As in a container with two of them."""
    peak = host_peak(Hardware(cpu="Intel(R) Xeon(R) Platinum 8480+", cores=2))

    assert peak.bandwidth == 50e9
    assert "what 2 cores can read" in peak.name
