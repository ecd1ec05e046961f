"""The host's memory by psutil, whose /proc may lie elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from tagfit.hardware.host import read_memory

Tree = Callable[[Mapping[str, str]], Path]
KIB = 2**10

MEMINFO = """\
MemTotal:       65738124 kB
MemFree:         1203456 kB
MemAvailable:   51234567 kB
Buffers:          812345 kB
Cached:         47123456 kB
SwapCached:            0 kB
Active:         20123456 kB
Inactive:       30123456 kB
SwapTotal:       8388604 kB
SwapFree:        8388604 kB
Shmem:            512345 kB
Slab:            1512345 kB
SReclaimable:    1212345 kB
"""


def test_available_memory_is_the_kernels_estimate(tree: Tree) -> None:
    memory = read_memory(tree({"proc/meminfo": MEMINFO}))

    assert memory.total_bytes == 65738124 * KIB
    assert memory.available_bytes == 51234567 * KIB


def test_another_proc_is_read_only_for_the_call(tree: Tree) -> None:
    read_memory(tree({"proc/meminfo": MEMINFO}))

    assert read_memory(Path("/")).total_bytes == psutil.virtual_memory().total


def test_no_proc_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="meminfo"):
        read_memory(tmp_path)


@pytest.mark.parametrize("text", ["", "MemTotal:\n", "nonsense", "MemTotal: 0 kB\n"])
def test_a_proc_that_tells_no_memory_is_an_error(tree: Tree, text: str) -> None:
    """Never a machine with 0 bytes."""
    with pytest.raises(OSError, match="memory"):
        read_memory(tree({"proc/meminfo": text}))


def test_a_kernel_that_tells_little_is_enough(tree: Tree) -> None:
    """As in a sandbox; psutil would warn."""
    memory = read_memory(tree({"proc/meminfo": "MemTotal: 1024 kB\nMemFree: 512 kB\n"}))

    assert memory.total_bytes == 1024 * KIB
