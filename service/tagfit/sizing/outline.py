"""The few blocks of a layout that stand for all, and what decides on the graph around each.

Buffers stop growing once each kind of block has followed each other kind, so the graph is built
over a few blocks. What llama.cpp does in one of them (its step) depends on little: the blocks next
to it, which inputs were copied to its device before, and which are still to come.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from tagfit.facts import Architecture
from tagfit.sizing import kv_cache
from tagfit.sizing.device_weights import ELSEWHERE, Part
from tagfit.sizing.graph.forward import kinds
from tagfit.sizing.tensors import tensor_groups


class Segment(NamedTuple):
    """Consecutive blocks of one device."""

    device: int
    """Index of the GPU; the number of GPUs stands for the host."""
    start: int
    stop: int
    part: Part | None = None
    """What of each block is there, if not all of it."""
    elsewhere: int = 0
    """Where the rest is."""
    cache_device: int = 0
    """Where the cache lies that the blocks' attention reads; set in a plan."""


Layout = tuple[Segment, ...]
Place = tuple[object, ...]
"""What decides on a step."""
SHORT_BLOCKS = frozenset({"nemotron_h", "nemotron_h_moe"})
"""Architectures whose blocks have a mixer or a feed-forward part."""
PARTS = (None, *ELSEWHERE)
FIRST, BLOCK, LAST = range(3)


class Outline(NamedTuple):
    """A layout's blocks and the few that stand for all."""

    plan: Layout
    """Segments of one block, each named by the first block that is like it."""
    blocks: tuple[int, ...]
    stand_ins: tuple[int, ...]
    """For each block the one of the plan that is like it, among others of the same kinds."""
    places: tuple[Place, ...]
    """Of the steps before the plan's first block, of each of its blocks, and after them.

    None where they are like no other layout's.
    """


@lru_cache(maxsize=512)
def outline(arch: Architecture, layout: Layout, gpus: int, *, whole: bool) -> Outline:
    """Blocks that stand for all: each kind's first and last, and each kind after each other.

    ``whole``: in a pipeline, what every block copies between devices stays.
    """
    plan, blocks = _plan(arch, layout)
    if whole or (len(layout) > 1 and arch.embedding_length_per_layer_input):
        # each block's own input is copied to its device
        return Outline(plan, blocks, tuple(range(len(plan))), ())
    users = _users(arch, plan, gpus)
    around = _surroundings(arch, plan, users, gpus)
    chosen: list[int] = []
    latest: dict[tuple[int, ...], int] = {}
    known: dict[_Surroundings, int] = {}
    for place, found in enumerate(around):
        if found not in known:
            # continue from where the blocks around the last chosen one were seen last
            end = latest[around[chosen[-1]].window[1:]] if chosen else -1
            for new in range(end + 1, place + 1):
                known.setdefault(around[new], len(chosen))
                chosen.append(new)
        latest[found.window[1:]] = place
    kinds_of_users = tuple(dict.fromkeys(users))
    return Outline(
        tuple(plan[place] for place in chosen),
        blocks,
        tuple(known[found] for found in around),
        (
            (FIRST, *around[0].flat, *kinds_of_users),
            *((BLOCK, *around[place].flat) for place in chosen),
            (LAST, *around[-1].flat, *kinds_of_users),
        ),
    )


def reach(arch: Architecture) -> int:
    """How many blocks later what a block leaves may still be needed.

    A recurrent block begins with its state, before the block ahead of it is finished.
    """
    if arch.architecture in SHORT_BLOCKS:
        return 3
    return 2 if arch.architecture in kv_cache.HYBRIDS else 1


def _plan(arch: Architecture, layout: Layout) -> tuple[Layout, tuple[int, ...]]:
    alike, loaded = kinds(arch), kv_cache.trunk_blocks(arch)
    plan, blocks = [], []
    for segment in layout:
        made: dict[tuple[int, int], Segment] = {}
        for block in range(segment.start, min(segment.stop, loaded)):
            first, cache = alike[block], _cache_device(arch, layout, segment, block)
            if (first, cache) not in made:
                single = segment._replace(start=first, stop=first + 1, cache_device=cache)
                made[first, cache] = single
            plan.append(made[first, cache])
            blocks.append(block)
    return tuple(plan), tuple(blocks)


def _cache_device(arch: Architecture, layout: Layout, segment: Segment, block: int) -> int:
    owner = kv_cache.cache_owner(arch, block)
    if owner == block:
        return segment.device
    return next((s.device for s in layout if s.start <= owner < s.stop), 0)


