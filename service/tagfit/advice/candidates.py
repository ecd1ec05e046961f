"""What of the library may serve a use, whatever the machine; kept from one request to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

import msgspec

from tagfit.advice.estimate import Subject, degrade, file_bytes, judge, make_subject
from tagfit.advice.jobs import JOBS
from tagfit.catalog.library import Catalog, Model, Tag
from tagfit.catalog.lmstudio_names import lmstudio_name
from tagfit.quality.capability import Capability, UseCase, checkpoint, thinking
from tagfit.speed.bounds import Needs, needs
from tagfit.speed.work import work

UNCERTAIN = 0.01
"""What a quantization keeps to within this much counts as all: one standard error of MMLU, by
which it was measured (14,042 questions, 66 % right of which 25 % by chance: 0.4 of 41 points)."""

SCORE_DIGITS = 3
"""Scores that agree so far are a tie."""


class Offer(msgspec.Struct, frozen=True, dict=True, eq=False):
    """A tag of the library that llama.cpp runs."""

    model: Model
    tag: Tag
    quantization: str

    def subject(self) -> Subject:
        """The offer with its tensors."""
        return make_subject(self.model, self.tag, self.quantization, self.model.mixture)

    @cached_property
    def needs(self) -> Needs:
        """What a token needs of it."""
        return needs(work(self.model.architecture, self.subject().weights))

    @cached_property
    def download_bytes(self) -> int:
        """All layers of the tag."""
        return file_bytes(self.subject())


class Mode(NamedTuple):
    """With or without thinking."""

    ability_share: float
    """What of the ability is there."""
    answer_share: float
    """Length of the answer with its thoughts, over the plain one."""
    setting: str
    """What has to be said about it; empty for a model that does not think."""


PLAIN = (Mode(1.0, 1.0, ""),)


class Candidate(msgspec.Struct, frozen=True, dict=True, eq=False):
    """An offer and how well it serves a use."""

    offer: Offer
    capability: Capability
    retention: float
    bound: float
    """No machine makes the score higher than this."""
    modes: tuple[Mode, ...]
    checkpoints: tuple[str, str]
    """Two names for the same thing: another tag with either is no other model."""

    @property
    def name(self) -> str:
        """The tag."""
        return self.offer.tag.name

    @cached_property
    def highest_score(self) -> float:
        """Its bound as a score."""
        return round(self.bound, SCORE_DIGITS)

    @cached_property
    def held_bytes(self) -> int:
        """Weights that have to lie somewhere: all but embeddings that are only looked up."""
        return self.offer.needs.dense_bytes + self.offer.needs.expert_bytes


class Candidates(msgspec.Struct, frozen=True, eq=False):
    """All that may serve a use, the most able first; and what the others lack."""

    able: tuple[Candidate, ...]
    unable: dict[str, Counter[str]]
    """By family: how many tags each reason kept out."""


@lru_cache(maxsize=16)
def candidates(catalog: Catalog, use_case: UseCase) -> Candidates:
    """The tags for a use, ordered by ability and retention, then by name."""
    wanted = JOBS[use_case].capabilities
    able: list[Candidate] = []
    unable: dict[str, Counter[str]] = {}
    plain = {_form(model) for model in catalog.models if not _predicts(model)}
    for model in catalog.models:
        modes = _modes(model, use_case) if JOBS[use_case].converses else PLAIN
        reasons = unable.setdefault(model.family, Counter())
        missing = wanted.difference(model.capabilities)
        if missing:
            reasons[f"cannot do it ({', '.join(sorted(missing))})"] += len(model.tags)
            continue
        if _predicts(model) and _form(model) in plain:
            reasons["as the plain tag, with layers that Ollama does not use (mtp)"] += len(
                model.tags
            )
            continue
        found = _offers(catalog)[id(model)]
        if len(found) < len(model.tags):
            reasons["not made for llama.cpp"] += len(model.tags) - len(found)
        if catalog.pulled_by == "lmstudio":
            named = tuple(one for one in found if lmstudio_name(model, one.quantization))
            reasons["not known where LM Studio finds it"] += len(found) - len(named)
            found = named
        judged = judge(model, use_case)
        able += [_candidate(offer, judged, modes) for offer in found]
    able.sort(key=lambda candidate: (-candidate.bound, candidate.name))
    return Candidates(tuple(able), {family: +reasons for family, reasons in unable.items()})


def _predicts(model: Model) -> bool:
    """A form with prediction layers, which llama.cpp leaves out when it loads."""
    return "mtp" in model.variant.split("-")


def _form(model: Model) -> str:
    return checkpoint(model.family, model.size, model.variant)


def _candidate(offer: Offer, judged: Capability, modes: tuple[Mode, ...]) -> Candidate:
    model = offer.model
    kept = min(degrade(model, offer.quantization).retention / (1 - UNCERTAIN), 1.0)
    same = _form(model)
    _, _, variant = same.split("/", 2)
    names = (same, f"{model.family}/{model.parameters}/{variant}")
    return Candidate(offer, judged, kept, judged.score * kept, modes, names)


def _modes(model: Model, use_case: UseCase) -> tuple[Mode, ...]:
    found = thinking(model.family, model.size, model.variant, model.capabilities, use_case)
    if found is None:
        return PLAIN
    thought = f"timed with thoughts, {found.length:.3g} times as long an answer: a judgement"
    with_thoughts = Mode(1.0, found.length, thought)
    if not found.optional:
        return (with_thoughts,)
    plain = (
        f'timed without thinking ("think": false), which keeps {found.kept_without:.0%}: a guess'
    )
    return (with_thoughts, Mode(found.kept_without, 1.0, plain))


@lru_cache(maxsize=8)
def _offers(catalog: Catalog) -> dict[int, tuple[Offer, ...]]:
    """Of each model, by its id; one object for all uses."""
    return {id(model): tuple(_runnable(model)) for model in catalog.models}


def _runnable(model: Model) -> Iterator[Offer]:
    for tag in model.tags:
        if tag.quantization is not None and tag.kind == "gguf":
            yield Offer(model, tag, tag.quantization)
