"""Bandwidth of a host's memory by the processor's name, or by words such as ``DDR5-5600``.

A name says what the maker specifies at most: a machine with one module of two, or with slower
ones, has less, so that a measured figure is better. ``hosts.json`` is built by
``service/data/build_devices.py``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

import msgspec

CHANNEL_BYTES = 8
"""A channel is 64 bits wide, also where DDR5 and LPDDR split it in two or four."""
USUAL_CHANNELS = 2
"""Of a desktop or laptop, where they are not said."""
MOST_CHANNELS = 32
MOST_MEGATRANSFERS = 20_000
"""Beyond these (two of the largest servers' sockets, twice LPDDR5X) it is a slip of the pen."""


class HostMemory(msgspec.Struct, frozen=True):
    """The memory that a processor is specified with."""

    memory: str
    """For a person: ``2 channels of DDR5-5600``."""
    bandwidth_bytes_per_second: int
    source: str


class _Row(msgspec.Struct, frozen=True):
    pattern: str
    memory: str
    bandwidth_bytes_per_second: int
    source: str


_SPEED = re.compile(r"\b(lp)?ddr(\d)x?[\s-]*(\d{3,5})\b")
_CHANNELS = re.compile(r"\b(\d{1,2})(?:\s*x|[\s-]*channels?)\b")
_WIDTH = re.compile(r"\b(\d{2,4})[\s-]*bits?\b")
_WORDS = {"single": 1, "dual": 2, "triple": 3, "quad": 4, "hexa": 6, "octa": 8}


@lru_cache(maxsize=1024)
def host_memory(text: str) -> HostMemory | None:
    """The memory of ``AMD Ryzen 7 7700X`` or of ``quad-channel DDR4-3200``; None if unknown."""
    lowered = re.sub(r"\((?:r|tm)\)|[®™]", "", text.lower())
    lowered = re.sub(r"\s+", " ", lowered)
    return _by_speed(lowered) or _by_name(lowered)


def _by_speed(text: str) -> HostMemory | None:
    speed = _SPEED.search(text)
    if speed is None:
        return None
    rest = text[: speed.start()] + text[speed.end() :]
    channels = _channels(rest)
    if not 0 < channels <= MOST_CHANNELS or not 0 < int(speed[3]) <= MOST_MEGATRANSFERS:
        return None
    kind = f"{'LP' if speed[1] else ''}DDR{speed[2]}-{speed[3]}"
    return HostMemory(
        f"{channels:g} channels of {kind}",
        round(channels * CHANNEL_BYTES * int(speed[3]) * 1e6),
        "channels x 8 bytes x transfers a second",
    )


def _channels(text: str) -> float:
    width, channels = _WIDTH.search(text), _CHANNELS.search(text)
    if width:
        return int(width[1]) / 64
    if channels:
        return int(channels[1])
    return next((count for word, count in _WORDS.items() if word in text), USUAL_CHANNELS)


def _by_name(text: str) -> HostMemory | None:
    for row, pattern in _rows():
        if pattern.search(text):
            return HostMemory(row.memory, row.bandwidth_bytes_per_second, row.source)
    return None


@lru_cache(maxsize=1)
def _rows() -> tuple[tuple[_Row, re.Pattern[str]], ...]:
    data = files("tagfit.speed").joinpath("hosts.json").read_bytes()
    rows = msgspec.json.decode(data, type=tuple[_Row, ...])
    return tuple((row, re.compile(row.pattern)) for row in rows)
