"""How large the buffers of a graph become: the steps of its trace, run for a number of cells.

Source: llama.cpp b11434 ``ggml/src/ggml-alloc.c`` (ggml_dyn_tallocr). A step that starts where it
has started before ends as it did, so of many like blocks only the first few are run.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tagfit.sizing.graph.allocator import ALLOCATE, FREE, Lasting, Step

HOST_ALIGNMENT = 32
GPU_ALIGNMENT = 128
ENDLESS = 1 << 62
ALIGNED_CELLS = 128
"""What this many cells take is aligned for every buffer."""
KEPT_COURSES = 64
KEPT_RUNS = 4

Copies = tuple[int, ...]
"""Sizes of the weights that a step copies."""
Course = tuple[tuple[int, Copies], ...]
"""Steps by number in the order in which a model takes them, some of them many times."""
Needed = tuple[int, ...]
"""Bytes of each backend's buffer."""


class _Point(NamedTuple):
    """What a course needs at a number of cells."""

    cells: int
    needed: Needed
    choices: int
    """A hash of all choices: which free block each slot takes, and which slot ends highest."""


class Replay:
    """What courses through steps need, for one thread at a time; ``steps`` may become more.

    Every size is linear in the cells, and every choice compares sums of sizes. So where two numbers
    of cells lead to the same choices, all numbers between do, and what they need lies on a line.
    """

    def __init__(self, steps: Sequence[Step], backends: int, *, padded: bool) -> None:
        self._steps = steps
        gpu = GPU_ALIGNMENT if padded else HOST_ALIGNMENT
        self._alignments = (*[gpu] * (backends - 1), HOST_ALIGNMENT)
        self._courses: dict[Course, list[_Point]] = {}
        self._runs: dict[int, _Run] = {}

    def needed(self, course: Course, cells: int) -> Needed:
        """Bytes of each backend's buffer."""
        if len(self._courses) > KEPT_COURSES:
            self._courses.clear()
        points = self._courses.setdefault(course, [])
        place = bisect_left(points, cells, key=_cells)
        if place < len(points) and points[place].cells == cells:
            return points[place].needed
        if 0 < place < len(points):
            found = _between(points[place - 1], points[place], cells)
            if found:
                return found
        points.insert(place, self._run(cells).follow(course))
        return points[place].needed

    def _run(self, cells: int) -> _Run:
        if cells not in self._runs:
            while len(self._runs) >= KEPT_RUNS:
                del self._runs[next(iter(self._runs))]
            self._runs[cells] = _Run(self._steps, self._alignments, cells)
        return self._runs[cells]


def _cells(point: _Point) -> int:
    return point.cells


