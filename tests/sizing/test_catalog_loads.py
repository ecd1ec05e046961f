"""Loads of the catalog's models, laid over GPUs as they are put to llama.cpp by ``make oracle``."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec

from tagfit.catalog.library import load
from tagfit.facts import Runtime
from tests.oracle.memory_accounts import Part, tagfit_account
from tests.oracle.memory_cases import ROOMY_BYTES, Case, catalog_subject

RECORDED = Path(__file__).parents[1] / "data" / "llama_memory_catalog.jsonl"


class Load(msgspec.Struct):
    """One load and what llama.cpp accounted for on each GPU and, last, on the host."""

    model: str
    file_type: str
    runtime: Runtime
    gpus: int
    parts: list[Part]


def test_models_take_what_llama_cpp_takes_wherever_their_layers_are() -> None:
    """Weights, cache and compute to the byte (llama.cpp b11434).

    Encoders and their pooling, norms ahead of the heads, rotary factors of some blocks only,
    sums whose first term is the residual, norms of the embedding on the first of two GPUs.
    """
    models = {
        f"{model.family} {model.size} {model.variant}".strip(): model for model in load().models
    }
    wrong = defaultdict(list)
    for line in RECORDED.read_text().splitlines():
        row = msgspec.json.decode(line, type=Load)
        subject = catalog_subject(models[row.model], row.file_type)
        subject = msgspec.structs.replace(subject, embedding=row.runtime.embedding)
        found = tagfit_account(subject, Case(row.runtime, (ROOMY_BYTES,) * row.gpus))
        if list(found.parts) != row.parts:
            wrong[row.model].append((row, found.parts))

    assert not wrong
