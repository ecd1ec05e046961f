"""Loads that are put both to llama.cpp and to tagfit: models, settings, machines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import msgspec

from tagfit.catalog.library import Model, load
from tagfit.facts import Architecture, CacheType, Device, Hardware, Runtime, Weights
from tagfit.sizing import fit, kv_cache, rules
from tagfit.sizing.ggml import tensor_type
from tagfit.sizing.mixtures import weights
from tests.oracle.specimens import ONLY_OLLAMA, SPECIMENS

CONTEXTS = (2048, 8192, 32768)
CACHE_TYPES: tuple[CacheType, ...] = ("f16", "q8_0", "q4_0")
PARALLEL = (1, 4)
MICRO_BATCHES = (512, 2048)
ROOMY_BYTES = 4 << 40
"""More than any model needs."""


class Subject(msgspec.Struct, frozen=True):
    """A model in one file type."""

    title: str
    architecture: Architecture
    weights: Weights
    embedding: bool = False


class Case(msgspec.Struct, frozen=True):
    """One load; ``gpus`` are bytes that each GPU has free for llama.cpp."""

    runtime: Runtime
    gpus: tuple[int, ...] = ()
    automatic: bool = False
    """llama.cpp decides on flash attention."""

    @property
    def hardware(self) -> Hardware:
        """A machine whose GPUs have that much left when the driver has its context."""
        context = rules.DRIVER_CONTEXT["cuda"]
        return Hardware(
            gpus=tuple(
                Device(
                    name=f"GPU{index}",
                    memory_bytes=free + context,
                    free_memory_bytes=free + context,
                )
                for index, free in enumerate(self.gpus)
            ),
            memory_bytes=ROOMY_BYTES,
            free_memory_bytes=ROOMY_BYTES,
            environment={"OLLAMA_SCHED_SPREAD": "1"},
        )


def catalog_models() -> dict[str, list[Model]]:
    """The catalog's checkpoints that llama.cpp loads, by architecture."""
    models: dict[str, list[Model]] = defaultdict(list)
    for model in load().models:
        name = model.architecture.architecture
        if name not in ONLY_OLLAMA and any(tag.quantization for tag in model.tags):
            models[name].append(model)
    return dict(sorted(models.items()))


def catalog_subjects() -> dict[str, list[Subject]]:
    """Of each architecture of the catalog the smallest and the largest checkpoint."""
    return {
        name: [catalog_subject(model) for model in extremes(found)]
        for name, found in catalog_models().items()
    }


def other_subjects(name: str) -> list[Subject]:
    """What other shapes an architecture's checkpoints have, one of each."""
    found = catalog_models()[name]
    taken = {model.architecture for model in extremes(found)}
    others = {model.architecture: model for model in found if model.architecture not in taken}
    return [catalog_subject(model, "Q4_K_M") for model in others.values()]


def extremes(models: list[Model]) -> list[Model]:
    """The smallest and the largest; one, where all are the same."""
    ordered = sorted(models, key=lambda model: model.parameters)
    first, last = ordered[0], ordered[-1]
    return [first] if first.architecture == last.architecture else [first, last]


def catalog_subject(model: Model, preferred: str = "") -> Subject:
    """A checkpoint in the preferred file type if a tag has it, else in that of its first tag."""
    file_types = [tag.quantization for tag in model.tags if tag.quantization]
    file_type = preferred if preferred in file_types else file_types[0]
    arch = model.architecture
    return Subject(
        f"{model.family} {model.size} {model.variant}".strip(),
        arch,
        weights(arch, file_type, mixture=model.mixture),
        "embedding" in model.capabilities,
    )


def specimen_subjects() -> dict[str, list[Subject]]:
    """One small model of every kind that llama.cpp loads."""
    return {
        title: [Subject(title, arch, weights(arch, "F16"))] for title, arch in SPECIMENS.items()
    }


def holds_heads(arch: Architecture, cache_type: CacheType) -> bool:
    """Whether llama.cpp takes the cache type: its blocks divide every head."""
    size = tensor_type(cache_type).block_size
    lengths = (kv_cache.cached_head_lengths(arch, sliding=sliding) for sliding in (False, True))
    return not any(length % size for pairs in lengths for pair in pairs for length in pair)


def runtimes(subject: Subject) -> Iterator[Runtime]:
    """The grid of settings."""
    trained = subject.architecture.context_length
    contexts = [n for n in CONTEXTS if n <= trained] or [trained]
    for context, flash, cache, parallel, batch in product(
        contexts, (True, False), CACHE_TYPES, PARALLEL, MICRO_BATCHES
    ):
        if cache == "f16" or (flash and holds_heads(subject.architecture, cache)):
            yield Runtime(
                context_length=context,
                parallel=parallel,
                kv_cache_type=cache,
                flash_attention=flash,
                batch_size=batch,
                micro_batch_size=batch,
                embedding=subject.embedding,
            )


def cpu_cases(subject: Subject) -> list[Case]:
    """Every setting without a GPU."""
    return [Case(runtime) for runtime in runtimes(subject)]


def whole_cases(subject: Subject) -> list[Case]:
    """Every setting with all layers on one GPU, some on two."""
    every = list(runtimes(subject))
    layers = subject.architecture.block_count + 1
    return [
        Case(msgspec.structs.replace(runtime, offloaded_layers=layers), (ROOMY_BYTES,) * gpus)
        for gpus, chosen in ((1, every), (2, every[::5]))
        for runtime in chosen
    ]


def forced_cases(subject: Subject) -> list[Case]:
    """A part of the layers, on one GPU and on two."""
    blocks = subject.architecture.block_count
    return [
        Case(msgspec.structs.replace(runtime, offloaded_layers=layers), (ROOMY_BYTES,) * gpus)
        for runtime in list(runtimes(subject))[::11]
        for layers in (0, blocks // 2, blocks)
        for gpus in (1, 2)
    ]


def mixed_cases(subject: Subject) -> list[Case]:
    """A few loads that differ in everything: a part of the layers on one GPU or on two."""
    every = [runtime for runtime in runtimes(subject) if runtime.context_length <= CONTEXTS[1]]
    blocks = subject.architecture.block_count
    placed = ((blocks // 2, 1), (0, 1), (blocks // 3, 1), (blocks + 1, 2), (blocks, 2))
    return [
        Case(msgspec.structs.replace(runtime, offloaded_layers=layers), (ROOMY_BYTES,) * gpus)
        for runtime, (layers, gpus) in zip(every[:: max(len(every) // 5, 1)], placed, strict=False)
    ]


SHARES = ((0.3,), (0.7,), (0.97,), (0.3, 0.2), (0.5, 0.55), (0.2, 0.3, 0.2))
"""Room on each GPU, as a share of what the whole model takes on one."""


def fit_cases(subject: Subject) -> list[Case]:
    """GPUs with room for a part of the model: ``--fit`` decides."""
    found = []
    every = list(runtimes(subject))
    for runtime in (every[1], every[len(every) // 2]):
        model = fit.load(subject.architecture, subject.weights, runtime, padded=True)
        used = fit.measure(model, fit.split(model.layers, (1,)))[0].total
        for shares in SHARES:
            gpus = tuple(int(share * used) + rules.FIT_MARGIN for share in shares)
            found.append(Case(runtime, gpus))
    return found
