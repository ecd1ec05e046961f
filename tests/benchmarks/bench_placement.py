"""How long a placement takes, cold and warm, over one model of each architecture.

    python -m tests.benchmarks.bench_placement

Cold: nothing is known of the model but the types of its tensors. Warm: the same request again.
"""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from time import process_time

from tagfit.catalog.library import load
from tagfit.facts import Architecture, Device, Hardware, Runtime, Weights
from tagfit.sizing import compute, device_weights, fit, kv_cache, outline, traced
from tagfit.sizing.graph.forward import kinds
from tagfit.sizing.mixtures import weights
from tagfit.sizing.placement import max_context_length, place

GIB = 1 << 30
RUNTIME = Runtime(context_length=8192)
MEMORY = {
    "no GPU": (),
    "one GPU, whole": (3.0,),
    "one GPU, partly": (0.55,),
    "two GPUs, partly": (0.45, 0.2),
    "eight GPUs, whole": (0.4,) * 8,
}
"""Shares of the model's bytes that each GPU can hold, beside 2 GiB."""
CACHES = (
    outline.outline,
    traced.traced,
    compute.rough,
    device_weights.device_weights,
    kinds,
    fit.load,
    kv_cache._kept_by_block,
    kv_cache.cached_head_lengths,
    kv_cache.widest_value,
)


def machine(size: int, shares: tuple[float, ...]) -> Hardware:
    """GPUs for a model of this many bytes, and enough RAM."""
    free = [int(size * share) + 2 * GIB for share in shares]
    gpus = tuple(
        Device(name=f"GPU {index}", memory_bytes=each + GIB, free_memory_bytes=each)
        for index, each in enumerate(free)
    )
    return Hardware(
        gpus=gpus,
        memory_bytes=1 << 40,
        free_memory_bytes=1 << 40,
        environment={"OLLAMA_SCHED_SPREAD": "1"},
    )


def specimens() -> Iterator[tuple[Architecture, Weights]]:
    """The first model of each architecture in the catalog."""
    seen = set()
    for model in load().models:
        arch = model.architecture
        tag = next((tag for tag in model.tags if tag.quantization), None)
        if tag is not None and tag.quantization and arch.architecture not in seen:
            seen.add(arch.architecture)
            yield arch, weights(arch, tag.quantization, mixture=model.mixture)


def milliseconds(call: Callable[[], object]) -> float:
    """Time of the processor that a call takes."""
    start = process_time()
    call()
    return 1000 * (process_time() - start)


def measure(arch: Architecture, stored: Weights, hardware: Hardware) -> dict[str, float]:
    """Milliseconds of each kind of question."""
    found = {}
    for question, call in {
        "place": lambda: place(arch, stored, RUNTIME, hardware),
        "roughly": lambda: place(arch, stored, RUNTIME, hardware, exact=False),
        "longest": lambda: max_context_length(arch, stored, RUNTIME, hardware),
    }.items():
        for cache in CACHES:
            cache.cache_clear()
        found[f"{question} cold"] = milliseconds(call)
        found[f"{question} warm"] = milliseconds(call)
    return found


def main() -> None:
    """Write median and largest milliseconds."""
    models = list(specimens())
    gc.freeze()
    for title, shares in MEMORY.items():
        figures: dict[tuple[bool, str], list[float]] = defaultdict(list)
        for arch, stored in models:
            hardware = machine(stored.tensor_bytes, shares)
            for question, taken in measure(arch, stored, hardware).items():
                figures[arch.expert_count > 0, question].append(taken)
        for (experts, question), each in sorted(figures.items()):
            kind = "experts" if experts else "dense"
            sys.stdout.write(
                f"{title:18} {kind:8} {question:13} {median(each):8.2f} ms {max(each):8.2f} ms\n"
            )


if __name__ == "__main__":
    main()
