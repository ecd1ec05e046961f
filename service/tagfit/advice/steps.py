"""How far it is to a better placement: longest contexts, and what would bring the next step."""

from __future__ import annotations

from typing import get_args

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from tagfit.advice.answers import Estimate, ServedCacheType, Step, StepName
from tagfit.advice.estimate import (
    Load,
    Subject,
    lay,
    longest_context,
    make_subject,
    place_subject,
    resolve_load,
)
from tagfit.facts import Hardware, Placement, Runtime, Verdict, Weights
from tagfit.problems import InvalidRequest
from tagfit.sizing.mixtures import NotQuantizable
from tagfit.sizing.rules import MIB
from tagfit.sizing.search import largest
from tagfit.units import Tokens, format_bytes

SERVED_CACHE_TYPES: tuple[ServedCacheType, ...] = get_args(ServedCacheType)


class _Case(msgspec.Struct, frozen=True):
    """One model on one machine, and what would be good."""

    subject: Subject
    load: Load
    runtime: Runtime
    hardware: Hardware
    wanted: Verdict
    """gpu; without one: cpu."""
    forced: dict[str, int | str | None]
    """Undoes the request's own number of layers."""

    def reached(self, placement: Placement) -> bool:
        return placement.verdict == self.wanted

    @property
    def outcome(self) -> str:
        return "all layers lie on the GPU" if self.wanted == "gpu" else "it runs"


def complete(found: Estimate, subject: Subject, load: Load, hardware: Hardware) -> Estimate:
    """An estimate with the longest contexts and the next steps: some ms, so not for lists."""
    runtime = resolve_load(subject, load, hardware)
    wanted: Verdict = "gpu" if hardware.gpus else "cpu"
    longest = longest_context(subject, load, runtime, hardware, "gpu")
    forced: dict[str, int | str | None] = {}
    if hardware.gpus and load.offloaded_layers is not None:
        load, forced = replace(load, offloaded_layers=None), {"offloaded_layers": None}
    free = _Case(subject, load, resolve_load(subject, load, hardware), hardware, wanted, forced)
    contexts = {name: _longest(free, name) for name in SERVED_CACHE_TYPES}
    runnable = longest_context(subject, load, runtime, hardware, "any")
    steps = () if found.fit.verdict == wanted else _steps(free, contexts, found, runnable)
    fit = replace(
        found.fit,
        max_context_length=longest or runnable,
        max_context_length_by_kv_cache_type=contexts,
        max_runnable_context_length=runnable,
        next_step=steps,
    )
    return replace(found, fit=fit)


def _longest(case: _Case, cache_type: ServedCacheType) -> int | None:
    load = replace(case.load, kv_cache_type=cache_type)
    try:
        runtime = resolve_load(case.subject, load, case.hardware)
    except InvalidRequest:
        return None
    return longest_context(case.subject, load, runtime, case.hardware, "gpu")


def _steps(
    case: _Case, contexts: dict[ServedCacheType, int | None], found: Estimate, runnable: int
) -> tuple[Step, ...]:
    if case.forced and case.reached(place_subject(case.subject, case.runtime, case.hardware)):
        sentence = "Without offloaded_layers all layers lie on the GPU."
        return (_step(case, "offloaded_layers", sentence, {}),)
    kind = case.runtime.kv_cache_type
    longest = contexts.get(kind) if kind in contexts else None
    steps = [
        _more_memory(case),
        _shorter(case, longest or 0, case.wanted),
        _smaller_cache(case, contexts),
        _smaller_quantization(case),
    ]
    if found.fit.verdict == "none" and case.wanted == "gpu":
        steps.append(_shorter(case, runnable, None))
    return tuple(step for step in steps if step is not None)


def _step(
    case: _Case,
    step: StepName,
    sentence: str,
    change: dict[str, int | str | None],
    *,
    verdict: Verdict | None = None,
    extra_bytes: int | UnsetType = UNSET,
) -> Step:
    return Step(
        step=step,
        sentence=sentence,
        verdict=verdict or case.wanted,
        change={**case.forced, **change},
        extra_bytes=extra_bytes,
    )