class _Surroundings(NamedTuple):
    """What decides on a block's step; the last three are of kinds of blocks on their devices."""

    window: tuple[int, ...]
    """The block and those next to it: the segment, and whether a first or the last such."""
    names: tuple[int, ...]
    """The same without their place among others."""
    before: tuple[int, ...]
    after: tuple[int, ...]
    ahead: tuple[int, ...]
    """Those after it up to where weights come from another device, with the part that is there of
    the last block if it is among them: inputs that they are the first to need are copied with the
    block's own."""

    @property
    def flat(self) -> Place:
        """All of it but the window."""
        return (*self.names, *self[2:])


def _surroundings(
    arch: Architecture, plan: Layout, users: list[int], gpus: int
) -> list[_Surroundings]:
    left = Counter(users)
    seen: set[int] = set()
    before: tuple[int, ...] = ()
    row: list[int] = []
    names: list[int] = []
    earlier: list[tuple[int, ...]] = []
    different = dict.fromkeys(plan)
    called = {segment: _number(segment.start, segment, gpus) for segment in different}
    for segment, user in zip(plan, users, strict=True):
        left[user] -= 1
        names.append(called[segment])
        row.append(4 * names[-1] + 2 * min(left[user], 1) + (user in seen))
        earlier.append(before)
        if user not in seen:
            seen.add(user)
            before = tuple(sorted(seen))
    beyond = [-1] * reach(arch)
    padded = [*beyond, *row, *beyond]
    named = [*beyond, *names, *beyond]
    found = []
    last = len(plan) - 1
    later: set[int] = set()
    after: tuple[int, ...] = ()
    ahead = {-1}
    crossing = {segment: _crosses(arch, segment, gpus) for segment in different}
    for place in range(last, -1, -1):
        near = slice(place, place + 2 * len(beyond) + 1)
        # inputs that were copied before are not copied again
        new = tuple(sorted(ahead.difference(earlier[place])))
        found.append(
            _Surroundings(tuple(padded[near]), tuple(named[near]), earlier[place], after, new)
        )
        if users[place] not in later:
            later.add(users[place])
            after = tuple(sorted(later))
        if crossing[plan[place]]:
            ahead = {users[place]}
            if place == last:
                ahead.add(-1 - PARTS.index(plan[place].part))
        else:
            ahead.add(users[place])
    return found[::-1]


def _users(arch: Architecture, plan: Layout, gpus: int) -> list[int]:
    """For each block a number of its kind on its devices: which inputs it needs where.

    The last block has few rows to multiply, which no other device does for the host. A recurrent
    model's blocks overlap, so that next to another device some of a block's nodes are computed
    there.
    """
    kind_numbers = _kind_numbers(arch)
    distance = reach(arch) if arch.architecture in kv_cache.HYBRIDS else 0
    last = len(plan) - 1
    alone = {
        segment: _number(kind_numbers[segment.start], segment, gpus)
        for segment in dict.fromkeys(plan)
    }
    numbers = []
    for place, segment in enumerate(plan):
        number = alone[segment]
        for step in (-1, 1) if distance else ():
            border = 0
            for away in range(1, distance + 1):
                other = place + away * step
                if 0 <= other <= last and plan[other].device != segment.device:
                    border = 1 + (away - 1) * (gpus + 1) + plan[other].device
                    break
            number = number * (1 + distance * (gpus + 1)) + border
        numbers.append(2 * number + (place == last))
    return numbers


@lru_cache(maxsize=1024)
def _kind_numbers(arch: Architecture) -> dict[int, int]:
    return {block: number for number, block in enumerate(dict.fromkeys(kinds(arch)))}


def _number(kind: int, segment: Segment, gpus: int) -> int:
    """Of a kind of block on its devices."""
    number = kind * len(PARTS) + PARTS.index(segment.part)
    for device in (segment.device, segment.elsewhere, segment.cache_device):
        number = number * (gpus + 1) + device
    return number


@lru_cache(maxsize=4096)
def _crosses(arch: Architecture, segment: Segment, gpus: int) -> bool:
    """Whether a block computes with weights that lie elsewhere, or is on the host."""
    if segment.part is None:
        return segment.device == gpus
    pattern = ELSEWHERE[segment.part]
    return any(
        segment.start in group.blocks and pattern.match(group.name) for group in tensor_groups(arch)
    )
