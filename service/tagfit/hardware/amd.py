"""AMD GPUs from sysfs: amdgpu's memory counters and the KFD's topology.

https://docs.kernel.org/gpu/amdgpu/driver-misc.html
https://github.com/torvalds/linux/blob/master/drivers/gpu/drm/amd/amdkfd/kfd_topology.c
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from tagfit.hardware.amd_names import NAMES
from tagfit.hardware.drm import Card, pci_name, read_cards
from tagfit.hardware.gpu import Gpu, GpuReport, ProbeStatus
from tagfit.hardware.sysfs import read_int, read_pairs, read_text

VENDOR = 0x1002
ROCM_TARGETS = frozenset(
    {
        "gfx908",
        "gfx90a",
        "gfx942",
        "gfx950",
        "gfx1030",
        "gfx1100",
        "gfx1101",
        "gfx1102",
        "gfx1150",
        "gfx1151",
        "gfx1200",
        "gfx1201",
    }
)
"""Ollama v0.33.3, llama/server/CMakePresets.json:216; others run on Vulkan."""
INTEGRATED_TARGETS = frozenset(
    {
        "gfx902",
        "gfx909",
        "gfx90c",
        "gfx1013",
        "gfx1033",
        "gfx1035",
        "gfx1036",
        "gfx1037",
        "gfx1103",
        "gfx1150",
        "gfx1151",
        "gfx1152",
        "gfx1153",
    }
)
"""https://llvm.org/docs/AMDGPUUsage.html#processors, type APU."""
GIB = 2**30


def probe(root: Path, environment: Mapping[str, str]) -> GpuReport:
    """AMD's GPUs, in the order of ROCm's topology where they are in it."""
    cards = read_cards(root, VENDOR)
    if not cards:
        return GpuReport(status=ProbeStatus("unavailable", "no AMD card in /sys/class/drm"))
    nodes = _kfd_nodes(root)
    override = _gfx_of_override(environment.get("HSA_OVERRIDE_GFX_VERSION", ""))
    gpus = [_gpu(root, card, nodes.get(card.pci_bus_id or ""), override) for card in cards]
    return GpuReport(
        status=ProbeStatus("ok"),
        gpus=tuple(sorted(gpus, key=lambda gpu: (gpu.index is None, gpu.index))),
        driver_version=read_text(root / "sys/module/amdgpu/version"),
    )


def default_gtt_bytes(memory_bytes: int) -> int:
    """What an APU may use of the machine's memory, where ttm.pages_limit is not set: half of it.

    https://github.com/torvalds/linux/blob/master/drivers/gpu/drm/ttm/ttm_device.c,
    https://rocm.docs.amd.com/en/latest/how-to/system-optimization/strixhalo.html
    """
    return memory_bytes // 2


class _Node(msgspec.Struct, frozen=True):
    """A GPU in /sys/class/kfd/kfd/topology/nodes."""

    index: int
    gfx: str | None
    uuid: str | None
    bus_bits: int
    megahertz: int


def _gpu(root: Path, card: Card, node: _Node | None, override: str | None) -> Gpu:
    def counter(name: str) -> int:
        return read_int(card.path / f"mem_info_{name}") or 0

    gfx = node.gfx if node else None
    vram, gtt = counter("vram_total"), counter("gtt_total")
    integrated = _is_integrated(card, gfx, vram, gtt)
    # An APU allocates from GTT where that is the larger: drivers/gpu/drm/amd/amdgpu, apu_prefer_gtt
    pool: Literal["vram", "gtt"] = "gtt" if integrated and gtt >= vram else "vram"
    total, used = counter(f"{pool}_total"), counter(f"{pool}_used")
    bits, megahertz = (node.bus_bits, node.megahertz) if node else (0, 0)
    return Gpu(
        name=_name(root, card, gfx),
        vendor="amd",
        backend="rocm" if node and (override or gfx) in ROCM_TARGETS else "vulkan",
        memory_bytes=total,
        free_memory_bytes=max(0, total - used),
        used_memory_bytes=used,
        shared_memory_bytes=gtt or None,
        integrated=integrated,
        unified=pool == "gtt",
        excluded=None if total else "amdgpu tells no memory size",
        index=node.index if node else None,
        uuid=node.uuid if node else None,
        pci_bus_id=card.pci_bus_id,
        pci_id=card.pci_id,
        compute_capability=gfx,
        memory_bus_bits=bits or None,
        memory_clock_hertz=megahertz * 10**6 or None,
        bandwidth_bytes_per_second=_bandwidth(bits, megahertz, gfx, integrated=integrated),
    )


