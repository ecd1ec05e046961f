"""A load's memory by device, once as llama.cpp accounts for it and once as tagfit says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from tagfit.sizing import rules
from tagfit.sizing.compute import output_bytes
from tagfit.sizing.placement import place
from tests.oracle.header import write_header
from tests.oracle.memory_cases import Case, Subject
from tests.oracle.specimens import EXTRA_KEYS

POOLING = {"qwen3": 3}
"""``pooling_type`` of embedding models (3: last token), where it is not the mean."""
CAUSAL = frozenset({"qwen3"})
"""Architectures whose embedding models attend to earlier tokens only."""


class Part(NamedTuple):
    """Bytes on one device."""

    weights: int = 0
    cache: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Account(NamedTuple):
    """Memory of one load: each GPU's, then the host's."""

    layers: tuple[int, ...]
    """Layers on each GPU, in whole or in part."""
    parts: tuple[Part, ...]
    error: str = ""


class Reply(msgspec.Struct):
    """What llama-memory prints for a case."""

    status: int
    ngl: int
    split: list[int]
    overrides: list[tuple[str, str]]
    log: str
    buffers: dict[str, tuple[int, int, int]] = {}


def write_model(path: Path, subject: Subject) -> None:
    """The subject as a file whose data is a hole."""
    arch = subject.architecture
    extra = dict(EXTRA_KEYS.get(arch.architecture, {}))
    if subject.embedding:
        extra["pooling_type"] = POOLING.get(arch.architecture, 1)
        if arch.architecture not in CAUSAL:
            extra["attention.causal"] = False
    write_header(path, arch, extra, subject.weights)


def request(path: Path, subject: Subject, case: Case) -> str:
    """A case as a line for llama-memory: what Ollama passes to llama-server."""
    runtime = case.runtime
    layers = -1 if runtime.offloaded_layers is None else runtime.offloaded_layers
    words = (
        path,
        runtime.context_length * runtime.parallel,
        runtime.batch_size,
        runtime.micro_batch_size,
        runtime.parallel,
        runtime.batch_size if subject.embedding else runtime.parallel,
        int(subject.embedding),
        int(runtime.kv_unified),
        -1 if case.automatic else int(runtime.flash_attention),
        runtime.kv_cache_type,
        layers,
        rules.FIT_MARGIN,
        *case.gpus,
    )
    return " ".join(map(str, words))


def ask(tool: Path, path: Path, subject: Subject, cases: Sequence[Case]) -> list[Reply]:
    """llama.cpp's answers; a case on which it aborts has an empty one."""
    found: list[Reply] = []
    while len(found) < len(cases):
        lines = "\n".join(request(path, subject, case) for case in cases[len(found) :])
        done = subprocess.run(
            [tool],
            input=lines,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        )
        found += [msgspec.json.decode(line, type=Reply) for line in done.stdout.splitlines()]
        if done.returncode:
            found.append(Reply(1, 0, [], [], f"aborted: {done.stderr[-300:]}"))
    return found


def llama_account(subject: Subject, case: Case, reply: Reply) -> Account:
    """Bytes by device out of bytes by buffer type."""
    names = [f"GPU{index}" for index in range(len(case.gpus))]
    gpus = [Part(*reply.buffers.get(name, ())) for name in names]
    others = [held for name, held in reply.buffers.items() if name not in names]
    host = Part(*(sum(column) for column in zip(*others, strict=True)))
    error = "" if reply.buffers else reply.log[-300:]
    return Account(layers_by_gpu(subject, case, reply), (*gpus, host), error)


def layers_by_gpu(subject: Subject, case: Case, reply: Reply) -> tuple[int, ...]:
    """Layers on each GPU, as ``-ngl`` and ``-ts`` lay them (llama-model.cpp:1556)."""
    layers = subject.architecture.block_count + 1
    offloaded = layers if reply.ngl < 0 else min(reply.ngl, layers)
    shares = reply.split if any(reply.split) else list(case.gpus)
    total = sum(shares)
    bounds = [-(-seen * offloaded // total) for seen in accumulate(shares)] if total else []
    return tuple(stop - start for start, stop in pairwise([0, *bounds]))


def tagfit_account(subject: Subject, case: Case) -> Account:
    """The same, as tagfit predicts it; llama.cpp's account leaves the output buffer out."""
    found = place(subject.architecture, subject.weights, case.runtime, case.hardware)
    *gpus, _ = found.devices
    parts = [
        Part(device.weights_bytes, device.kv_cache_bytes, device.compute_bytes)
        for device in found.devices
    ]
    output = output_bytes(subject.architecture, case.runtime)
    parts[-1] = parts[-1]._replace(compute=parts[-1].compute - output)
    return Account(tuple(device.layers for device in gpus), tuple(parts))
