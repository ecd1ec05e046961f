"""Several models at once: which stay loaded beside the one that is asked for.

Follows Ollama v0.33.3 ``server/sched.go`` (processPending, load, findRunnerToUnload): a model is
loaded beside others where there are fewer than OLLAMA_MAX_LOADED_MODELS and a rough prediction
of its size is within 80 % of the free GPU memory; else an idle one is unloaded and it tries
again. Without a GPU only the number counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from tagfit.advice.answers import LoadedAnswer, TogetherAnswer
from tagfit.advice.estimate import (
    EstimateRequest,
    Load,
    LoadedModel,
    Subject,
    place_subject,
    read_subject,
    resolve_load,
)
from tagfit.advice.loading import maps_weights, processor, settings, uncounted_cache_bytes
from tagfit.catalog.library import Catalog
from tagfit.facts import Hardware, Placement, Runtime
from tagfit.problems import InvalidRequest
from tagfit.sizing import rules
from tagfit.sizing.runtime import (
    free_for_ollama,
    placement_group,
    predicted_bytes,
    unsigned,
)
from tagfit.units import format_bytes


class Wanted(msgspec.Struct, frozen=True):
    """A model that is to be loaded."""

    subject: Subject
    load: Load

    @property
    def name(self) -> str:
        """Its tag."""
        tag = self.subject.tag
        return tag.name if tag else f"{self.subject.model.family} {self.subject.model.size}"


class Loaded(msgspec.Struct, frozen=True):
    """A model that is loaded, and what it takes of each GPU and of the host."""

    wanted: Wanted
    runtime: Runtime
    placement: Placement
    left: Hardware
    """What was free before it was loaded."""
    gpu_bytes: tuple[int, ...]
    """In the machine's order."""
    host_bytes: int


class Turn(NamedTuple):
    """What is loaded in the end, what was unloaded for it, and why."""

    loaded: tuple[Loaded, ...]
    evicted: tuple[str, ...]
    reason: str


def together(
    catalog: Catalog, subject: Subject, request: EstimateRequest, hardware: Hardware
) -> tuple[TogetherAnswer, Hardware]:
    """Whether the models fit together, and the memory that those which stay leave.

    The models of ``loaded`` come in their order, then the one that is asked for; of several idle
    ones Ollama unloads that with the shortest keep_alive, then by digest, which nobody knows
    before: here the first of the list. Raises UnknownModel, InvalidRequest.
    """
    asked = Wanted(subject, request)
    others = [
        other
        for index, wanted in enumerate(request.loaded)
        if (other := _read(catalog, wanted, index)).subject.tag != subject.tag
    ]
    machine = _as_set_for(asked, hardware)
    found = load_in_turn([*others, asked], machine)
    resident, placement = found.loaded[:-1], found.loaded[-1].placement
    reason = found.reason
    if not reason:
        reason = f"{asked.name} does not run beside the others: {placement.reason}"
        if placement.verdict != "none":
            reason = f"All {len(found.loaded)} stay loaded; {asked.name}: {placement.reason}"
    answer = TogetherAnswer(
        fits=not found.evicted and placement.verdict != "none",
        reason=reason,
        evicted=found.evicted,
        loaded=tuple(_answer(one, machine) for one in resident),
    )
    return answer, _left(hardware, resident)


def load_in_turn(models: Sequence[Wanted], hardware: Hardware) -> Turn:
    """Load models one after the other on what is left, unloading the first where Ollama would.

    One that is loaded already serves again, unless it is wanted otherwise (needsReload).
    """
    resident: list[Loaded] = []
    evicted: list[str] = []
    why = ""
    for wanted in models:
        same = next((one for one in resident if one.wanted.name == wanted.name), None)
        if same is not None and same.wanted.load == wanted.load:
            continue
        if same is not None:
            why = why or f"Ollama loads {wanted.name} again for other settings."
            evicted.append(wanted.name)
            resident.remove(same)
        while resident and (obstacle := _obstacle(wanted, resident, hardware)):
            why = why or obstacle
            evicted.append(resident.pop(0).wanted.name)
        resident.append(_place(wanted, _left(hardware, resident)))
    return Turn(tuple(resident), tuple(evicted), why)