def _is_integrated(card: Card, gfx: str | None, vram: int, gtt: int) -> bool:
    if gfx in INTEGRATED_TARGETS:
        return True
    # As Ollama tells (v0.33.3, discover/amd.go:322-346)
    if (card.path / "mem_info_vram_vendor").exists() or (card.path / "board_info").exists():
        return False
    return 0 < vram <= 4 * GIB and gtt >= max(8 * GIB, 4 * vram)


def _bandwidth(bits: int, megahertz: int, gfx: str | None, *, integrated: bool) -> int | None:
    # Transfers a clock: HBM and an APU's DDR 2, GDDR5 4, GDDR6 16. RX 7900 XTX, 384 bits and
    # 1249 MHz: 959 GB/s; MI210, 4096 bits and 1600 MHz: 1638 GB/s (AMD's data sheets).
    if not bits or not megahertz:
        return None
    if integrated or bits >= 1024:
        transfers = 2
    else:
        transfers = 4 if (gfx or "").startswith(("gfx7", "gfx8")) else 16
    return bits // 8 * megahertz * 10**6 * transfers


def _name(root: Path, card: Card, gfx: str | None) -> str:
    revision = read_int(card.path / "revision") or 0
    return (
        read_text(card.path / "product_name")
        or _listed_name(root, card.device, revision)
        or NAMES.get(card.device, {}).get(revision)
        or pci_name(root, card)
        or f"AMD GPU {card.pci_id}" + (f" ({gfx})" if gfx else "")
    )


def _listed_name(root: Path, device: int, revision: int) -> str | None:
    """The row of libdrm's list on this machine: device, revision, name."""
    row = rf"^{device:04X},\s*{revision:02X},\s*(.+)$"
    names = read_text(root / "usr/share/libdrm/amdgpu.ids") or ""
    match = re.search(row, names, re.MULTILINE | re.IGNORECASE)
    return match[1].strip() if match else None


def _kfd_nodes(root: Path) -> dict[str, _Node]:
    """GPU nodes by PCI address, numbered as ROCm numbers them."""
    try:
        folders = list((root / "sys/class/kfd/kfd/topology/nodes").iterdir())
    except OSError:
        return {}
    numbered = sorted((int(f.name), f) for f in folders if f.name.isdecimal())
    properties = [(folder, read_pairs(folder / "properties")) for _, folder in numbered]
    gpus = [(folder, p) for folder, p in properties if p.get("vendor_id") == VENDOR]
    return {_address(p): _node(i, folder, p) for i, (folder, p) in enumerate(gpus)}


def _node(index: int, folder: Path, properties: Mapping[str, int]) -> _Node:
    bank = read_pairs(folder / "mem_banks/0/properties")
    unique = properties.get("unique_id", 0)
    return _Node(
        index,
        _gfx(properties.get("gfx_target_version", 0)),
        f"GPU-{unique:016x}" if unique else None,
        bank.get("width", 0),
        bank.get("mem_clk_max", 0),
    )


def _address(properties: Mapping[str, int]) -> str:
    location, domain = properties.get("location_id", 0), properties.get("domain", 0)
    return f"{domain:04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def _gfx(version: int) -> str | None:
    """90010 is gfx90a, 110000 is gfx1100."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if version else None


def _gfx_of_override(value: str) -> str | None:
    """10.3.0 is gfx1030 (Ollama v0.33.3, discover/amd.go:88)."""
    parts = value.strip().strip("\"'").split(".")
    if len(parts) == 3 and all(part.isdecimal() for part in parts):
        return f"gfx{int(parts[0])}{int(parts[1]):x}{int(parts[2]):x}"
    return value if value.startswith("gfx") else None
