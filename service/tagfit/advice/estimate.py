"""One model on one machine: sizes, placement, speed and what the quantization costs."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from tagfit.advice.answers import (
    Estimate,
    FileAnswer,
    FitAnswer,
    ModelAnswer,
    QualityAnswer,
    answer_hardware,
    answer_memory,
    answer_runtime,
)
from tagfit.advice.loading import maps_weights, processor, settings, uncounted_cache_bytes
from tagfit.advice.machine import Machine
from tagfit.catalog.library import Catalog, Model, Tag, UnknownTag
from tagfit.facts import (
    CacheType,
    Hardware,
    Placement,
    Runtime,
    Weights,
)
from tagfit.problems import InvalidRequest, UnknownModel
from tagfit.quality.capability import Capability, UseCase, capability, prior
from tagfit.quality.degradation import Degradation, degradation
from tagfit.sizing import mixtures
from tagfit.sizing.mixtures import FILE_TYPES, NotQuantizable, file_type, weights
from tagfit.sizing.placement import max_context_length, place
from tagfit.sizing.rules import BATCH_TIERS
from tagfit.sizing.runtime import resolve, setting
from tagfit.sizing.tensors import as_converted_today
from tagfit.speed.roofline import speed
from tagfit.units import Tokens, format_bytes

KV_CACHE_TYPE = "OLLAMA_KV_CACHE_TYPE"
MixtureName = Literal["auto", "llama.cpp", "llama.cpp-2023", "ollama"]


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model is to be loaded; what is left out is what Ollama would choose."""

    context_length: (
        Annotated[Tokens, Meta(description="tokens of one request: 8192 or 16k")] | None
    ) = None
    parallel: (
        Annotated[int, Meta(ge=1, le=256, description="requests at once (OLLAMA_NUM_PARALLEL)")]
        | None
    ) = None
    kv_cache_type: CacheType | None = None
    flash_attention: Literal["auto", "on", "off"] = "auto"
    batch_size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    micro_batch_size: Annotated[int, Meta(ge=1, le=65536)] | None = None
    offloaded_layers: (
        Annotated[
            int, Meta(ge=0, le=10000, description="forced; default: what llama.cpp's --fit chooses")
        ]
        | None
    ) = None
    kv_unified: (
        Annotated[bool, Meta(description="one cache for all sequences (llama.cpp's --kv-unified)")]
        | None
    ) = None


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that is already loaded."""

    model: Annotated[str, Meta(min_length=1, max_length=256, examples=["nomic-embed-text"])]
    context_length: Tokens | None = None


class EstimateRequest(Load, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``/estimate`` is asked of a machine; ``model`` must be there."""

    model: Annotated[
        str, Meta(min_length=1, max_length=256, examples=["codellama:13b-instruct-q5_K_M"])
    ]
    quantization: (
        Annotated[
            str, Meta(max_length=32, description="any file type, also one without a tag: Q4_K_M")
        ]
        | None
    ) = None
    mixture: Annotated[
        MixtureName,
        Meta(description="whose rules made the file; auto: as the tag was made"),
    ] = "auto"
    use_case: UseCase = "chat"
    loaded: Annotated[
        tuple[str | LoadedModel, ...],
        Meta(max_length=16, description="models that stay loaded, in the order of unloading"),
    ] = ()


class Subject(msgspec.Struct, frozen=True):
    """A checkpoint in one quantization: what an estimate is made for."""

    model: Model
    tag: Tag | None
    weights: Weights


def find(catalog: Catalog, name: str) -> tuple[Model, Tag]:
    """The model and tag of a name. Raises UnknownModel with near names, InvalidRequest."""
    try:
        return catalog.find(name)
    except UnknownTag as error:
        near = f"; did you mean {' or '.join(error.suggestions)}?" if error.suggestions else ""
        raise UnknownModel(f"{error}{near}", suggestions=error.suggestions) from error
    except ValueError as error:
        raise InvalidRequest.field("model", name, str(error)) from error


def read_subject(catalog: Catalog, request: EstimateRequest) -> Subject:
    """What a request is about. Raises UnknownModel, InvalidRequest."""
    model, tag = find(catalog, request.model)
    quantization = tag.quantization
    if request.quantization is not None:
        quantization = read_quantization(request.quantization, "quantization")
    if quantization is None:
        raise InvalidRequest.field(
            "model",
            request.model,
            f"{tag.name} is made for {tag.kind}, not for llama.cpp; name a quantization such as"
            " Q4_K_M to estimate that instead",
        )
    chosen = tag if quantization == tag.quantization else model.tag(quantization)
    mixture: str = request.mixture
    if mixture == "auto":
        mixture = model.mixture if chosen else "llama.cpp"
    try:
        return make_subject(model, chosen, quantization, mixture)
    except NotQuantizable as error:
        raise InvalidRequest.field("quantization", quantization, str(error)) from error


