"""Build ``service/tagfit/catalog/gguf_repositories.json``: the library's checkpoints elsewhere.

LM Studio downloads from Hugging Face, so it needs a repository where Ollama needs a tag. From
``sources/gguf_repositories.json`` (repositories with their files' sizes, as public listings have
them) a repository counts as holding a checkpoint where both agree:

* the name   the same words, whatever their order and spelling; what says that a checkpoint is
  tuned (instruct, it, chat) may be left out on the library's side where it is tuned
* the size   each file is as large as llama.cpp makes it from the catalog's hyper-parameters, to
  within ``TOLERANCE`` and the rounding of the listing

A file type is taken from the first publisher that has it, in the order of ``PUBLISHERS``. A
checkpoint that no listing has stays without a name: none is invented.

Run: ``python service/data/build_lmstudio_names.py``; ``--check`` only says if it is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tagfit.catalog.library import Model, load
from tagfit.catalog.lmstudio_names import file_type_of
from tagfit.sizing import mixtures

SOURCE = Path(__file__).parent / "sources" / "gguf_repositories.json"
TARGET = Path(__file__).parents[1] / "tagfit" / "catalog" / "gguf_repositories.json"

PUBLISHERS = (
    "lmstudio-community",
    "bartowski",
    "unsloth",
    "ggml-org",
    "Qwen",
    "microsoft",
    "ibm-granite",
    "LiquidAI",
    "mistralai",
    "HuggingFaceTB",
    "stabilityai",
    "NousResearch",
    "nomic-ai",
    "TheBloke",
    "MaziyarPanahi",
    "QuantFactory",
    "second-state",
    "mradermacher",
)
"""LM Studio's own first, then who converts many models, then makers, then older collections."""
TOLERANCE = 0.015
"""Tokenizers and metadata differ a little; neighbouring file types are 4 % apart and more."""

SIZE = re.compile(r"e?\d+(?:x\d+)?(?:\.\d+)?[bm]")
TUNED = {"instruct", "it", "chat"}
PLAIN = {"base", "text", "code"}
"""Words of the library for a checkpoint that is not tuned to converse; repositories say nothing."""
NOISE = {"meta", "hf"}
UNITS = {"GB": 2**30, "MB": 2**20}


class Words(msgspec.Struct, frozen=True):
    """What a name says."""

    sizes: frozenset[str]
    tuned: bool
    others: frozenset[str]


def words_of(name: str) -> Words:
    """The words of a repository's name or of a tag without its quantization."""
    name = re.sub(r"[-_.]gguf$", "", name.lower())
    parts = [part for word in re.split(r"[-_ :]+", name) for part in _split(word)]
    sizes = frozenset(part for part in parts if SIZE.fullmatch(part))
    return Words(sizes, not TUNED.isdisjoint(parts), frozenset(parts) - sizes - TUNED - NOISE)


def _split(word: str) -> list[str]:
    """``llama3.1`` is ``llama``, ``3.1``; ``v0.2`` is ``0.2``; ``a3b`` and ``8x7b`` are one."""
    if re.fullmatch(r"v\d[\d.]*", word):
        return [word[1:]]
    match = re.fullmatch(r"([a-z]{2,}?)(\d+(?:\.\d+)?)([a-z]*)", word)
    return [part for part in match.groups() if part] if match else [word] if word else []


def same_checkpoint(model: Model, repository: str) -> bool:
    """Whether a repository's name says the same as the catalog of a model."""
    publisher, _, name = repository.partition("/")
    mine = words_of("-".join(part for part in (model.family, model.size, model.variant) if part))
    theirs = words_of(_without_maker(publisher, name))
    if theirs.sizes and mine.sizes and theirs.sizes != mine.sizes:
        return False
    plain = PLAIN - words_of(model.family).others
    if plain & theirs.others and not plain & mine.others:
        return False
    could_be_tuned = "chat" in model.capabilities and not plain & mine.others
    tuned = mine.tuned or (theirs.tuned and could_be_tuned)
    return mine.others - plain == theirs.others - plain and tuned == theirs.tuned


def _without_maker(publisher: str, name: str) -> str:
    """``bartowski/Qwen_Qwen3-8B-GGUF`` names the maker of the checkpoint first."""
    _, underscore, rest = name.partition("_")
    return rest if publisher == "bartowski" and underscore else name


def same_size(model: Model, quantization: str, listed: int | str) -> bool:
    """Whether a file is as large as llama.cpp makes it, by today's rules or those of the time."""
    if isinstance(listed, int):
        size_bytes, rounding_bytes = float(listed), 0.0
    else:
        number, unit = listed.split()
        size_bytes, rounding_bytes = float(number) * UNITS[unit], 0.05 * UNITS[unit]
    allowed_bytes = rounding_bytes + TOLERANCE * size_bytes
    return any(
        abs(predicted - size_bytes) <= allowed_bytes
        for predicted in _predicted(model, quantization)
    )


def _predicted(model: Model, quantization: str) -> Iterator[int]:
    # What Ollama quantizes itself is published nowhere else.
    own = model.mixture.startswith("ollama")
    for mixture in dict.fromkeys(("llama.cpp", "llama.cpp" if own else model.mixture)):
        try:
            stored = mixtures.weights(model.architecture, quantization, mixture=mixture)
        except (KeyError, ValueError):
            continue
        yield mixtures.file_bytes(stored) + model.header_bytes


def files_of(model: Model, repositories: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Quantizations as their files spell them, by the repository that is to be asked for them."""
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for row in sorted(repositories, key=_rank):
        if not same_checkpoint(model, row["repository"]):
            continue
        for spelled, listed in row["sizes"].items():
            quantization = file_type_of(spelled)
            if quantization not in taken and same_size(model, quantization, listed):
                taken.add(quantization)
                found.setdefault(row["repository"], []).append(spelled)
    return found


def _rank(row: dict[str, Any]) -> tuple[int, str]:
    return PUBLISHERS.index(row["repository"].partition("/")[0]), row["repository"]


def encoded(models: tuple[Model, ...], repositories: list[dict[str, Any]]) -> bytes:
    """The file: a line a checkpoint, ``family/size/variant``."""
    known = [row for row in repositories if row["repository"].partition("/")[0] in PUBLISHERS]
    rows = {
        f"{model.family}/{model.size}/{model.variant}": files
        for model in models
        if any(tag.quantization for tag in model.tags) and (files := files_of(model, known))
    }
    lines = (f"{json.dumps(key)}: {json.dumps(rows[key])}" for key in sorted(rows))
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def main() -> int:
    """Write the file or compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    data = encoded(load().models, json.loads(SOURCE.read_text())["repositories"])
    if not check:
        TARGET.write_bytes(data)
    elif not TARGET.exists() or TARGET.read_bytes() != data:
        print(f"{TARGET} is not what the sources give; run {sys.argv[0]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
