"""Before a pull: which tag is meant, and what speaks against it on this machine."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from tagfit.advice.answers import Estimate
from tagfit.advice.estimate import (
    Load,
    Subject,
    estimate,
    file_bytes,
    find,
    make_subject,
    read_quantization,
)
from tagfit.advice.jobs import JOBS
from tagfit.advice.machine import Machine
from tagfit.advice.recommend import Recommendation, RecommendRequest, recommend
from tagfit.catalog.library import Catalog, Model, Tag, UnknownTag
from tagfit.catalog.lmstudio_names import file_type_of, held_by, name_of
from tagfit.catalog.names import DEFAULT_TAG, ModelName, parse_name
from tagfit.daemon.client import InstalledModel
from tagfit.daemon.versions import lacking_version
from tagfit.problems import (
    CannotRun,
    DaemonTooOld,
    DiskFull,
    DoesNotFit,
    InvalidRequest,
    Problem,
    UnknownModel,
)
from tagfit.quality.capability import UseCase
from tagfit.units import Bytes, format_bytes

AUTO = "auto"
HOW_TO_FORCE = ' Send "force": true to pull it all the same.'


class Wish(Load, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be pulled, and how it is to be loaded then."""

    model: (
        Annotated[
            str,
            Meta(
                max_length=512,
                description="a tag, or a model without one: then the tag that serves best"
                " here; left out: what /recommend puts first",
                examples=["codellama:7b-instruct-q4_K_M"],
            ),
        ]
        | None
    ) = None
    quantization: (
        Annotated[
            str,
            Meta(
                max_length=32, description="`auto`: what serves best here; or a file type: Q4_K_M"
            ),
        ]
        | None
    ) = None
    use_case: (
        Annotated[UseCase, Meta(description="what a chosen tag must serve; default: chat")] | None
    ) = None


class Choice(msgspec.Struct, frozen=True):
    """The name that is pulled, and what is known of it."""

    name: ModelName
    subject: Subject | None = None
    """None where the catalog has nothing to size it by."""
    tag: Tag | None = None
    reason: str | None = None
    """Why this one, where it was chosen."""
    unknown: str | None = None
    """Why nothing is known."""


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon says of itself; None where it does not answer."""

    version: str | None = None
    installed: tuple[InstalledModel, ...] | None = None
    unfinished_bytes: int = 0
    """Already on its disk, and to be taken up."""


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull would meet."""

    choice: Choice
    download_bytes: int | None = None
    installed: bool | None = None
    estimate: Estimate | None = None
    problem: Problem | None = None
    """Why it should not be pulled; ``force`` makes it a warning."""
    warnings: tuple[str, ...] = ()


def choose(catalog: Catalog, wish: Wish, name: ModelName | None, machine: Machine) -> Choice:
    """The tag that is meant, chosen by ``/recommend`` where the wish leaves it open.

    ``name`` is the model that the wish names. Raises UnknownModel, InvalidRequest, DoesNotFit.
    """
    choice = _choose(catalog, wish, name, machine)
    if catalog.pulled_by == "lmstudio":
        try:
            name_of(catalog, str(choice.name))
        except UnknownTag as error:
            sentence = str(error)
            near = f"; did you mean {', '.join(error.suggestions)}?" if error.suggestions else "."
            raise UnknownModel(
                f"{sentence[0].upper()}{sentence[1:]}{near}", suggestions=error.suggestions
            ) from error
    return choice


def _choose(catalog: Catalog, wish: Wish, name: ModelName | None, machine: Machine) -> Choice:
    open_tag = wish.quantization is None or wish.quantization.lower() == AUTO
    if name is None:
        if not open_tag:
            message = "without a model only `auto` can be chosen"
            raise InvalidRequest.field("quantization", wish.quantization, message, allowed=[AUTO])
        return _best(catalog, wish, machine, catalog.models, "this machine")
    if not name.in_library:
        return _elsewhere(catalog, name, wish)
    has_tag = ":" in (wish.model or "").rpartition("/")[2]
    family = _family(catalog, name.model.lower())
    if open_tag and not has_tag and family:
        return _best(catalog, wish, machine, family, f"{name.model} on this machine")
    if wish.quantization is None:
        return _named(catalog, name)
    model = find(catalog, str(name))[0]
    if open_tag:
        return _best(catalog, wish, machine, (model,), f"{_label(model)} on this machine")
    wanted = read_quantization(wish.quantization, "quantization")
    found = model.tag(wanted)
    if found is None:
        near = tuple(tag.name for tag in model.tags if tag.quantization)
        raise UnknownModel(
            f"The library has no {wanted} tag of {_label(model)}; it has {', '.join(near)}.",
            suggestions=near,
        )
    return Choice(_library_name(found), _subject(model, found), found)


