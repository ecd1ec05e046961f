"""What is known of a GPU by its name: memory, bandwidth, compute.

``devices.json`` is built by ``service/data/build_devices.py``, each row with its source.
A name is matched word by word, so that what is not in the table is unknown, never the nearest:
``4060 laptop`` is not ``4060``, and an ``RTX 6000`` of unsaid generation is none of the three.
A MIG instance (``A100-SXM4-40GB MIG 3g.20gb``) is the share of its GPU that its profile says.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from importlib.resources import files
from typing import Literal, NamedTuple

import msgspec

from tagfit.facts import Backend

GIB = 2**30

MIG_USABLE = {1: 0.86, 2: 0.91, 4: 0.975, 8: 0.975}
"""Of so many eighths of a GPU's memory, the share that an instance has for programs: the least
that ``nvidia-smi mig -lgip`` lists for A100, H100, H200, B200 and GB200.
https://github.com/NVIDIA/mig-parted/issues/120, https://github.com/NVIDIA/gpu-operator/pull/1351,
https://github.com/NVIDIA/gpu-operator/pull/1303"""


class KnownDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as its vendor describes it."""

    name: str
    """As the driver calls it, without its memory: ``NVIDIA GeForce RTX 4060 Laptop GPU``."""
    vendor: Literal["nvidia", "amd", "intel", "apple"]
    architecture: str
    backend: Backend
    """The one that Ollama's builds run it with."""
    compute_capability: str | None
    """NVIDIA's: 8.9; of AMD's only the target that Ollama treats in its own way: gfx1151."""
    units: int
    """SM, CU, Xe cores or GPU cores."""
    clock_hertz: int
    """Boost clock."""
    dies: int
    """Chips that share the work."""
    mig_slices: int
    """Instances that it can be split into; 0: none."""
    laptop: bool
    unified: bool
    """It uses the host's memory."""
    memory_bytes: int
    memory_basis: Literal["driver", "nominal"]
    """driver: what nvidia-smi shows; nominal: the GiB that it is sold with."""
    memory_choices: tuple[int, ...]
    """Nominal sizes in bytes that it is sold with; unified parts have several."""
    bandwidth_bytes_per_second: int
    compute_flops: int
    """Dense 16-bit FLOP/s of the matrix units, or of the lanes where it has none."""
    source: str
    aliases: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    """Other parts that the same name could have meant."""


@lru_cache(maxsize=1)
def known_devices() -> tuple[KnownDevice, ...]:
    """The whole table."""
    data = files("tagfit.speed").joinpath("devices.json").read_bytes()
    return msgspec.json.decode(data, type=tuple[KnownDevice, ...])


def lookup(name: str, memory_bytes: int | None = None) -> KnownDevice | None:
    """The device of a name, None when it is unknown.

    A size in the name or ``memory_bytes`` picks among the variants of one name; without either
    the first of the table is meant, which of unified parts is the smallest.
    """
    return parse_device(name, memory_bytes)[1]


@lru_cache(maxsize=4096)
def parse_device(name: str, memory_bytes: int | None = None) -> tuple[int, KnownDevice | None]:
    """How many, and of what: ``2x RTX 3090`` is (2, the RTX 3090)."""
    count, text = _split_count(name)
    if profile := _MIG.search(text):
        whole = text[: profile.start()] + " " + text[profile.end() :]
        return count, _mig_instance(whole, profile)
    for reading in _readings(text):
        found = _match(_parse(reading), memory_bytes)
        if found is not None:
            return count, found
    return count, None


@lru_cache(maxsize=1024)
def suggest(name: str, limit: int = 5) -> tuple[str, ...]:
    """Known names near to an unknown one, best first; none where nothing is near."""
    wanted = _parse(_split_count(name)[1]).words
    ranked: dict[str, float] = {}
    for device in known_devices():
        words = _words(device.name)
        alike = SequenceMatcher(None, " ".join(wanted), " ".join(words), autojunk=False).ratio()
        shared = {word for word in wanted & words if any(map(str.isdigit, word))}
        ranked[device.name] = alike + bool(shared)
    best = sorted(ranked, key=lambda known: (-ranked[known], known))
    return tuple(known for known in best if ranked[known] >= 0.7)[:limit]


