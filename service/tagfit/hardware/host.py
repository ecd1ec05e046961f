"""The host's memory, through psutil."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import msgspec
import psutil

_PROCFS = threading.Lock()


class Memory(msgspec.Struct, frozen=True):
    """Physical memory, without regard to limits."""

    total_bytes: int
    available_bytes: int
    """What can be had without swapping: MemAvailable on Linux."""


def read_memory(root: Path) -> Memory:
    """Memory by the proc file system below root; raises OSError where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of parts that nobody reads here
            memory = psutil.virtual_memory() if root == Path("/") else _below(root)
    except (KeyError, ValueError, IndexError) as error:
        raise OSError("/proc/meminfo does not tell the memory's size") from error
    if not memory.total:
        raise OSError("the system tells a memory of 0 bytes")
    return Memory(memory.total, memory.available)


def _below(root: Path) -> Any:
    with _PROCFS:
        # psutil's own way to another /proc, and a global one
        usual, psutil.PROCFS_PATH = psutil.PROCFS_PATH, str(root / "proc")
        try:
            return psutil.virtual_memory()
        finally:
            psutil.PROCFS_PATH = usual
