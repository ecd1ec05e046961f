"""Several uses at once: the set of tags that serves them best and fits together.

What an editor runs: chat, autocomplete and embedding side by side. Of each role the tags are
taken that no other beats in both score and memory; of their combinations the one with the best
product of scores that stays loaded under Ollama's own rules, in the order of the roles.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from tagfit.advice.answers import HardwareAnswer, answer_hardware
from tagfit.advice.candidates import Candidate
from tagfit.advice.estimate import file_bytes
from tagfit.advice.machine import Machine
from tagfit.advice.ranking import Laid, Search
from tagfit.advice.recommend import (
    Recommendation,
    Wish,
    answer,
    load_of,
    narrow,
    search_of,
)
from tagfit.advice.together import Turn, Wanted, load_in_turn
from tagfit.catalog.library import Catalog
from tagfit.facts import Hardware
from tagfit.problems import InvalidRequest
from tagfit.sizing import rules
from tagfit.sizing.runtime import default_contexts, predicted_bytes
from tagfit.units import Tokens

MOST_ROLES = 4
MOST_OFFERS = 16
"""Of one role in the combinations."""
CONTEXT_TOKENS = 32768
"""Of several roles, the longest context that is not asked for. A judgement: Ollama's default from
48 GB of GPU memory on, eight times as long, would leave no room for the others."""
MOST_TRIES = 40
"""Combinations that are loaded for a check."""


class SetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the tags of a set are in memory at once."""

    fits: bool
    reason: str
    evicted: tuple[str, ...]
    """Tags that Ollama unloads to make room, in order."""
    total_bytes: int
    """Of those that stay, on all devices."""


class RecommendedSet(msgspec.Struct, frozen=True, kw_only=True):
    """What ``/recommend`` answers to several roles."""

    recommendations: tuple[Recommendation, ...]
    """One a role, in their order; each estimate is for what those before it leave. Empty where
    a role has no tag at all."""
    together: SetAnswer
    score: float
    """The geometric mean of the roles'."""
    hardware: HardwareAnswer
    library_date: str
    warnings: tuple[str, ...]


class _Choice(NamedTuple):
    """A tag for a role, laid over the whole machine."""

    laid: Laid
    used_bytes: int
    """Of the memory that is short: GPUs', or RAM where there is none."""
    predicted_bytes: int
    """By Ollama, before it loads."""


class _Set(NamedTuple):
    """A combination, loaded in turn."""

    laid: list[Laid]
    turn: Turn

    @property
    def stays(self) -> bool:
        """All are loaded at once."""
        return not self.turn.evicted and all(
            one.placement.verdict != "none" for one in self.turn.loaded
        )

    @property
    def as_good_as_alone(self) -> bool:
        """And none has to leave a GPU for the others."""
        together = {one.wanted.name: one.placement.verdict for one in self.turn.loaded}
        return self.stays and all(
            together[one.candidate.name] == one.placement.verdict for one in self.laid
        )


def recommend_set(
    catalog: Catalog, roles: tuple[Wish, ...], machine: Machine, *, explain: bool = False
) -> RecommendedSet:
    """The best set for several roles. Raises InvalidRequest."""
    _check_shared(roles)
    modest = replace(machine, hardware=_modest(machine.hardware)) if len(roles) > 1 else machine
    searches = [search_of(role, load_of(role), modest) for role in roles]
    able = [_able(catalog, role, index) for index, role in enumerate(roles)]
    choices = [
        _choices(search, candidates, machine.hardware)
        for search, candidates in zip(searches, able, strict=True)
    ]
    empty = [role.use_case for role, found in zip(roles, choices, strict=True) if not found]
    if empty:
        reason = f"No tag serves {', '.join(empty)} here."
        return _answer(catalog, roles, [], Turn((), (), reason), machine, explain=explain)
    best = _best(choices, machine.hardware)
    return _answer(catalog, roles, best.laid, best.turn, machine, explain=explain)


def _modest(hardware: Hardware) -> Hardware:
    """The machine with a default context that leaves room for others."""
    longest, *shorter = default_contexts(hardware)
    if longest <= CONTEXT_TOKENS or not shorter:
        return hardware
    environment = {**hardware.environment, "OLLAMA_CONTEXT_LENGTH": str(CONTEXT_TOKENS)}
    return replace(hardware, environment=environment)


def _able(catalog: Catalog, role: Wish, index: int) -> Sequence[Candidate]:
    try:
        return narrow(catalog, role).able
    except InvalidRequest as error:
        raise error.within(f"roles[{index}]") from error


def _check_shared(roles: tuple[Wish, ...]) -> None:
    """Refuse what the daemon can only have one of."""
    for name in ("kv_cache_type", "flash_attention", "parallel"):
        values = {getattr(role, name) for role in roles}
        if len(values) > 1:
            index = next(
                i for i, role in enumerate(roles) if getattr(role, name) != getattr(roles[0], name)
            )
            raise InvalidRequest.field(
                f"roles[{index}].{name}",
                getattr(roles[index], name),
                "must be the same in all roles: it is a setting of the daemon",
            )


