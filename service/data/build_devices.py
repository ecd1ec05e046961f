"""Build ``devices.json`` and ``hosts.json`` of ``service/tagfit/speed`` from ``sources/*.toml``.

Run: ``python service/data/build_devices.py``; ``--check`` only says whether it is up to date.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "sources"
TARGETS = Path(__file__).parents[1] / "tagfit" / "speed"
MIB, GIB = 2**20, 2**30


def rows(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a part, in the form of ``tagfit.speed.devices.KnownDevice``."""
    for group in source["groups"]:
        laptop = group.get("laptop", False)
        for name, units, megahertz, gibibytes, gigabytes_per_second, extra in group["devices"]:
            flops = extra.get("tflops", 0) * 10**12 or (
                units * megahertz * 10**6 * group["flops_per_unit_clock"]
            )
            driver_mib = extra.get("driver_mib")
            yield {
                "name": f"{group['brand']} {name}{' Laptop GPU' if laptop else ''}",
                "aliases": extra.get("aliases", []),
                "vendor": group["vendor"],
                "architecture": group["architecture"],
                "backend": extra.get("backend", group.get("backend", "cuda")),
                "compute_capability": group.get("compute_capability"),
                "units": units,
                "clock_hertz": megahertz * 10**6,
                "dies": extra.get("dies", 1),
                "mig_slices": extra.get("mig", 0),
                "laptop": laptop,
                "unified": group.get("unified", False),
                "memory_bytes": driver_mib * MIB if driver_mib else gibibytes * GIB,
                "memory_basis": "driver" if driver_mib else "nominal",
                "memory_choices": [size * GIB for size in extra.get("memories", [gibibytes])],
                "bandwidth_bytes_per_second": round(gigabytes_per_second * 10**9),
                "compute_flops": round(flops),
                "source": group["source"],
            }


def hosts(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a pattern, in the form of ``tagfit.speed.hosts.HostMemory``."""
    for group in source["hosts"]:
        for pattern, channels, megatransfers, kind in group["rows"]:
            yield {
                "pattern": pattern,
                "memory": f"{channels} channels of {kind}-{megatransfers}",
                "bandwidth_bytes_per_second": channels * 8 * megatransfers * 10**6,
                "source": group["source"],
            }


def build() -> dict[Path, str]:
    """The text of each target, one row a line."""
    return {
        TARGETS / "devices.json": _lines(rows(_read("devices.toml"))),
        TARGETS / "hosts.json": _lines(hosts(_read("hosts.toml"))),
    }


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((SOURCES / name).read_text())


def _lines(found: Iterator[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in found) + "\n]\n"


def main() -> int:
    """Write the targets, or compare them."""
    if "--check" in sys.argv[1:]:
        return int(any(path.read_text() != text for path, text in build().items()))
    for path, text in build().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