def _between(low: _Point, high: _Point, cells: int) -> Needed:
    """What is needed between two points; empty where that is not known."""
    if low.choices != high.choices or (low.cells | cells | high.cells) % ALIGNED_CELLS:
        return ()
    span, part = high.cells - low.cells, cells - low.cells
    return tuple(a + (b - a) * part // span for a, b in zip(low.needed, high.needed, strict=True))


class _State(NamedTuple):
    """Memory between two steps."""

    free: tuple[tuple[tuple[int, int], ...], ...]
    """Offset and size of the free blocks of each backend, the last of which is endless."""
    passed_on: tuple[int, ...]
    """Offsets of the slots that the step before has passed on."""
    lasting: frozenset[tuple[Lasting, int]]
    """Slots that are kept for long, and their offsets."""


class _End(NamedTuple):
    """How a step ends."""

    state: int
    needed: Needed
    choices: int


class _Run:
    """The steps for a cache of so many cells."""

    def __init__(self, steps: Sequence[Step], alignments: tuple[int, ...], cells: int) -> None:
        self._steps = steps
        self._alignments = alignments
        self._cells = cells
        self._states: dict[_State, int] = {}
        self._known: list[_State] = []
        self._ends: dict[tuple[int, int, Copies], _End] = {}
        """By state, step and sizes of copied weights."""
        self._start = self._number(_State((((0, ENDLESS),),) * len(alignments), (), frozenset()))

    def follow(self, course: Course) -> _Point:
        """What a course needs."""
        state = self._start
        passed: list[_End] = []
        for step, copies in course:
            key = state, step, copies
            end = self._ends.get(key)
            if end is None:
                end = self._ends[key] = self._execute(*key)
            passed.append(end)
            state = end.state
        by_backend = list(zip(*(end.needed for end in passed), strict=True))
        needed = tuple(map(max, by_backend))
        highest = tuple(map(tuple.index, by_backend, needed))
        choices = hash((highest, *(end.choices for end in passed)))
        return _Point(self._cells, needed, choices)

    def _number(self, state: _State) -> int:
        if state not in self._states:
            self._states[state] = len(self._known)
            self._known.append(state)
        return self._states[state]

    def _execute(self, start: int, number: int, copies: Copies) -> _End:
        state, step, alignments = self._known[start], self._steps[number], self._alignments
        sizes = [
            copies[weight] if weight >= 0 else fixed + per_cell * self._cells
            for fixed, per_cell, weight in step.sizes
        ]
        buffers = [_Buffer(free) for free in state.free]
        offsets = dict(enumerate(state.passed_on))
        lasting = dict(state.lasting)
        offsets.update((-slot, lasting.pop(name)) for slot, name in enumerate(step.lasting, 1))
        numbers = iter(array("h", step.events))
        for action, slot, backend, size, kept in zip(*[numbers] * 5, strict=True):
            alignment = alignments[backend]
            needed = -(-sizes[size] // alignment) * alignment
            if action == ALLOCATE:
                offsets[slot] = buffers[backend].allocate(needed)
            elif action == FREE:
                buffers[backend].free(offsets[slot], needed)
            else:
                left = -(-sizes[kept] // alignment) * alignment
                if needed > left:
                    buffers[backend].free(offsets[slot] + left, needed - left)
        lasting.update((name, offsets[slot]) for slot, name in step.kept)
        end = _State(
            tuple(tuple((at, size) for at, size in buffer.free_blocks) for buffer in buffers),
            tuple(offsets[slot] for slot in step.passed_on),
            frozenset(lasting.items()),
        )
        return _End(
            self._number(end),
            tuple(buffer.size for buffer in buffers),
            hash(tuple(tuple(buffer.choices) for buffer in buffers)),
        )


class _Buffer:
    """Best fit over free blocks, the last of which is endless."""

    __slots__ = ("choices", "free_blocks", "size")

    def __init__(self, free: Iterable[tuple[int, int]]) -> None:
        self.free_blocks = [list(block) for block in free]
        self.size = 0
        self.choices: list[int] = []

    def allocate(self, size: int) -> int:
        """The offset of a new slot."""
        blocks = self.free_blocks
        best, best_size, large_enough = -1, ENDLESS, 0
        for index in range(len(blocks) - 1):
            available = blocks[index][1]
            if size <= available:
                large_enough |= 1 << index
                if available <= best_size:
                    best, best_size = index, available
        block = blocks[best]
        offset = block[0]
        block[0] += size
        block[1] -= size
        rises = offset + size > self.size
        self.choices += (large_enough, 4 * best + 2 * bool(block[1]) + rises)
        if not block[1]:
            del blocks[best]
        if rises:
            self.size = offset + size
        return offset

    def free(self, offset: int, size: int) -> None:
        """Give a slot back, or its end."""
        blocks = self.free_blocks
        end = offset + size
        for index, block in enumerate(blocks):
            if block[0] + block[1] == offset:
                block[1] += size
                joined = index + 1 < len(blocks) and blocks[index + 1][0] == end
                if joined:
                    block[1] += blocks.pop(index + 1)[1]
                self.choices.append(4 * index + joined)
                return
            if block[0] == end:
                block[0] = offset
                block[1] += size
                joined = index > 0 and blocks[index - 1][0] + blocks[index - 1][1] == offset
                if joined:
                    blocks[index - 1][1] += block[1]
                    del blocks[index]
                self.choices.append(4 * index + 2 + joined)
                return
        position = next((i for i, block in enumerate(blocks) if block[0] >= offset), len(blocks))
        blocks.insert(position, [offset, size])
        self.choices.append(~position)