def _read(catalog: Catalog, wanted: str | LoadedModel, index: int) -> Wanted:
    model = wanted if isinstance(wanted, LoadedModel) else LoadedModel(model=wanted)
    try:
        subject = read_subject(catalog, EstimateRequest(model=model.model))
    except InvalidRequest as error:
        raise InvalidRequest.field(f"loaded[{index}]", model.model, error.detail) from error
    return Wanted(subject, Load(context_length=model.context_length))


def _as_set_for(asked: Wanted, hardware: Hardware) -> Hardware:
    """The daemon's settings hold for all models."""
    runtime = resolve_load(asked.subject, asked.load, hardware)
    wanted = settings(asked.subject.model.architecture, runtime, hardware, batch_asked=False)
    return replace(hardware, environment={**hardware.environment, **wanted.environment})


def _obstacle(wanted: Wanted, resident: Sequence[Loaded], machine: Hardware) -> str:
    """Why Ollama unloads a model before it loads the candidate; empty where it need not."""
    most = unsigned(machine.environment, "OLLAMA_MAX_LOADED_MODELS")
    most = most or rules.MODELS_PER_GPU * max(len(machine.gpus), 1)
    first = resident[0].wanted.name
    if len(resident) >= most:
        return f"Ollama keeps at most {most} models loaded: {first} makes room."
    left = _left(machine, resident)
    runtime = resolve_load(wanted.subject, wanted.load, left)
    layers = wanted.subject.model.architecture.block_count + 1
    forced = runtime.offloaded_layers
    if not left.gpus or (forced is not None and forced < layers):
        return ""
    predicted = _predicted(wanted.subject, runtime)
    group = placement_group(left, left.gpus, predicted)
    free = sum(free_for_ollama(left, gpu) for gpu in group)
    if left.unified_memory and left.free_memory_bytes:
        free = min(free, left.free_memory_bytes)
    if "embedding" not in wanted.subject.model.capabilities:
        steps = rules.BATCH_SURCHARGE.items()
        predicted += next((more for batch, more in steps if runtime.batch_size >= batch), 0)
    if predicted <= free * rules.FIT_PERCENT // 100:
        return ""
    return (
        f"Ollama predicts {format_bytes(predicted)} for {wanted.name}, more than"
        f" {rules.FIT_PERCENT} % of the {format_bytes(free)} that are free: {first} makes room."
    )


def _predicted(subject: Subject, runtime: Runtime) -> int:
    tokens = runtime.context_length * runtime.parallel
    return predicted_bytes(subject.model.architecture, subject.weights.tensor_bytes, tokens)


def _place(wanted: Wanted, left: Hardware) -> Loaded:
    runtime = resolve_load(wanted.subject, wanted.load, left)
    placement = place_subject(wanted.subject, runtime, left)
    *used, host = placement.devices
    taken = [0] * len(left.gpus)
    group = placement_group(left, left.gpus, _predicted(wanted.subject, runtime))
    for gpu, device in zip(group, used, strict=True):
        # Equal GPUs are interchangeable, so the first of them that is not taken will do.
        index = next(i for i, one in enumerate(left.gpus) if one == gpu and not taken[i])
        taken[index] = device.total_bytes
    return Loaded(wanted, runtime, placement, left, tuple(taken), host.total_bytes)


def _left(hardware: Hardware, resident: Sequence[Loaded]) -> Hardware:
    """The machine with the memory that the loaded models leave."""
    on_gpus = [sum(column) for column in zip(*(one.gpu_bytes for one in resident), strict=True)]
    gpus = tuple(
        replace(gpu, free_memory_bytes=max(gpu.free_memory_bytes - used, 0))
        for gpu, used in zip(hardware.gpus, on_gpus or [0] * len(hardware.gpus), strict=True)
    )
    taken = sum(one.host_bytes for one in resident)
    if hardware.unified_memory:
        taken += sum(on_gpus)
    return replace(
        hardware, gpus=gpus, free_memory_bytes=max(hardware.free_memory_bytes - taken, 0)
    )


def _answer(one: Loaded, machine: Hardware) -> LoadedAnswer:
    subject = one.wanted.subject
    arch = subject.model.architecture
    return LoadedAnswer(
        tag=one.wanted.name,
        context_length=one.runtime.context_length,
        verdict=one.placement.verdict,
        processor=processor(
            one.placement,
            subject.weights.tensor_bytes,
            mapped=maps_weights(machine),
            uncounted=uncounted_cache_bytes(arch, one.runtime, one.placement, machine),
        ),
        total_bytes=sum(device.total_bytes for device in one.placement.devices),
    )