def _more_memory(case: _Case) -> Step | None:
    """The least memory, on each GPU, with which the load is placed as wanted.

    To 1 MiB; of several GPUs to 64 MiB, since each try there takes a search of its own.
    """
    unit = MIB if len(case.hardware.gpus) < 2 else 64 * MIB

    def short(more: int, *, exact: bool = True) -> bool:
        grown = _grown(case.hardware, more * unit)
        return not case.reached(place_subject(case.subject, case.runtime, grown, exact=exact))

    now = place_subject(case.subject, case.runtime, case.hardware)
    needed = sum(device.total_bytes for device in now.devices)
    most = 2 * (needed + case.subject.weights.tensor_bytes) // unit
    if short(most):
        return None
    guess = largest(lambda more: short(more, exact=False), most)
    needed_units = largest(short, most, guess=guess) + 1
    where = "memory"
    if case.wanted == "gpu" and not case.hardware.unified_memory:
        where = "VRAM" if len(case.hardware.gpus) == 1 else "VRAM on each GPU"
    sentence = f"With {format_bytes(needed_units * unit)} more {where} {case.outcome}."
    return _step(case, "memory", sentence, {}, extra_bytes=needed_units * unit)


def _grown(hardware: Hardware, more: int) -> Hardware:
    gpus = tuple(
        replace(
            gpu,
            memory_bytes=gpu.memory_bytes + more,
            free_memory_bytes=gpu.free_memory_bytes + more,
        )
        for gpu in hardware.gpus
    )
    if gpus and not hardware.unified_memory:
        return replace(hardware, gpus=gpus)
    return replace(
        hardware,
        gpus=gpus,
        memory_bytes=hardware.memory_bytes + more,
        free_memory_bytes=hardware.free_memory_bytes + more,
    )


def _shorter(case: _Case, context: int, wanted: Verdict | None) -> Step | None:
    """A step to a shorter context; without a wanted verdict, to one that runs."""
    if not 0 < context < case.runtime.context_length:
        return None
    load = replace(case.load, context_length=Tokens(context))
    _, placement = lay(case.subject, load, case.hardware)
    if placement.verdict == "none" or (wanted and placement.verdict != wanted):
        return None
    outcome = case.outcome if wanted else "it runs, partly on the CPU"
    sentence = f"With a context of {context} tokens {outcome}."
    return _step(
        case, "context_length", sentence, {"context_length": context}, verdict=placement.verdict
    )


def _smaller_cache(case: _Case, contexts: dict[ServedCacheType, int | None]) -> Step | None:
    """The first smaller cache type that holds the context that was asked for."""
    kinds = SERVED_CACHE_TYPES
    now, context = case.runtime.kv_cache_type, case.runtime.context_length
    for kind in kinds[kinds.index(now) + 1 if now in kinds else 1 :]:
        if (contexts[kind] or 0) < context:
            continue
        load = replace(case.load, kv_cache_type=kind, context_length=Tokens(context))
        if case.reached(lay(case.subject, load, case.hardware)[1]):
            sentence = f"With a {kind} KV cache {case.outcome}."
            return _step(case, "kv_cache_type", sentence, {"kv_cache_type": kind})
    return None


def _smaller_quantization(case: _Case) -> Step | None:
    """The largest smaller tag of the same checkpoint that is placed as wanted."""
    model = case.subject.model
    offered = []
    for tag in model.tags:
        if tag.quantization is None:
            continue
        try:
            made = make_subject(model, tag, tag.quantization, model.mixture)
        except NotQuantizable:
            continue
        stored = made.weights
        if stored.tensor_bytes < case.subject.weights.tensor_bytes and _may_fit(stored, case):
            offered.append(made)
    load = replace(case.load, context_length=Tokens(case.runtime.context_length))
    for made in sorted(offered, key=lambda made: -made.weights.tensor_bytes):
        _, placement = lay(made, load, case.hardware)
        if made.tag is not None and case.reached(placement):
            sentence = f"As {made.weights.quantization} ({made.tag.name}) {case.outcome}."
            return _step(case, "quantization", sentence, {"model": made.tag.name})
    return None


def _may_fit(stored: Weights, case: _Case) -> bool:
    """Whether the weights alone would fit: all but the token embedding, which the host keeps."""
    gpus = case.hardware.gpus
    free = sum(gpu.free_memory_bytes for gpu in gpus) if gpus else case.hardware.free_memory_bytes
    needed = (t.total_bytes for t in stored.tensors if t.group.name != "token_embd.weight")
    return sum(needed) <= free