class _Query(NamedTuple):
    words: frozenset[str]
    gibibytes: float | None
    laptop: bool
    cores: frozenset[int]


class _Key(NamedTuple):
    required: frozenset[str]
    allowed: frozenset[str]
    gibibytes: float | None
    device: KnownDevice


_TIMES = "[x*\N{MULTIPLICATION SIGN}]"
_COUNT = re.compile(
    rf"^\s*(?:(\d{{1,2}})\s*{_TIMES}\s+|(\d{{1,2}}){_TIMES}\s*(?=\D)"
    r"|(\d{1,2})\s+(?!gi?b\b)(?=[a-z]))",
    re.IGNORECASE,
)
_COUNT_AFTER = re.compile(rf"\s+{_TIMES}\s*(\d{{1,2}})\s*$", re.IGNORECASE)
_DUAL = re.compile(r"^\s*dual\s+", re.IGNORECASE)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*gi?b?\b", re.IGNORECASE)
_CORES = re.compile(r"(\d+)[\s-]?cores?\b(?:\s*gpu)?", re.IGNORECASE)
_TRADEMARK = re.compile(r"\((?:r|tm|c)\)|[®™]", re.IGNORECASE)
_PREFIX_AND_NUMBER = re.compile(r"\b(rtx|gtx|rx|arc|titan|pro|ti)(?=[a-z]?\d)")
_NUMBER_AND_SUFFIX = re.compile(r"(?<=\d)(?=[a-z])")
_LAPTOP_WORDS = frozenset({"laptop", "mobile", "notebook"})
_BRAND_WORDS = frozenset(
    {
        *("nvidia", "geforce", "rtx", "gtx", "tesla", "jetson"),
        *("amd", "radeon", "rx", "instinct", "ryzen", "intel", "arc", "apple"),
        *("generation", "edition", "workstation"),
    }
)
"""May be left out of a name, but only stand where the part has them: a GTX 3060 is unknown."""
_FILLERS = frozenset(
    {
        *("gpu", "graphics", "card", "corporation", "inc", "series", "with", "w", "and", "design"),
        *("lite", "hash", "rate", "lhr", "rev", "a1", "cuda", "vulkan", "metal"),
        *("memory", "unified", "vram", "ram"),
    }
)
"""Say nothing about which part it is."""


_MIG = re.compile(r"(?:\bMIG[\s-]*)?\b((?:(\d)c\.)?(\d)g\.(\d+)gb(?:\+[a-z.]+)?)", re.IGNORECASE)
"""``MIG 3g.20gb``: slices of compute (``1c.3g``: one of three) and memory.
https://docs.nvidia.com/datacenter/tesla/mig-user-guide/concepts.html"""


