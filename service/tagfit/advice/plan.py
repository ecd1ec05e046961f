"""``/plan``: the least hardware for a model, in each of its quantizations."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from tagfit.advice.estimate import (
    Load,
    Subject,
    degrade,
    file_bytes,
    find,
    make_subject,
    read_quantization,
)
from tagfit.advice.example_devices import (
    ExampleMachine,
    cpu_examples,
    gpu_examples,
    gpu_memory_sold,
    why_none,
)
from tagfit.advice.least_hardware import Case, CpuNeed, GpuNeed, Rate, Rates, cpu_need, gpu_need
from tagfit.catalog.library import Catalog, Model, Tag
from tagfit.problems import InvalidRequest
from tagfit.sizing import rules
from tagfit.sizing.mixtures import NotQuantizable
from tagfit.speed.efficiency import CUDA
from tagfit.speed.peaks import COMPUTE_PER_BANDWIDTH
from tagfit.units import Tokens

DEFAULT_CONTEXT_TOKENS = rules.CONTEXT_TIERS[-1][1]
"""Ollama's own on the smallest machines: its default would grow with the planned one."""
BASIS = (
    "Memory: every layer on one CUDA GPU that nothing else uses, as llama.cpp's --fit leaves it"
    " there under Ollama. Rates: expected ones, the context full. Bandwidth and compute: of a"
    f" CUDA GPU of {CUDA.clock_hertz / 1e9:g} GHz that reaches"
    f" {CUDA.bandwidth['block']:.0%} of its bandwidth, the usual share; at least"
    f" {COMPUTE_PER_BANDWIDTH} FLOP for a byte."
)


class PlanRequest(Load, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``/plan`` is asked; ``model`` must be there."""

    model: Annotated[
        str, Meta(min_length=1, max_length=256, examples=["codellama:13b-instruct-q5_K_M"])
    ]
    quantizations: Annotated[
        tuple[Annotated[str, Meta(max_length=32)], ...],
        Meta(
            description="only these, with a tag or without: Q4_K_M, Q8_0; default: all tags'",
            max_length=100,
        ),
    ] = ()
    min_generation_tokens_per_second: Rate | None = None
    min_prefill_tokens_per_second: Rate | None = None
    offloaded_layers: Annotated[
        None, Meta(description="a plan is for all layers; leave it out")
    ] = None


class QuantizationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What one quantization needs."""

    quantization: str
    tag: str | None
    """The tag that holds it; null where the library has none."""
    download_bytes: int
    retention: float
    """What the quantization leaves of the model's ability."""
    gpu: GpuNeed
    gpu_memory_bytes: int | None
    """The least memory that a GPU with ``gpu.free_memory_bytes`` is sold with; null: none is."""
    cpu: CpuNeed
    examples: tuple[ExampleMachine, ...]
    """Of each kind the machine with the least memory, then bandwidth, that does it."""
    reason: str | None
    """Why no example has a GPU, where none has."""
    request: dict[str, Any]
    """For ``/estimate``, with the ``hardware`` of an example."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What ``/plan`` answers."""

    tag: str
    """The one that was asked for."""
    family: str
    parameters: int
    context_length: int
    context_length_limit: int
    quantizations: tuple[QuantizationPlan, ...]
    """That of the asked tag, then the others from the smallest up."""
    basis: str
    library_date: str
    warnings: tuple[str, ...]


def plan(catalog: Catalog, request: PlanRequest) -> Plan:
    """The least hardware for a model. Raises UnknownModel, InvalidRequest."""
    model, tag = find(catalog, request.model)
    wanted = request.context_length or DEFAULT_CONTEXT_TOKENS
    context = Tokens(min(wanted, model.context_length))
    load = replace(
        Load(**{name: getattr(request, name) for name in Load.__struct_fields__}),
        context_length=context,
    )
    rates = Rates(**{name: getattr(request, name) for name in Rates.__struct_fields__})
    return Plan(
        tag=tag.name,
        family=model.family,
        parameters=model.parameters,
        context_length=int(context),
        context_length_limit=model.context_length,
        quantizations=tuple(
            _plan(Case(subject, load, rates), tag) for subject in _subjects(model, tag, request)
        ),
        basis=BASIS,
        library_date=catalog.snapshot_date,
        warnings=_warnings(model, request, context),
    )


def _subjects(model: Model, asked: Tag, request: PlanRequest) -> list[Subject]:
    named = {
        read_quantization(text, field): field
        for index, text in enumerate(request.quantizations)
        for field in [f"quantizations[{index}]"]
    }
    offered = {tag.quantization: "model" for tag in model.tags if tag.quantization is not None}
    found = []
    for quantization, field in (named or offered).items():
        tag = asked if asked.quantization == quantization else model.tag(quantization)
        mixture = model.mixture if tag else "llama.cpp"
        try:
            found.append(make_subject(model, tag, quantization, mixture))
        except NotQuantizable as error:
            if named:
                raise InvalidRequest.field(field, quantization, str(error)) from error
    if not found:
        message = f"{asked.name} is made for {asked.kind}, not for llama.cpp; name quantizations"
        raise InvalidRequest.field("model", request.model, message)
    return sorted(found, key=lambda one: (one.tag is not asked, one.weights.tensor_bytes))


def _plan(case: Case, asked: Tag) -> QuantizationPlan:
    subject = case.subject
    gpu, cpu = gpu_need(case), cpu_need(case)
    examples = gpu_examples(case, gpu)
    return QuantizationPlan(
        quantization=subject.weights.quantization,
        tag=subject.tag.name if subject.tag else None,
        download_bytes=file_bytes(subject),
        retention=round(degrade(subject.model, subject.weights.quantization).retention, 4),
        gpu=gpu,
        gpu_memory_bytes=gpu_memory_sold(gpu.free_memory_bytes),
        cpu=cpu,
        examples=(*examples, *cpu_examples(case, cpu)),
        reason=None if examples else why_none(case, gpu),
        request=_request(case, asked),
    )


def _request(case: Case, asked: Tag) -> dict[str, Any]:
    load = {
        field.name: int(value) if isinstance(value, Tokens) else value
        for field in msgspec.structs.fields(Load)
        if (value := getattr(case.load, field.name)) != field.default
    }
    tag = case.subject.tag
    if tag is None:
        load["quantization"] = case.subject.weights.quantization
    return {"model": (tag or asked).name, **load}


def _warnings(model: Model, request: PlanRequest, context: int) -> tuple[str, ...]:
    trained = model.context_length
    if request.context_length is None:
        text = f"context_length not given: {context}; the model was trained for {trained}"
        return (text,)
    if request.context_length > trained:
        text = f"context_length {request.context_length} is more than the model was trained for"
        return (f"{text}: {trained}, to which Ollama cuts it, and so does the plan",)
    return ()
