"""``/models``: what is known of the library, and the size at every quantization."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta

from tagfit.advice.estimate import (
    Load,
    Subject,
    file_bytes,
    find,
    lay,
    make_subject,
    read_quantization,
)
from tagfit.advice.ladder import Rung, ladder
from tagfit.advice.machine import Machine, Size
from tagfit.api.daemon import DIGEST_DIGITS
from tagfit.api.decoding import read_query
from tagfit.api.machines import machine_of_query
from tagfit.api.requests import Cpu, GpuMemories, GpuNames, Ram
from tagfit.api.schema import describes
from tagfit.catalog.library import Catalog, Kind, Model, Tag
from tagfit.daemon.client import InstalledModel, LoadedModel
from tagfit.hardware.probe import Prober
from tagfit.problems import InvalidRequest
from tagfit.pulls.shared import Pulls


class ModelsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of GET /models; all of them narrow."""

    family: Annotated[str, Meta(max_length=80, description="only this family")] | None = None
    capability: (
        Annotated[str, Meta(max_length=80, description="only with it: tools, vision, insert")]
        | None
    ) = None
    quantization: (
        Annotated[str, Meta(max_length=32, description="only tags of this file type: Q4_K_M")]
        | None
    ) = None
    max_download: Annotated[Size, Meta(description="only tags up to this size: 10GB")] | None = None
    fits: (
        Annotated[
            Literal["gpu", "any"],
            Meta(
                description="only tags that fit the machine of gpu, vram and ram, or this one, at"
                " Ollama's default context: wholly on GPUs, or at all"
            ),
        ]
        | None
    ) = None
    gpu: GpuNames = ()
    vram: GpuMemories = ()
    ram: Ram | None = None
    cpu: Cpu | None = None


class TagSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One tag."""

    name: str
    quantization: str | None
    """None for what llama.cpp does not run."""
    kind: Kind
    digest: str
    aliases: tuple[str, ...]
    download_bytes: int | None


class ModelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint of the library."""

    family: str
    size: str
    variant: str
    architecture: str
    parameters: int
    context_length_limit: int
    capabilities: tuple[str, ...]
    released: str
    licence: str
    tags: tuple[TagSummary, ...]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /models answers."""

    library_date: str
    models: tuple[ModelSummary, ...]


class ModelDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /models/{tag} answers: the checkpoint and its whole ladder."""

    tag: str
    model: ModelSummary
    ladder: tuple[Rung, ...]


class InstalledSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One model that the daemon has."""

    name: str
    tag: str | None
    """The library's full name of it; null for a model that the catalog does not have."""
    digest: str
    size_bytes: int
    modified_at: str
    family: str
    parameter_size: str
    quantization: str
    loaded: bool
    memory_bytes: int
    """Where it is loaded: all of it, and on GPUs."""
    gpu_memory_bytes: int
    context_length: int


class InstalledList(msgspec.Struct, frozen=True, kw_only=True):
    """What GET /models/installed answers."""

    models: tuple[InstalledSummary, ...]


@get(
    "/models",
    operation_id="listModels",
    tags=["library"],
    opt=describes(ModelList, takes=ModelsQuery, problems="400"),
)
async def list_models(
    request: Request[Any, Any, Any],
    catalog: NamedDependency[Catalog],
    prober: NamedDependency[Prober],
) -> ModelList:
    """Checkpoints of the library and their tags, with the size of each download."""
    query = read_query(request.query_params.multi_items(), ModelsQuery)
    machine = await machine_of_query(query, prober) if query.fits else None
    return await asyncio.to_thread(_list, catalog, query, machine)


@get(
    "/models/installed",
    operation_id="listInstalledModels",
    tags=["library"],
    opt=describes(InstalledList, problems="421 502 504"),
)
async def list_installed(
    catalog: NamedDependency[Catalog], pulls: NamedDependency[Pulls]
) -> InstalledList:
    """The models that the daemon has, and which of them are in memory."""
    daemon = pulls.daemon
    installed, loaded = await asyncio.gather(daemon.installed(), daemon.loaded())
    names = {tag.digest: tag.name for tag in catalog.tags}
    return InstalledList(
        models=tuple(
            _installed(model, names.get(model.digest[:DIGEST_DIGITS]), loaded)
            for model in installed
        )
    )


