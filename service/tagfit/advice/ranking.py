"""The best tags first, with as few placements as can be.

A candidate goes through the queue up to three times, each time with a lower score: by its bound
(no placement is better), laid roughly, laid exactly. What then comes out first is the best there
is, so of thousands of tags a few dozen are laid at all and hardly more than the winners exactly.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from tagfit.advice.candidates import SCORE_DIGITS, Candidate, Mode
from tagfit.advice.estimate import Load, Subject, place_subject, resolve_load
from tagfit.advice.jobs import Job
from tagfit.catalog.library import Tag
from tagfit.facts import Hardware, Placement, Runtime
from tagfit.problems import InvalidRequest
from tagfit.sizing.placement import most_on_gpus
from tagfit.sizing.runtime import default_contexts
from tagfit.speed.bounds import best_case
from tagfit.speed.roofline import job_times, speed
from tagfit.units import Tokens

NEAREST = 24
"""Of the candidates that do not fit, this many of the smallest are looked at again where nothing
does, to say which came nearest."""

SPILL = 0.85
"""A judgement: beside a discrete GPU, what lies partly in the host's memory takes that and the CPU
from all else, and its speed is the least certain of our estimates."""

ROUGH_DOUBT = 1.02
"""An exact score may be so much higher than a rough one. Measured on 3,350 candidates for 587
machines: of two it was higher still, both over three GPUs."""

DOES_NOT_FIT = "does not fit"

BOUND, ROUGH, EXACT = range(3)
"""How a queued score was found."""


class Limits(msgspec.Struct, frozen=True):
    """What a placement must keep."""

    require_full_gpu: bool = False
    min_generation_tokens_per_second: float | None = None


class Laid(msgspec.Struct, frozen=True):
    """A candidate that was laid over the machine."""

    candidate: Candidate
    subject: Subject
    load: Load
    runtime: Runtime
    placement: Placement
    exact: bool
    """False: at a context for which compute buffers were taken by closed form."""
    mode: Mode
    """The better one, where it can think or not."""
    seconds: float
    """For the use's typical job."""
    token_seconds: float
    """For each token of its answer."""
    pace: float
    spill: float
    """SPILL where it leaves a discrete GPU, else 1."""

    @property
    def score(self) -> float:
        """Ability, retention, pace and spill in one number."""
        share = self.mode.ability_share * self.pace * self.spill
        return round(self.candidate.bound * share, SCORE_DIGITS)

    @property
    def lacking_bytes(self) -> int:
        """Needed beyond what is there."""
        devices = self.placement.devices
        return sum(device.total_bytes - device.available_bytes for device in devices)


class Excluded(NamedTuple):
    """A candidate that a limit kept out."""

    candidate: Candidate
    reason: str


class Ranked(NamedTuple):
    """What was found."""

    best: tuple[Laid, ...]
    next_best: tuple[Laid, ...]
    """What would follow, laid roughly or exactly."""
    kept_out: tuple[Excluded, ...]
    """Of those that were reached, the most able first."""
    possible: frozenset[str]
    """Checkpoints of which some tag was not surely kept out."""


class _Queued(NamedTuple):
    """In the order in which they come out: of equals what is installed, then the smaller.

    A candidate that is not laid yet comes out before one that it would not stand behind, so that
    ties need no more to be laid than their first.
    """

    minus_score: float
    not_installed: bool
    held_bytes: int
    name: str
    how: int
    candidate: Candidate
    laid: Laid | None