def make_subject(model: Model, tag: Tag | None, quantization: str, mixture: str) -> Subject:
    """A checkpoint in one quantization. Raises NotQuantizable."""
    if mixture == "llama.cpp":
        model = replace(model, architecture=as_converted_today(model.architecture))
    # llama.cpp keeps the image encoder in a file of its own; Ollama's quantizer counts it in.
    encoder = 0 if mixture == "llama.cpp" else model.vision_blocks
    stored = weights(model.architecture, quantization, mixture=mixture, vision_blocks=encoder)
    return Subject(model, tag, stored)


def read_quantization(text: str, field: str) -> str:
    """A file type in its own spelling, whatever the case. Raises InvalidRequest."""
    try:
        return file_type(text.strip())
    except KeyError as error:
        message = "llama.cpp makes no such file type; GET /quantizations lists them"
        raise InvalidRequest.field(field, text, message, allowed=FILE_TYPES) from error


def resolve_load(subject: Subject, load: Load, hardware: Hardware) -> Runtime:
    """How Ollama would load it. Raises InvalidRequest."""
    try:
        return resolve(
            subject.model.architecture,
            file_bytes(subject),
            hardware,
            embedding="embedding" in subject.model.capabilities,
            vision="vision" in subject.model.capabilities,
            **{name: getattr(load, name) for name in Load.__struct_fields__},
        )
    except ValueError as error:
        field, value = "kv_cache_type", str(load.kv_cache_type or "")
        if not value and (wanted := setting(hardware.environment, KV_CACHE_TYPE)):
            field, value = f"hardware.ollama.{KV_CACHE_TYPE}", wanted
        allowed = None if value in get_args(CacheType) else get_args(CacheType)
        raise InvalidRequest.field(field, value, str(error), allowed=allowed) from error


def lay(
    subject: Subject, load: Load, hardware: Hardware, *, exact: bool = True
) -> tuple[Runtime, Placement]:
    """How Ollama would load it, and where it would lie. Raises InvalidRequest."""
    runtime = resolve_load(subject, load, hardware)
    return runtime, place_subject(subject, runtime, hardware, exact=exact)


def place_subject(
    subject: Subject,
    runtime: Runtime,
    hardware: Hardware,
    *,
    exact: bool = True,
    exact_if_whole: bool = False,
) -> Placement:
    """Where it would lie."""
    return place(
        subject.model.architecture,
        subject.weights,
        runtime,
        hardware,
        projector_bytes=vision_bytes(subject),
        exact=exact,
        exact_if_whole=exact_if_whole,
    )


def degrade(model: Model, quantization: str) -> Degradation:
    """What a quantization costs a checkpoint; a chat tune is taken for its base."""
    return degradation(quantization, model.parameters, family=model.family, size=model.size)


def judge(model: Model, use_case: UseCase) -> Capability:
    """How good a checkpoint is at a use: as published, or what is usual for its size and age."""
    found = capability(model.family, model.size, model.variant, use_case)
    return found or prior(model.parameters, model.released, use_case)


def estimate(subject: Subject, load: Load, machine: Machine, use_case: UseCase) -> Estimate:
    """Everything about one model on one machine."""
    return describe(subject, load, machine, use_case, *lay(subject, load, machine.hardware))


def describe(
    subject: Subject,
    load: Load,
    machine: Machine,
    use_case: UseCase,
    runtime: Runtime,
    placement: Placement,
) -> Estimate:
    """Everything about one model that is laid over a machine."""
    architecture, hardware = subject.model.architecture, machine.hardware
    return Estimate(
        model=_model(subject),
        runtime=answer_runtime(runtime),
        file=_file(subject),
        memory=answer_memory(placement),
        fit=FitAnswer(
            verdict=placement.verdict,
            offloaded_layers=placement.offloaded_layers,
            total_layers=placement.total_layers,
            max_context_length=longest_context(subject, load, runtime, hardware, "gpu")
            or longest_context(subject, load, runtime, hardware, "any", exact=False),
            reason=placement.reason,
            processor=processor(
                placement,
                subject.weights.tensor_bytes,
                mapped=maps_weights(hardware),
                uncounted=uncounted_cache_bytes(architecture, runtime, placement, hardware),
            ),
        ),
        speed=speed(architecture, subject.weights, runtime, placement, hardware),
        quality=QualityAnswer(
            degradation=degrade(subject.model, subject.weights.quantization),
            capability=judge(subject.model, use_case),
        ),
        settings=settings(
            architecture,
            runtime,
            hardware,
            batch_asked=load.batch_size is not None or load.micro_batch_size is not None,
        ),
        hardware=answer_hardware(hardware),
        warnings=(*machine.assumptions, *_warnings(subject, load, runtime, placement, hardware)),
    )