@get(
    "/models/{tag:str}",
    operation_id="getModel",
    tags=["library"],
    opt=describes(ModelDetails, problems="400 404"),
)
async def get_model(tag: FromPath[str], catalog: NamedDependency[Catalog]) -> ModelDetails:
    """One checkpoint, with its size at every quantization and the tags that exist."""
    model, found = find(catalog, tag)
    return ModelDetails(tag=found.name, model=_summary(model, model.tags), ladder=ladder(model))


def _list(catalog: Catalog, query: ModelsQuery, machine: Machine | None) -> ModelList:
    _check(query, catalog)
    quantization = query.quantization and read_quantization(query.quantization, "quantization")
    found = []
    for model in catalog.models:
        if query.family not in (None, model.family):
            continue
        if query.capability is not None and query.capability not in model.capabilities:
            continue
        tags = tuple(
            tag
            for tag in model.tags
            if quantization in (None, tag.quantization)
            and _small_enough(model, tag, query.max_download)
            and (machine is None or _fits(model, tag, machine, query.fits))
        )
        if tags:
            found.append(_summary(model, tags))
    return ModelList(library_date=catalog.snapshot_date, models=tuple(found))


def _check(query: ModelsQuery, catalog: Catalog) -> None:
    families = {family.name for family in catalog.families}
    if query.family is not None and query.family not in families:
        raise InvalidRequest.field("family", query.family, "the library has no such family")
    capabilities = sorted({name for model in catalog.models for name in model.capabilities})
    if query.capability is not None and query.capability not in capabilities:
        raise InvalidRequest.field(
            "capability",
            query.capability,
            f"no model has it (allowed: {', '.join(capabilities)})",
            allowed=capabilities,
        )


def _small_enough(model: Model, tag: Tag, most: int | None) -> bool:
    size = _download_bytes(model, tag)
    return most is None or (size is not None and size <= most)


def _fits(model: Model, tag: Tag, machine: Machine, wanted: str | None) -> bool:
    subject = _subject(model, tag)
    if subject is None:
        return False
    try:
        _, placement = lay(subject, Load(), machine.hardware, exact=False)
    except InvalidRequest:  # llama.cpp refuses this model with the daemon's settings
        return False
    return placement.verdict == "gpu" if wanted == "gpu" else placement.verdict != "none"


def _subject(model: Model, tag: Tag) -> Subject | None:
    if tag.quantization is None or tag.kind != "gguf":
        return None
    return make_subject(model, tag, tag.quantization, model.mixture)


@lru_cache(maxsize=16384)
def _download_bytes(model: Model, tag: Tag) -> int | None:
    subject = _subject(model, tag)
    return None if subject is None else file_bytes(subject)


def _installed(
    model: InstalledModel, tag: str | None, loaded: tuple[LoadedModel, ...]
) -> InstalledSummary:
    resident = next((one for one in loaded if one.name == model.name), None)
    return InstalledSummary(
        name=model.name,
        tag=tag,
        digest=model.digest,
        size_bytes=model.size_bytes,
        modified_at=model.modified_at,
        family=model.family,
        parameter_size=model.parameter_size,
        quantization=model.quantization,
        loaded=resident is not None,
        memory_bytes=resident.size_bytes if resident else 0,
        gpu_memory_bytes=resident.vram_bytes if resident else 0,
        context_length=resident.context_length if resident else 0,
    )


def _summary(model: Model, tags: tuple[Tag, ...]) -> ModelSummary:
    return ModelSummary(
        family=model.family,
        size=model.size,
        variant=model.variant,
        architecture=model.architecture.architecture,
        parameters=model.parameters,
        context_length_limit=model.context_length,
        capabilities=model.capabilities,
        released=model.released,
        licence=model.licence,
        tags=tuple(
            TagSummary(
                name=tag.name,
                quantization=tag.quantization,
                kind=tag.kind,
                digest=tag.digest,
                aliases=tag.aliases,
                download_bytes=_download_bytes(model, tag),
            )
            for tag in tags
        ),
    )
