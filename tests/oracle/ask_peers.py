"""The same loads put to gguf-parser and llmfit: memory of the GPU beside llama.cpp's and tagfit's.

    TAGFIT_LLAMA_CPP=… python -m tests.oracle.ask_peers GGUF_PARSER LLMFIT

gguf-parser reads the same header-only files; llmfit knows models by name, without micro-batch,
flash attention or layers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from tagfit.catalog.library import load
from tagfit.facts import CacheType, Runtime
from tests.oracle.memory_accounts import ask, llama_account, tagfit_account, write_model
from tests.oracle.memory_cases import ROOMY_BYTES, Case, Subject, catalog_subject
from tests.oracle.memory_tool import llama_memory

MODELS = {
    "llama3.1 8b instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.2 1b instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "qwen2.5 7b instruct": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3 8b": "Qwen/Qwen3-8B",
    "qwen3 30b a3b-instruct-2507": "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "gemma2 9b instruct": "google/gemma-2-9b-it",
    "gemma3 12b it": "google/gemma-3-12b-it",
    "gemma4 31b it": "google/gemma-4-31B-it",
    "phi4 14b": "microsoft/phi-4",
    "mixtral 8x7b instruct-v0.1": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "gpt-oss 20b": "openai/gpt-oss-20b",
    "deepseek-r1 671b 0528": "deepseek-ai/DeepSeek-R1-0528",
    "granite4 32b a9b-h": "ibm-granite/granite-4.0-h-small",
    "qwen3-next 80b a3b-instruct": "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "command-r 35b 08-2024": "CohereLabs/c4ai-command-r-08-2024",
}
"""Title in the catalog to the name that llmfit knows."""
LAYERS = (None, 16)
SETTINGS: tuple[tuple[int, CacheType, bool, int], ...] = (
    (8192, "f16", True, 512),
    (32768, "f16", True, 2048),
    (32768, "q8_0", True, 512),
    (8192, "f16", False, 512),
)
"""Context, cache type, flash attention, micro-batch."""
RUNTIMES = tuple(
    Runtime(
        context_length=context,
        kv_cache_type=cache,
        flash_attention=flash,
        batch_size=batch,
        micro_batch_size=batch,
    )
    for context, cache, flash, batch in SETTINGS
)


class Answer(NamedTuple):
    """Bytes of the GPU by each program; None where it cannot be asked."""

    title: str
    runtime: Runtime
    llama_cpp: int
    tagfit: int
    gguf_parser: int | None
    llmfit: int | None


def gguf_parser_bytes(program: str, path: Path, case: Case) -> int | None:
    """What gguf-parser expects on the GPU; None where it fails."""
    runtime = case.runtime
    arguments = [
        *("--path", str(path), "--json", "--platform-footprint", "0,0", "--no-mmap"),
        *("-c", str(runtime.context_length), "-ub", str(runtime.micro_batch_size)),
        *("-ctk", runtime.kv_cache_type, "-ctv", runtime.kv_cache_type),
        *("--ngl", str(runtime.offloaded_layers), "--estimate"),
        "--fa" if runtime.flash_attention else "--no-flash-attn",
    ]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    items = json.loads(done.stdout)["estimate"]["items"]
    return int(items[0]["vrams"][0]["nonuma"])


def llmfit_bytes(program: str, name: str, quantization: str, runtime: Runtime) -> int | None:
    """The least GPU memory that llmfit plans with; None where it does not know the model."""
    cache = "fp16" if runtime.kv_cache_type == "f16" else runtime.kv_cache_type
    arguments = ["plan", name, "--context", str(runtime.context_length), "--json"]
    arguments += ["--quant", quantization, "--kv-quant", cache]
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    found = json.loads(done.stdout)
    return int(found["minimum"]["vram_gb"] * 1e9) if found["model_name"] == name else None


def answers(gguf_parser: str, llmfit: str, tool: Path) -> Iterator[Answer]:
    """Every load, all layers on the GPU and 16 of them."""
    models = {f"{m.family} {m.size} {m.variant}".strip(): m for m in load().models}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        for title, name in MODELS.items():
            subject = catalog_subject(models[title], preferred="Q4_K_M")
            write_model(path, subject)
            for case in cases(subject):
                whole = case.runtime.offloaded_layers == subject.architecture.block_count + 1
                reply = ask(tool, path, subject, [case])[0]
                yield Answer(
                    title,
                    case.runtime,
                    llama_account(subject, case, reply).parts[0].total,
                    tagfit_account(subject, case).parts[0].total,
                    gguf_parser_bytes(gguf_parser, path, case),
                    llmfit_bytes(llmfit, name, subject.weights.quantization, case.runtime)
                    if whole and case.runtime.flash_attention
                    else None,
                )


def cases(subject: Subject) -> list[Case]:
    """The loads of one model."""
    layers = subject.architecture.block_count + 1
    return [
        Case(msgspec.structs.replace(runtime, offloaded_layers=chosen or layers), (ROOMY_BYTES,))
        for runtime in RUNTIMES
        for chosen in LAYERS
    ]


def summary(found: list[Answer]) -> str:
    """Median and worst error of each program by model, in per cent of what llama.cpp takes."""
    lines = ["| model | tagfit | gguf-parser | llmfit |", "|---|---|---|---|"]
    for title in [*MODELS, "all"]:
        mine = [answer for answer in found if title in {answer.title, "all"}]
        cells = []
        for program in ("tagfit", "gguf_parser", "llmfit"):
            errors = [
                100 * (value / answer.llama_cpp - 1)
                for answer in mine
                if (value := getattr(answer, program)) is not None
            ]
            cells.append(_spread(errors) if errors else "not known to it")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(errors: list[float]) -> str:
    if not any(errors):
        return f"{len(errors)} exact"
    median = statistics.median(map(abs, errors))
    return f"{median:.1f} %; {min(errors):+.1f} to {max(errors):+.1f} %"


if __name__ == "__main__":
    sys.stdout.write(summary(list(answers(sys.argv[1], sys.argv[2], llama_memory()))) + "\n")