def _choices(search: Search, able: Sequence[Candidate], hardware: Hardware) -> list[_Choice]:
    """What no other tag beats in both score and memory, best first.

    On a machine with GPUs what lies wholly on them, if anything does.
    """
    found: list[_Choice] = []
    for bound, candidate in search.bounded(able):
        if any(one.laid.score >= bound and one.used_bytes <= candidate.held_bytes for one in found):
            continue
        try:
            laid = search.lay(candidate, exact=False)
        except InvalidRequest:
            continue
        if not search.refusal(laid):
            found.append(_choice(_with_its_context(laid, hardware), hardware))
    whole = [one for one in found if one.laid.placement.verdict == "gpu"] or found
    frontier: list[_Choice] = []
    for one in sorted(whole, key=lambda one: (-one.laid.score, one.used_bytes)):
        if not frontier or one.used_bytes < frontier[-1].used_bytes:
            frontier.append(one)
    step = max(-(-len(frontier) // MOST_OFFERS), 1)
    return (
        frontier[::step] if (len(frontier) - 1) % step == 0 else [*frontier[::step], frontier[-1]]
    )


def _with_its_context(laid: Laid, hardware: Hardware) -> Laid:
    """Asked for, where Ollama would by default take another."""
    context = laid.runtime.context_length
    if laid.load.context_length is not None or default_contexts(hardware)[0] <= context:
        return laid
    return replace(laid, load=replace(laid.load, context_length=Tokens(context)))


def _choice(laid: Laid, hardware: Hardware) -> _Choice:
    *gpus, host = laid.placement.devices
    counted = gpus if hardware.gpus else [host]
    tokens = laid.runtime.context_length * laid.runtime.parallel
    return _Choice(
        laid,
        sum(device.total_bytes for device in counted),
        predicted_bytes(laid.subject.model.architecture, file_bytes(laid.subject), tokens),
    )


def _best(choices: list[list[_Choice]], hardware: Hardware) -> _Set:
    """The best combination that stays loaded; else each role's best, and what is evicted."""
    free = sum(gpu.free_memory_bytes for gpu in hardware.gpus) or hardware.free_memory_bytes
    possible = [
        combination
        for combination in product(*choices)
        if _may_stay(combination, free, predicts=bool(hardware.gpus))
    ]
    possible.sort(key=lambda those: (-_score(those), sum(one.used_bytes for one in those)))
    tried = [_try(combination, hardware) for combination in possible[:1]]
    for combination in possible[1:MOST_TRIES]:
        if tried[-1].as_good_as_alone:
            break
        tried.append(_try(combination, hardware))
    alone = _try(tuple(those[0] for those in choices), hardware)
    return max([*tried, alone], key=lambda one: (one.as_good_as_alone, one.stays))


def _may_stay(combination: tuple[_Choice, ...], free: int, *, predicts: bool) -> bool:
    """Whether memory is enough in sum, by Ollama's prediction where it makes one.

    It makes none for the first, which is laid over the whole machine already.
    """
    margin = rules.FIT_MARGIN if predicts else 0
    first, *others = {one.laid.candidate.name: one for one in combination}.values()
    free -= first.used_bytes
    for one in others:
        if predicts and one.predicted_bytes > free * rules.FIT_PERCENT // 100:
            return False
        free -= one.used_bytes
        if free < margin:
            return False
    return True


def _score(combination: tuple[_Choice, ...]) -> float:
    return prod(one.laid.score for one in combination)


def _try(combination: tuple[_Choice, ...], hardware: Hardware) -> _Set:
    laid = _loaded_once([one.laid for one in combination])
    return _Set(laid, load_in_turn([Wanted(one.subject, one.load) for one in laid], hardware))


def _loaded_once(laid: list[Laid]) -> list[Laid]:
    """A tag of several roles with one context, the longest: Ollama loads it again for another."""
    roles: dict[str, list[Laid]] = {}
    for one in laid:
        roles.setdefault(one.candidate.name, []).append(one)

    def shared(one: Laid) -> Laid:
        longest = max(roles[one.candidate.name], key=lambda other: other.runtime.context_length)
        load = replace(one.load, context_length=Tokens(longest.runtime.context_length))
        return replace(one, load=load, runtime=longest.runtime, placement=longest.placement)

    return [shared(one) if len(roles[one.candidate.name]) > 1 else one for one in laid]


def _answer(
    catalog: Catalog,
    roles: tuple[Wish, ...],
    chosen: list[Laid],
    turn: Turn,
    machine: Machine,
    *,
    explain: bool,
) -> RecommendedSet:
    stay = {one.wanted.name: one for one in turn.loaded}
    found = []
    for role, laid in zip(roles, chosen, strict=bool(chosen)):
        loaded = stay.get(laid.candidate.name)
        here, final = machine, laid
        if loaded is not None:
            here = replace(machine, hardware=loaded.left)
            final = search_of(role, laid.load, here).lay(laid.candidate, exact=True)
        found.append(answer(1, final, here, role.use_case, catalog.pulled_by, explain=explain))
    fits = bool(chosen) and _Set(chosen, turn).stays
    return RecommendedSet(
        recommendations=tuple(found),
        together=SetAnswer(
            fits=fits,
            reason=_all_stay(turn) if fits else turn.reason,
            evicted=turn.evicted,
            total_bytes=sum(
                device.total_bytes for one in turn.loaded for device in one.placement.devices
            ),
        ),
        score=round(prod(one.score for one in found) ** (1 / len(found)), 3) if found else 0.0,
        hardware=answer_hardware(machine.hardware),
        library_date=catalog.snapshot_date,
        warnings=machine.assumptions,
    )


def _all_stay(turn: Turn) -> str:
    count = len(turn.loaded)
    return (
        f"All {count} stay loaded." if count > 1 else f"{turn.loaded[0].wanted.name} stays loaded."
    )