def examine(
    catalog: Catalog, choice: Choice, load: Load, machine: Machine, daemon: DaemonFacts
) -> Preflight:
    """What speaks against a pull. Raises InvalidRequest for settings that no model can have."""
    installed = _installed(choice, daemon)
    if choice.subject is None:
        problem = _cannot_run(choice.tag, machine)
        warnings = (choice.unknown,) if choice.unknown and problem is None else ()
        return Preflight(choice=choice, installed=installed, problem=problem, warnings=warnings)
    subject = choice.subject
    use_case = _use_case(None, (subject.model,))
    found = estimate(subject, load, machine, use_case)
    download_bytes = file_bytes(subject)
    problem = (
        _cannot_run(choice.tag, machine)
        or _too_old(subject, daemon)
        or _too_large(catalog, choice, found, load, machine)
        or (None if installed else _no_room(download_bytes, machine, daemon))
    )
    return Preflight(
        choice=choice,
        download_bytes=download_bytes,
        installed=installed,
        estimate=found,
        problem=problem,
        warnings=_warnings(found),
    )


def forced(preflight: Preflight) -> Preflight:
    """The same with its problem as a warning."""
    if preflight.problem is None:
        return preflight
    warning = preflight.problem.detail.removesuffix(HOW_TO_FORCE)
    return replace(preflight, problem=None, warnings=(warning, *preflight.warnings))


@lru_cache(maxsize=16)
def _checkpoint(catalog: Catalog, model: Model) -> Catalog:
    """The catalog with nothing but one checkpoint."""
    return replace(catalog, models=(model,), others=())


def _named(catalog: Catalog, name: ModelName) -> Choice:
    """A tag in the library's own letters; one that the snapshot lacks may exist all the same."""
    try:
        model, tag = catalog.find(str(name))
    except UnknownTag as error:
        others = (tag for tag in catalog.others if str(name).lower() in _names(tag))
        return Choice(
            name, tag=next(others, None), unknown=f"nothing is known of its size: {error}"
        )
    spelled = next(one for one in (tag.name, *tag.aliases) if one.lower() == str(name).lower())
    return Choice(parse_name(spelled), _subject(model, tag), tag)


def _elsewhere(catalog: Catalog, name: ModelName, wish: Wish) -> Choice:
    """A name outside of the library, known where a listed repository holds a checkpoint of it."""
    if wish.quantization is not None:
        if wish.quantization.lower() == AUTO or name.tag != DEFAULT_TAG:
            raise InvalidRequest.field(
                "quantization",
                wish.quantization,
                "only models of the Ollama library can be chosen by it",
            )
        read_quantization(file_type_of(wish.quantization), "quantization")
        name = replace(name, tag=wish.quantization)
    held = held_by(catalog, name)
    if held is None:
        return Choice(
            name, unknown="it is not in the Ollama library, so nothing is known of its size"
        )
    model, quantization = held
    return Choice(name, make_subject(model, None, quantization, "llama.cpp"))


def _family(catalog: Catalog, family: str) -> tuple[Model, ...]:
    return tuple(model for model in catalog.models if model.family == family)


def _best(
    catalog: Catalog, wish: Wish, machine: Machine, models: tuple[Model, ...], where: str
) -> Choice:
    """What ``/recommend`` puts first of one checkpoint, one family, or all of the catalog."""
    use_case = _use_case(wish.use_case, models)
    families = () if models is catalog.models else (models[0].family,)
    scope = _checkpoint(catalog, models[0]) if len(models) == 1 else catalog
    request = _request(wish, use_case, families, limit=1)
    found = recommend(scope, request, machine)
    if found.recommendations and (room := _room_too_small(found.recommendations[0], machine)):
        smaller = recommend(scope, replace(request, max_download=room), machine)
        found = smaller if smaller.recommendations else found
    if not found.recommendations:
        miss = found.nearest_miss
        near = _alternatives(catalog, wish, use_case, machine, *families) if families else ()
        raise DoesNotFit(
            f"No tag for {where} serves {use_case}.{f' {miss.reason}' if miss else ''}"
            f"{_instead(near)}",
            suggestions=near,
            needed_bytes=miss.needed_bytes if miss else None,
            available_bytes=miss.available_bytes if miss else None,
        )
    best = found.recommendations[0]
    model, tag = catalog.find(best.tag)
    reason = f"best for {use_case} of {found.considered} tags for {where}: {best.reasons[0]}"
    return Choice(_library_name(tag), _subject(model, tag), tag, reason)


def _room_too_small(best: Recommendation, machine: Machine) -> Bytes | None:
    """The free disk, where it is known and the download is larger."""
    free = machine.hardware.disk_free_bytes
    needed = best.estimate.file.download_bytes
    return Bytes(free) if free is not None and not best.installed and needed > free else None