class Search:
    """One search: a machine, a load, a job and what placements must keep."""

    def __init__(
        self,
        load: Load,
        job: Job,
        hardware: Hardware,
        limits: Limits,
        installed: Callable[[Tag], bool] = lambda _: False,
    ) -> None:
        self._job = job
        self._hardware = hardware
        self._limits = limits
        self._installed = installed
        self._loads = _loads(load, hardware)
        forced = load.offloaded_layers is not None
        self._gpu_bytes = most_on_gpus(hardware, forced=forced)
        self._best = best_case(hardware)
        self._free = free_bytes(hardware)
        self._discrete = bool(hardware.gpus) and not hardware.unified_memory
        self._queue: list[_Queued] = []
        self._kept_out: list[Excluded] = []
        self._refused: InvalidRequest | None = None
        self._runs = False
        self._possible: set[str] = set()
        self._runtimes: dict[tuple[str, int | None], Runtime] = {}
        """By tag and context that was asked for."""

    def rank(
        self, able: Sequence[Candidate], count: int, *, per_model: int = 1, more: int = 0
    ) -> Ranked:
        """The best of each checkpoint, and the next ones after them.

        ``able`` is ordered by bound. Raises InvalidRequest where no candidate runs with the
        settings.
        """
        found: list[Laid] = []
        taken: Counter[str] = Counter()

        def is_taken(candidate: Candidate) -> bool:
            one, other = candidate.checkpoints
            return taken.get(one, 0) >= per_model or taken.get(other, 0) >= per_model

        left = deque(able)
        while len(found) < count + more and (left or self._queue):
            if left and self._is_next(left[0]):
                candidate = left.popleft()
                if not is_taken(candidate):
                    self._queue_by_bound(candidate)
                continue
            queued = heappop(self._queue)
            if is_taken(queued.candidate):
                continue
            if queued.laid is not None and queued.how >= (EXACT if len(found) < count else ROUGH):
                taken.update(queued.candidate.checkpoints)
                found.append(queued.laid)
            else:
                if_whole = len(found) < count
                self._queue_laid(queued, exact_if_whole=if_whole)
        if self._refused and not self._runs:
            raise self._refused
        return Ranked(
            tuple(sorted(found[:count], key=self._rank)),
            tuple(sorted(found[count:], key=self._rank)),
            tuple(self._kept_out),
            frozenset(self._possible),
        )

    def _is_next(self, candidate: Candidate) -> bool:
        """Whether nothing in the queue is surely better."""
        return not self._queue or candidate.highest_score >= -self._queue[0].minus_score

    def _queue_by_bound(self, candidate: Candidate) -> None:
        reason, bound = self._bound(candidate)
        if reason:
            self._kept_out.append(Excluded(candidate, reason))
        else:
            self._possible.add(candidate.checkpoints[0])
            self._push(bound, BOUND, candidate)

    def _queue_laid(self, queued: _Queued, *, exact_if_whole: bool) -> None:
        candidate = queued.candidate
        try:
            laid = self.lay(candidate, exact=queued.how == ROUGH, exact_if_whole=exact_if_whole)
        except InvalidRequest as error:  # llama.cpp refuses this model with these settings
            self._refused = self._refused or error
            self._kept_out.append(Excluded(candidate, error.errors[0].message))
            return
        self._runs = True
        reason = self.refusal(laid)
        if reason:
            self._kept_out.append(Excluded(candidate, reason))
        elif laid.exact:
            self._push(laid.score, EXACT, candidate, laid)
        else:
            bound = -queued.minus_score
            self._push(min(ROUGH_DOUBT * laid.score, bound), ROUGH, candidate, laid)

    def _push(self, score: float, how: int, candidate: Candidate, laid: Laid | None = None) -> None:
        heappush(self._queue, _Queued(-score, *self._tie(candidate), how, candidate, laid))

    def _rank(self, laid: Laid) -> tuple[float, bool, int, str]:
        return (-laid.score, *self._tie(laid.candidate))

    def _tie(self, candidate: Candidate) -> tuple[bool, int, str]:
        """Of equals what is installed comes first, then the smaller."""
        return not self._installed(candidate.offer.tag), candidate.held_bytes, candidate.name

    def bounded(self, able: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
        """What is not surely kept out, with a score that it will not exceed; the best first."""
        found = []
        for candidate in able:
            reason, bound = self._bound(candidate)
            if not reason:
                found.append((bound, candidate))
        return sorted(found, key=lambda pair: (-pair[0], pair[1].held_bytes, pair[1].name))

    def nearest_miss(self, kept_out: tuple[Excluded, ...]) -> tuple[Laid, str] | None:
        """Of candidates that were kept out, the one that lacks least memory, and its limit."""
        smallest = sorted(kept_out, key=lambda one: one.candidate.held_bytes)
        found = []
        for one in smallest[:NEAREST]:
            try:
                laid = self.lay(one.candidate, exact=False)
            except InvalidRequest:
                continue
            found.append((laid.lacking_bytes, one.candidate.name, one))
        if not found:
            return None
        _, _, nearest = min(found)
        return self.lay(nearest.candidate, exact=True), nearest.reason

    def lay(self, candidate: Candidate, *, exact: bool, exact_if_whole: bool = False) -> Laid:
        """The candidate over the machine, at the longest default context that the GPUs hold.

        Raises InvalidRequest.
        """
        subject = candidate.offer.subject()
        architecture = candidate.offer.model.architecture

        def place(load: Load) -> tuple[Runtime, Placement]:
            key = candidate.name, load.context_length
            if key not in self._runtimes:
                self._runtimes[key] = resolve_load(subject, load, self._hardware)
            runtime = self._runtimes[key]
            return runtime, place_subject(
                subject, runtime, self._hardware, exact=exact, exact_if_whole=exact_if_whole
            )

        load, *shorter = self._loads
        runtime, placement = place(load)
        is_exact = placement.exact
        for other in shorter:
            if placement.verdict == "gpu":
                break
            if (other.context_length or 0) < runtime.context_length:
                load = other
                runtime, placement = place(load)
                is_exact &= placement.exact
        job = self._job
        times = job_times(
            architecture,
            subject.weights,
            runtime,
            placement,
            self._hardware,
            prompt_tokens=job.prompt_tokens,
            answer_tokens=job.answer_tokens,
        )
        spills = self._discrete and placement.verdict != "gpu"

        def in_mode(mode: Mode) -> Laid:
            answer_tokens = job.answer_tokens * mode.answer_share
            seconds = times.prompt_seconds + answer_tokens * times.token_seconds
            pace = job.pace(seconds)
            spill = SPILL if spills else 1.0
            return Laid(
                candidate=candidate,
                subject=subject,
                load=load,
                runtime=runtime,
                placement=placement,
                exact=is_exact,
                mode=mode,
                seconds=seconds,
                token_seconds=times.token_seconds,
                pace=pace,
                spill=spill,
            )

        return max(map(in_mode, candidate.modes), key=lambda laid: laid.score)

    def refusal(self, laid: Laid) -> str:
        """Which limit keeps it out; empty where none does."""
        if laid.placement.verdict == "none":
            return DOES_NOT_FIT
        if self._limits.require_full_gpu and laid.placement.verdict != "gpu":
            return "not wholly on the GPU"
        floor = self._limits.min_generation_tokens_per_second
        if floor is None:
            return ""
        return "too slow" if self.rate(laid) < floor else ""

    def rate(self, laid: Laid) -> float:
        """Tokens a second that it is expected to generate with the context full."""
        found = speed(
            laid.subject.model.architecture,
            laid.subject.weights,
            laid.runtime,
            laid.placement,
            self._hardware,
        )
        return found.generation_tokens_per_second.expected

    def _bound(self, candidate: Candidate) -> tuple[str, float]:
        """What surely keeps a candidate out; else a score that it will not exceed."""
        size = candidate.held_bytes
        if self._free and size > self._free:
            return DOES_NOT_FIT, 0.0
        if self._limits.require_full_gpu and size > self._gpu_bytes:
            return "not wholly on the GPU", 0.0
        job = self._job
        least = self._best.least(candidate.offer.needs, job.prompt_tokens)
        prompt_seconds, token_seconds = least.times(self._gpu_bytes)
        floor = self._limits.min_generation_tokens_per_second
        if floor and token_seconds * floor > 1:
            return "too slow", 0.0
        share = max(
            [
                mode.ability_share
                * job.pace(prompt_seconds + job.answer_tokens * mode.answer_share * token_seconds)
                for mode in candidate.modes
            ]
        )
        if self._discrete and size > self._gpu_bytes:
            share *= SPILL
        return "", round(candidate.bound * share, SCORE_DIGITS)


def _loads(load: Load, hardware: Hardware) -> tuple[Load, ...]:
    """As asked; where no context is asked for, also at the shorter defaults of smaller machines."""
    if load.context_length or not hardware.gpus:
        return (load,)
    shorter = default_contexts(hardware)[1:]
    return (load, *(replace(load, context_length=Tokens(context)) for context in shorter))


def free_bytes(hardware: Hardware) -> int:
    """All memory that a model may use; 0 where it is not known."""
    if not hardware.memory_bytes:
        return 0
    on_gpus = 0 if hardware.unified_memory else sum(gpu.free_memory_bytes for gpu in hardware.gpus)
    return hardware.free_memory_bytes + on_gpus
