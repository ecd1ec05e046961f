"""Steps that were traced before tagfit was shipped, so that first answers need not wait for them.

They stand in ``shipped_steps.xz``, which ``service/data/build_shipped_steps.py`` makes by asking
for recommendations. What is not there is traced when it is asked for: the file decides how soon
an answer comes, never what it says.
"""

from __future__ import annotations

import lzma
from functools import lru_cache
from hashlib import blake2b
from importlib.resources import files

import msgspec

from tagfit.sizing.graph.allocator import Step


class KnownSteps(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one model's graphs."""

    steps: tuple[Step, ...] = ()
    places: dict[int, int] = {}
    """Which step is taken at a place, by the place's digest."""
    alone: dict[int, tuple[int, ...]] = {}
    """Which steps are taken in a layout that is like no other, by its plan's digest."""


def digest(thing: object) -> int:
    """64 bits that stand for a thing of numbers, names and structs of them."""
    return int.from_bytes(blake2b(repr(thing).encode(), digest_size=8).digest())


def pack(models: dict[int, KnownSteps]) -> bytes:
    """The file, of what is known by the digests of models."""
    return lzma.compress(msgspec.msgpack.encode(models))


def unpack(data: bytes) -> dict[int, msgspec.Raw]:
    """KnownSteps, each still encoded, by the digests of models."""
    return msgspec.msgpack.decode(lzma.decompress(data), type=dict[int, msgspec.Raw])


def shipped_steps(model: object) -> KnownSteps:
    """Of one model's graphs, for one batch and so many devices; empty where none are known."""
    raw = all_shipped_steps().get(digest(model))
    return msgspec.msgpack.decode(raw, type=KnownSteps) if raw else KnownSteps()


@lru_cache(maxsize=1)
def all_shipped_steps() -> dict[int, msgspec.Raw]:
    """Of all models."""
    return unpack(files("tagfit.sizing").joinpath("shipped_steps.xz").read_bytes())
