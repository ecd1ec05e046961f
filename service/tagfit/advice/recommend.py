"""The tags that serve a use best on a machine, and why.

Hard limits come first: the tag is a file that llama.cpp runs, has the capability, fits, is
small and fast enough. What is left is ranked by one number between 0 and 1, the product of

* ability    how good the checkpoint is at the use (``quality.capability``, or a stated prior)
* retention  what the quantization leaves of it (``quality.degradation``)
* pace       how soon a typical job of the use is done (``advice.jobs``)
* spill      less than 1 for what does not lie wholly on a discrete GPU (``advice.ranking``)

A model that can think is taken in its better mode: with all its ability and a longer answer, or
without thoughts, a little less able and sooner done.

One quantization a checkpoint, its best, unless more are asked for. Of equal scores an installed
tag goes first, then names decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from itertools import product
from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tagfit.advice.answers import Estimate, HardwareAnswer, answer_hardware
from tagfit.advice.candidates import Candidate, Offer, candidates
from tagfit.advice.estimate import Load, describe, read_quantization
from tagfit.advice.jobs import JOBS
from tagfit.advice.machine import Machine, PostedGpu, PostedHardware, read_machine
from tagfit.advice.ranking import (
    DOES_NOT_FIT,
    Excluded,
    Laid,
    Limits,
    Ranked,
    Search,
    free_bytes,
)
from tagfit.catalog.library import Catalog, Puller
from tagfit.catalog.lmstudio_names import lmstudio_name
from tagfit.facts import Hardware
from tagfit.problems import InvalidRequest
from tagfit.quality.capability import UseCase
from tagfit.sizing.runtime import default_contexts
from tagfit.units import GIB, Bytes, Tokens, format_bytes

RUNNERS_UP = 3
"""Of each kind: next in rank, and kept out by a limit."""
CLOSE = 0.9
"""A runner-up has at least this share of the last score."""

USUAL_MACHINES = (
    *[
        PostedHardware(gpus=(PostedGpu(memory=Bytes(gpu)),), memory=Bytes(memory))
        for gpu, memory in product(
            (4 * GIB, 6 * GIB, 8 * GIB, 12 * GIB, 16 * GIB, 24 * GIB, 48 * GIB),
            (32 * GIB, 128 * GIB),
        )
    ],
    *[PostedHardware(gpus=(PostedGpu(name=mac),)) for mac in ("M2 16GB", "M3 Max 64GB")],
    PostedHardware(memory=Bytes(16 * GIB)),
)
"""A guess at what is asked about most: GPUs, Macs and a laptop without a GPU."""


class Wish(Load, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A use, and what its tag must keep; every field is optional."""

    use_case: UseCase = "chat"
    families: Annotated[
        tuple[Annotated[str, Meta(max_length=80)], ...],
        Meta(description="only these: codellama, qwen2.5", max_length=100),
    ] = ()
    quantizations: Annotated[
        tuple[Annotated[str, Meta(max_length=32)], ...],
        Meta(description="only these: Q4_K_M, Q8_0", max_length=100),
    ] = ()
    licences: Annotated[
        tuple[Annotated[str, Meta(max_length=80)], ...],
        Meta(description="only these: Apache-2.0, MIT", max_length=100),
    ] = ()
    min_generation_tokens_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None
    max_download: (
        Annotated[Bytes, Meta(description="bytes as an integer, or with a unit: 10GB")] | None
    ) = None
    require_full_gpu: Annotated[bool, Meta(description="only what lies wholly on GPUs")] = False