def _use_case(wanted: UseCase | None, models: tuple[Model, ...]) -> UseCase:
    """The use that is asked for, or the first that one of the models can serve."""
    if wanted is not None:
        return wanted
    return next(
        (
            use_case
            for use_case, job in JOBS.items()
            if any(job.capabilities <= set(model.capabilities) for model in models)
        ),
        "chat",
    )


def _request(
    load: Load, use_case: UseCase, families: tuple[str, ...] = (), *, limit: int
) -> RecommendRequest:
    settings = {name: getattr(load, name) for name in Load.__struct_fields__}
    return RecommendRequest(**settings, use_case=use_case, families=families, limit=limit)


def _alternatives(
    catalog: Catalog, load: Load, use_case: UseCase, machine: Machine, family: str | None = None
) -> tuple[str, ...]:
    """Tags that fit, of the same family if there are any."""
    for families in ((family,), ()) if family else ((),):
        found = recommend(catalog, _request(load, use_case, families, limit=3), machine)
        if found.recommendations:
            return tuple(one.tag for one in found.recommendations)
    return ()


def _too_large(
    catalog: Catalog, choice: Choice, found: Estimate, load: Load, machine: Machine
) -> Problem | None:
    if found.fit.verdict != "none" or choice.subject is None:
        return None
    model = choice.subject.model
    near = _alternatives(catalog, load, _use_case(None, (model,)), machine, model.family)
    return DoesNotFit(
        f"{choice.name} does not fit this machine: {found.fit.reason.rstrip('.')}.{_instead(near)}"
        f"{HOW_TO_FORCE}",
        suggestions=near,
        needed_bytes=found.memory.total_bytes,
        available_bytes=sum(device.available_bytes for device in found.memory.devices),
        estimate=msgspec.to_builtins(found, enc_hook=int),
    )


def _no_room(download_bytes: int, machine: Machine, daemon: DaemonFacts) -> Problem | None:
    free = machine.hardware.disk_free_bytes
    if free is None or download_bytes <= free + daemon.unfinished_bytes:
        return None
    return DiskFull(
        f"The download of {format_bytes(download_bytes)} is more than the {format_bytes(free)} free"
        f" where models are kept.{HOW_TO_FORCE}",
        needed_bytes=download_bytes,
        available_bytes=free + daemon.unfinished_bytes,
    )


def _cannot_run(tag: Tag | None, machine: Machine) -> Problem | None:
    if tag is None or tag.kind == "gguf":
        return None
    if tag.kind == "cloud":
        return CannotRun(f"{tag.name} runs on Ollama's servers, not on this machine.{HOW_TO_FORCE}")
    if any(gpu.backend == "metal" for gpu in machine.hardware.gpus):
        return None
    return CannotRun(
        f"{tag.name} is made for MLX, which runs on Apple silicon only; pull a GGUF tag of it."
        f"{HOW_TO_FORCE}"
    )


def _too_old(subject: Subject, daemon: DaemonFacts) -> Problem | None:
    architecture = subject.model.architecture.architecture
    needed = lacking_version(architecture, daemon.version or "")
    if needed is None:
        return None
    return DaemonTooOld(
        f"{architecture} models run on Ollama {needed} and later; the daemon is {daemon.version}."
        f"{HOW_TO_FORCE}"
    )


def _installed(choice: Choice, daemon: DaemonFacts) -> bool | None:
    """Whether the daemon has just this manifest; a name alone may be an older one of the tag."""
    if daemon.installed is None:
        return None
    wanted = str(choice.name).lower()
    digest = choice.tag.digest if choice.tag else ""
    return any(
        one.name.lower() == wanted and one.digest.removeprefix("sha256:").startswith(digest)
        for one in daemon.installed
    )


def _warnings(found: Estimate) -> tuple[str, ...]:
    verdict, gpus = found.fit.verdict, found.hardware.gpus
    if verdict == "partial" or (verdict == "cpu" and gpus):
        return (f"it fits only partly on the GPU: {found.fit.reason}",)
    return ()


def _subject(model: Model, tag: Tag) -> Subject | None:
    if tag.quantization is None:
        return None
    return make_subject(model, tag, tag.quantization, model.mixture)


def _library_name(tag: Tag) -> ModelName:
    model, _, version = tag.name.partition(":")
    return ModelName(model, version)


def _names(tag: Tag) -> tuple[str, ...]:
    return tuple(name.lower() for name in (tag.name, *tag.aliases))


def _label(model: Model) -> str:
    return " ".join(part for part in (model.family, model.size, model.variant) if part)


def _instead(near: tuple[str, ...]) -> str:
    return f" It would serve instead: {', '.join(near)}." if near else ""
