"""Bandwidth of host memory by words and by processor."""

from __future__ import annotations

import pytest

from tagfit.speed.hosts import host_memory


@pytest.mark.parametrize(
    ("text", "gigabytes_per_second"),
    [
        ("dual-channel DDR5-5600", 89.6),
        ("DDR4-3200", 51.2),
        ("8-channel DDR4-3200", 204.8),
        ("LPDDR5X-8533 128-bit", 136.528),
        ("AMD Ryzen 7 7700X 8-Core Processor", 83.2),
        ("13th Gen Intel(R) Core(TM) i9-13900K", 89.6),
        ("AMD EPYC 9654 96-Core Processor", 460.8),
        ("Intel(R) Xeon(R) Platinum 8480+", 307.2),
        ("AMD Ryzen AI MAX+ 395 w/ Radeon 8060S", 256.0),
        ("Intel(R) N100", 38.4),
    ],
)
def test_channels_times_eight_bytes_times_transfers(text: str, gigabytes_per_second: float) -> None:
    found = host_memory(text)

    assert found is not None
    assert found.bandwidth_bytes_per_second == pytest.approx(gigabytes_per_second * 1e9)


@pytest.mark.parametrize(
    "text",
    [
        "a processor",
        "",
        "0 channels DDR4-3200",
        "DDR4-99999",
        "99 channels of DDR5-5600",
        "DDR5-000",
    ],
)
def test_an_unknown_processor_or_an_impossible_memory_is_unknown(text: str) -> None:
    assert host_memory(text) is None