def _mig_instance(whole: str, profile: re.Match[str]) -> KnownDevice | None:
    """Memory and its channels are split in eighths, compute in as many parts as instances."""
    compute, slices, gigabytes = (
        int(text) for text in (profile[2] or profile[3], *profile.groups()[2:])
    )
    if not 0 < compute <= slices:
        return None
    # A size that is not said follows from the profile: 3g and 4g have half of the memory.
    eighths = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}.get(slices, 8)
    query = _parse(whole)
    gpu = _match(query, None if query.gibibytes else gigabytes * GIB * 8 // eighths)
    if gpu is None or slices > gpu.mig_slices:
        return None
    eighths = round(8 * gigabytes * GIB / max(gpu.memory_choices))
    if eighths not in MIG_USABLE:
        return None
    # Seven instances leave some of the GPU out: an H100 has 132 SMs, 1g 16 and 4g 64 of them.
    parts = 8 if compute < gpu.mig_slices == 7 else gpu.mig_slices
    return msgspec.structs.replace(
        gpu,
        name=f"{gpu.name} MIG {profile[1].lower()}",
        mig_slices=0,
        units=gpu.units * compute // parts,
        memory_bytes=round(gpu.memory_bytes * eighths / 8 * MIG_USABLE[eighths]),
        memory_choices=(gigabytes * GIB,),
        bandwidth_bytes_per_second=gpu.bandwidth_bytes_per_second * eighths // 8,
        compute_flops=gpu.compute_flops * compute // parts,
        variants=(),
    )


def _split_count(name: str) -> tuple[int, str]:
    before = _COUNT.match(name)
    if before:
        return int(before[before.lastindex or 0]), name[before.end() :]
    after = _COUNT_AFTER.search(name)
    if after:
        return int(after[1]), name[: after.start()]
    dual = _DUAL.match(name)
    return (2, name[dual.end() :]) if dual else (1, name)


def _readings(text: str) -> tuple[str, ...]:
    """The whole text, then without what stands in brackets, then only that: lspci's form."""
    text = _TRADEMARK.sub(" ", text).split("—")[0]
    inside = re.findall(r"\[([^\]]*)\]", text)
    return text, re.sub(r"\([^)]*\)", " ", text), *inside


def _words(text: str) -> frozenset[str]:
    text = _PREFIX_AND_NUMBER.sub(r"\1 ", text.lower())
    text = _NUMBER_AND_SUFFIX.sub(" ", text)
    return frozenset(re.findall(r"[a-z0-9]+", text)) - _FILLERS


def _parse(text: str) -> _Query:
    cores = frozenset(int(number) for number in _CORES.findall(text))
    text = _CORES.sub(" ", text)
    memory = _MEMORY.search(text)
    words = _words(_MEMORY.sub(" ", text))
    return _Query(
        words - _LAPTOP_WORDS,
        float(memory[1]) if memory else None,
        bool(words & _LAPTOP_WORDS),
        cores,
    )


@lru_cache(maxsize=1)
def _keys() -> tuple[_Key, ...]:
    keys = []
    for device in known_devices():
        brand = " ".join(w for w in device.name.split(" ")[:2] if w.lower() in _BRAND_WORDS)
        for alias in (device.name, *(f"{brand} {alias}" for alias in device.aliases)):
            query = _parse(alias)
            keys.append(
                _Key(query.words - _BRAND_WORDS, query.words, query.gibibytes, device),
            )
    return tuple(keys)


@lru_cache(maxsize=1024)
def _meant(query: _Query) -> tuple[_Key, ...]:
    found = [
        key
        for key in _keys()
        if key.required <= query.words <= key.allowed and key.device.laptop == query.laptop
    ]
    if query.cores:
        found = [key for key in found if key.device.units in query.cores]
    if query.gibibytes is not None:
        found = [key for key in found if _sold_with(key, query.gibibytes)]
    return tuple(found)


def _match(query: _Query, memory_bytes: int | None) -> KnownDevice | None:
    found = _meant(query)
    meant = list(dict.fromkeys(key.device for key in found))
    if not found:
        return None
    key = found[0]
    if memory_bytes is not None:
        key = min(found, key=lambda key: _distance(key.device, memory_bytes))
    size = query.gibibytes if memory_bytes is None else memory_bytes / GIB
    memory = _memory(key, size)
    return msgspec.structs.replace(
        key.device, memory_bytes=memory, variants=_variants(key.device, memory, meant, size)
    )


def _variants(
    chosen: KnownDevice, memory: int, meant: list[KnownDevice], gibibytes: float | None
) -> tuple[str, ...]:
    """The other parts that could be meant, of the size that was said if one was."""
    texts = []
    for device in meant:
        for choice in device.memory_choices:
            if device == chosen and choice == (
                memory if len(chosen.memory_choices) > 1 else choice
            ):
                continue
            if gibibytes is not None and choice != gibibytes * GIB:
                continue
            named = device.name if f"{choice // GIB}GB" in device.name else ""
            cores = f" ({device.units}-core GPU)" if device.vendor == "apple" else ""
            texts.append(named or f"{device.name}{cores} {choice // GIB} GB")
    return tuple(texts)


def _sold_with(key: _Key, gibibytes: float) -> bool:
    return key.gibibytes == gibibytes or gibibytes * GIB in key.device.memory_choices


def _memory(key: _Key, gibibytes: float | None) -> int:
    """A unified part has the memory that was named, any other what the table says."""
    if gibibytes is None or len(key.device.memory_choices) == 1:
        return key.device.memory_bytes
    return round(gibibytes * GIB)


def _distance(device: KnownDevice, memory_bytes: int) -> int:
    return min(abs(choice - memory_bytes) for choice in device.memory_choices)