def longest_context(
    subject: Subject,
    load: Load,
    runtime: Runtime,
    hardware: Hardware,
    verdict: Literal["gpu", "any"],
    *,
    exact: bool = True,
) -> int:
    """The longest context of one request that is placed so; 0 if there is none.

    Ollama may choose another batch for that context than for the runtime's. Not exact, compute
    buffers are taken by closed form.
    """

    def search(runtime: Runtime) -> int:
        return max_context_length(
            subject.model.architecture,
            subject.weights,
            runtime,
            hardware,
            projector_bytes=vision_bytes(subject),
            verdict=verdict,
            exact=exact,
        )

    found = search(runtime)
    if not found:
        return 0
    longer = replace(load, context_length=Tokens(found))
    batches = resolve_load(subject, longer, hardware)
    if batches.micro_batch_size == runtime.micro_batch_size:
        return found
    other = search(
        replace(runtime, batch_size=batches.batch_size, micro_batch_size=batches.micro_batch_size)
    )
    # a larger batch begins beyond a number of tokens; up to it the runtime's still holds
    steps = [n for n, batch in BATCH_TIERS if runtime.micro_batch_size < batch]
    below = min(steps) // runtime.parallel if steps else 0
    return max(other, below) if below <= found else other


def file_bytes(subject: Subject) -> int:
    """Bytes of all layers of the tag: tensors, header, image encoder, template, licence."""
    return mixtures.file_bytes(subject.weights) + subject.model.fixed_bytes(subject.tag)


def vision_bytes(subject: Subject) -> int:
    """Bytes of the image encoder that the tag holds, in its file or in one beside it."""
    return (subject.tag or subject.model).vision_bytes


def _model(subject: Subject) -> ModelAnswer:
    return ModelAnswer(
        tag=subject.tag.name if subject.tag else None,
        family=subject.model.family,
        architecture=subject.model.architecture.architecture,
        parameters=subject.model.parameters,
        quantization=subject.weights.quantization,
        bits_per_weight=round(subject.weights.bits_per_weight, 3),
        context_length_limit=subject.model.context_length,
        capabilities=subject.model.capabilities,
    )


def _file(subject: Subject) -> FileAnswer:
    return FileAnswer(
        tensor_bytes=subject.weights.tensor_bytes + vision_bytes(subject),
        vision_bytes=vision_bytes(subject),
        download_bytes=file_bytes(subject),
        basis=(
            f"tensors: exact, from the hyper-parameters ({subject.model.architecture_source})"
            f" by the mixture rules of {subject.weights.mixture};"
            " header, template and licence: predicted"
        ),
    )


def _warnings(
    subject: Subject, load: Load, runtime: Runtime, placement: Placement, hardware: Hardware
) -> list[str]:
    warnings = []
    if subject.tag is None:
        warnings.append(
            f"the library has no {subject.weights.quantization} tag of {subject.model.family}"
            f" {subject.model.size}; the sizes are those that llama.cpp would make"
        )
    if runtime.context_length > subject.model.context_length:
        warnings.append(
            f"context_length {runtime.context_length} is more than the"
            f" {subject.model.context_length} that the model was trained for;"
            " Ollama cuts it to that"
        )
    if load.context_length is None and runtime.context_length < subject.model.context_length:
        warnings.append(
            f"context_length not given: {runtime.context_length}, Ollama's default for this"
            f" machine; the model was trained for {subject.model.context_length}"
        )
    if placement.verdict == "none":
        warnings.append("Ollama does not refuse to load it: it would swap or be killed")
    disk = hardware.disk_free_bytes
    if disk is not None and disk < (download := file_bytes(subject)):
        warnings.append(
            f"the download of {format_bytes(download)} is more than the"
            f" {format_bytes(disk)} free on disk"
        )
    return warnings