class RecommendRequest(Wish, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``/recommend`` is asked of a machine; every field is optional."""

    limit: Annotated[int, Meta(ge=1, le=50, description="recommendations at most")] = 5
    quantizations_per_model: Annotated[
        int, Meta(ge=1, le=50, description="of one checkpoint at most")
    ] = 1
    explain: Annotated[bool, Meta(description="with every number behind the scores")] = False


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The factors of the score, each between 0 and 1."""

    ability: float
    """In the mode that is reckoned with, where it can think."""
    retention: float
    pace: float
    spill: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Every number behind a score; those of ability and retention are in ``estimate.quality``."""

    formula: str
    prompt_tokens: int
    """Of a typical job of the use, as the next two."""
    answer_tokens: int
    """With its thoughts."""
    target_seconds: float
    seconds: float
    """Expected for that job on this machine, from an empty context."""
    read_bytes_per_token: int
    """Weights that one token uses."""
    held_bytes: int
    """Weights that have to lie somewhere."""
    bound: float
    """Ability x retention: no machine makes the score higher."""


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """How to get it."""

    command: str
    request: dict[str, str]
    """The body for POST /pull, and for LM Studio's own download where that is to pull it."""


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """One tag that serves."""

    rank: int
    tag: str
    use_case: UseCase
    score: float
    """To three digits, and so compared."""
    scores: Scores
    reasons: tuple[str, ...]
    installed: bool
    """The daemon has it already; preferred where scores are equal."""
    estimate: Estimate
    pull: Pull
    explanation: Explanation | UnsetType = UNSET


class RunnerUp(msgspec.Struct, frozen=True, kw_only=True):
    """A tag that was close, and what kept it out."""

    tag: str
    score: float | None
    """null where a limit kept it out, before it had one."""
    reason: str


class NearestMiss(msgspec.Struct, frozen=True, kw_only=True):
    """The tag that came nearest where none serves, and what it would need."""

    tag: str
    reason: str
    needed_bytes: int
    available_bytes: int


class Recommendations(msgspec.Struct, frozen=True, kw_only=True):
    """What ``/recommend`` answers."""

    recommendations: tuple[Recommendation, ...]
    runners_up: tuple[RunnerUp, ...]
    considered: int
    """Tags of the library that were in question."""
    excluded: dict[str, int]
    """How many of them each limit kept out, the least able left aside once the list was full."""
    nearest_miss: NearestMiss | None
    hardware: HardwareAnswer
    use_case: UseCase
    library_date: str
    """The day of the library snapshot that the answer rests on."""
    warnings: tuple[str, ...]


def prepare(catalog: Catalog, is_enough: Callable[[], bool]) -> None:
    """Ask about usual machines until it is enough: first answers then find what many share."""
    for use_case, hardware in product(JOBS, USUAL_MACHINES):
        if is_enough():
            return
        recommend(catalog, RecommendRequest(use_case=use_case), read_machine(hardware))


def recommend(catalog: Catalog, request: RecommendRequest, machine: Machine) -> Recommendations:
    """The best tags for a use on a machine. Raises InvalidRequest."""
    question = narrow(catalog, request)
    search = search_of(request, load_of(request), machine)
    found = search.rank(
        question.able, request.limit, per_model=request.quantizations_per_model, more=RUNNERS_UP
    )
    excluded = question.excluded + Counter(one.reason for one in found.kept_out)
    nearest = None if found.best else search.nearest_miss(found.kept_out)
    return Recommendations(
        recommendations=tuple(
            answer(
                rank, laid, machine, request.use_case, catalog.pulled_by, explain=request.explain
            )
            for rank, laid in enumerate(found.best, 1)
        ),
        runners_up=(
            *_next_in_rank(found),
            *_kept_out(found, machine.hardware),
        ),
        considered=len(question.able) + question.excluded.total(),
        excluded=dict(sorted(excluded.items())),
        nearest_miss=_nearest_miss(*nearest, search.rate(nearest[0])) if nearest else None,
        hardware=answer_hardware(machine.hardware),
        use_case=request.use_case,
        library_date=catalog.snapshot_date,
        warnings=machine.assumptions,
    )


def load_of(wish: Wish) -> Load:
    """How a use loads what it gets: as asked, with the least context that makes sense for it."""
    fields = {name: getattr(wish, name) for name in Load.__struct_fields__}
    least = JOBS[wish.use_case].context_length
    if least and fields["context_length"] is None:
        fields["context_length"] = Tokens(least)
    return Load(**fields)


def search_of(wish: Wish, load: Load, machine: Machine) -> Search:
    """The search for a use on a machine."""
    limits = Limits(wish.require_full_gpu, wish.min_generation_tokens_per_second)
    return Search(load, JOBS[wish.use_case], machine.hardware, limits, machine.has)


class Question(NamedTuple):
    """What passes the limits that need no machine, and what does not."""

    able: tuple[Candidate, ...]
    """The most able first."""
    excluded: Counter[str]
    """How many tags each limit keeps out."""


def narrow(catalog: Catalog, wish: Wish) -> Question:
    """The tags in question for a use. Raises InvalidRequest."""
    return _narrowed(
        catalog,
        wish.use_case,
        wish.families,
        wish.licences,
        wish.quantizations,
        wish.max_download,
        load_of(wish).context_length or 0,
    )


@lru_cache(maxsize=32)
def _narrowed(
    catalog: Catalog,
    use_case: UseCase,
    families: tuple[str, ...],
    licences: tuple[str, ...],
    quantizations: tuple[str, ...],
    max_download: int | None,
    context_length: int,
) -> Question:
    found = candidates(catalog, use_case)
    wanted = _known(
        "families",
        families,
        {family.name for family in catalog.families},
        "the library has no such family; GET /models lists them",
    )
    limits = _TagLimits(
        licences=_known(
            "licences",
            licences,
            {model.licence for model in catalog.models},
            "no model of the library has this licence",
        ),
        context_length=context_length,
        quantizations={
            read_quantization(text, f"quantizations[{index}]")
            for index, text in enumerate(quantizations)
        },
        max_download=max_download,
    )
    excluded: Counter[str] = Counter()
    if not wanted:
        excluded["runs only elsewhere (cloud)"] += len(catalog.others)
    for family, reasons in found.unable.items():
        if not wanted or family in wanted:
            excluded.update(reasons)
    able = []
    for candidate in found.able:
        if wanted and candidate.offer.model.family not in wanted:
            continue
        reason = limits.reason(candidate.offer)
        if reason:
            excluded[reason] += 1
        else:
            able.append(candidate)
    return Question(tuple(able), excluded)


class _TagLimits(NamedTuple):
    licences: set[str]
    context_length: int
    quantizations: set[str]
    max_download: int | None

    def reason(self, offer: Offer) -> str:
        """What keeps an offer out; empty where nothing does."""
        if self.licences and offer.model.licence not in self.licences:
            return "other licence"
        if self.context_length > offer.model.context_length:
            return "context too short"
        if self.quantizations and offer.quantization not in self.quantizations:
            return "other quantization"
        if self.max_download is not None and offer.download_bytes > self.max_download:
            return "download too large"
        return ""


def _known(field: str, wanted: tuple[str, ...], known: set[str], message: str) -> set[str]:
    """Wanted names as the catalog spells them. Raises InvalidRequest."""
    spelled = {name.lower(): name for name in known}
    for index, name in enumerate(wanted):
        if name.lower() not in spelled:
            near = get_close_matches(name.lower(), spelled, n=3)
            hint = f"; did you mean {' or '.join(spelled[one] for one in near)}?" if near else ""
            raise InvalidRequest.field(f"{field}[{index}]", name, message + hint)
    return {spelled[name.lower()] for name in wanted}


def answer(
    rank: int,
    laid: Laid,
    machine: Machine,
    use_case: UseCase,
    pulled_by: Puller,
    *,
    explain: bool,
) -> Recommendation:
    """One tag that serves, and why."""
    candidate = laid.candidate
    found = describe(laid.subject, laid.load, machine, use_case, laid.runtime, laid.placement)
    return Recommendation(
        rank=rank,
        tag=candidate.name,
        use_case=use_case,
        score=laid.score,
        scores=Scores(
            ability=round(candidate.capability.score * laid.mode.ability_share, 4),
            retention=round(candidate.retention, 4),
            pace=round(laid.pace, 4),
            spill=laid.spill,
        ),
        reasons=_reasons(laid, found, machine.hardware),
        installed=machine.has(candidate.offer.tag),
        estimate=found,
        pull=_pull(candidate.offer, pulled_by),
        explanation=_explanation(laid, use_case) if explain else UNSET,
    )


def _pull(offer: Offer, pulled_by: Puller) -> Pull:
    name = lmstudio_name(offer.model, offer.quantization) if pulled_by == "lmstudio" else None
    if name is not None:
        return Pull(command=name.command, request=name.request)
    return Pull(command=f"ollama pull {offer.tag.name}", request={"model": offer.tag.name})


def _reasons(laid: Laid, found: Estimate, hardware: Hardware) -> tuple[str, ...]:
    rate = found.speed.generation_tokens_per_second
    stored = laid.subject.weights
    reasons = [
        laid.placement.reason,
        laid.candidate.capability.explanation,
        (
            f"{stored.quantization} keeps {found.quality.degradation.retention:.1%} of it at"
            f" {stored.bits_per_weight:.2f} bits a weight"
        ),
        (
            f"about {1 / laid.token_seconds:.0f} tokens a second in a typical job;"
            f" with the context full {rate.expected:.0f} ({rate.low:.0f} to {rate.high:.0f})"
        ),
    ]
    if laid.mode.setting:
        reasons.append(laid.mode.setting)
    usual = default_contexts(hardware)[0]
    if laid.load.context_length is not None and laid.runtime.context_length < usual:
        reasons.append(
            f"with a context of {laid.runtime.context_length} (num_ctx), not the {usual} tokens"
            " that Ollama takes by default on this machine"
        )
    return tuple(reasons)


def _explanation(laid: Laid, use_case: UseCase) -> Explanation:
    job, needs = JOBS[use_case], laid.candidate.offer.needs
    return Explanation(
        formula=(
            "score = ability x retention x pace x spill;"
            " pace = 1 / (1 + (seconds / (2 target_seconds))^2)"
        ),
        prompt_tokens=job.prompt_tokens,
        answer_tokens=round(job.answer_tokens * laid.mode.answer_share),
        target_seconds=job.seconds,
        seconds=round(laid.seconds, 3),
        read_bytes_per_token=round(sum(size for _, size in needs.read_bytes)),
        held_bytes=needs.dense_bytes + needs.expert_bytes,
        bound=round(laid.candidate.bound, 4),
    )


def _next_in_rank(found: Ranked) -> list[RunnerUp]:
    if not found.best:
        return []
    last = found.best[-1]
    return [
        RunnerUp(
            tag=laid.candidate.name,
            score=laid.score,
            reason=f"{_weakest(laid, last)}, next to {last.candidate.name}",
        )
        for laid in found.next_best
        if laid.score >= CLOSE * last.score
    ]


def _weakest(laid: Laid, other: Laid) -> str:
    """The factor that falls furthest behind another's."""
    mine, its = laid.candidate, other.candidate
    factors = (
        ("less able", mine.capability.score, its.capability.score),
        (f"{mine.offer.quantization} loses more", mine.retention, its.retention),
        ("slower", laid.pace, other.pace),
        ("not wholly on the GPU", laid.spill, other.spill),
    )
    name, value, best = min(factors, key=lambda factor: factor[1] / max(factor[2], 1e-9))
    return f"{name} ({value:.2f} against {best:.2f})"


def _kept_out(found: Ranked, hardware: Hardware) -> list[RunnerUp]:
    """Abler checkpoints of which no tag was possible: the smallest of a few."""
    smallest: dict[str, Excluded] = {}
    for one in found.kept_out if found.best else ():
        model = one.candidate.checkpoints[0]
        if model in found.possible:
            continue
        if one.candidate.bound > found.best[0].score and (
            model not in smallest or one.candidate.held_bytes < smallest[model].candidate.held_bytes
        ):
            smallest[model] = one
    ordered = sorted(
        smallest.values(), key=lambda one: (one.candidate.held_bytes, one.candidate.name)
    )
    free = free_bytes(hardware)
    return [
        RunnerUp(
            tag=one.candidate.name,
            score=None,
            reason=(
                f"{one.reason}: {format_bytes(one.candidate.held_bytes)} of weights,"
                f" {format_bytes(free)} free"
            ),
        )
        for one in ordered[:RUNNERS_UP]
    ]


def _nearest_miss(found: Laid, limit: str, rate: float) -> NearestMiss:
    devices = found.placement.devices
    needed = sum(device.total_bytes for device in devices)
    available = sum(device.available_bytes for device in devices)
    tag = found.candidate.name
    lack = f"would need {format_bytes(needed)}, {format_bytes(available)} are there"
    if limit != DOES_NOT_FIT:
        lack = f"is {limit}, at {rate:.1f} tokens a second"
    return NearestMiss(
        tag=tag,
        reason=f"{tag} {lack}: {found.placement.reason}",
        needed_bytes=needed,
        available_bytes=available,
    )
