"""How large the buffers of a graph become: the steps of its trace, run for a number of cells.

Source: llama.cpp b11434 ``ggml/src/ggml-alloc.c`` (ggml_dyn_tallocr). A step that starts where it
has started before ends as it did, so of many like blocks only the first few are run.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple

from tagfit.sizing.graph.allocator import ALLOCATE, FREE, Lasting, Step

HOST_ALIGNMENT = 32
GPU_ALIGNMENT = 128
ENDLESS = 1 << 62
ALIGNED_CELLS = 128
"""What this many cells take is aligned for every buffer."""
KEPT_COURSES = 64
KEPT_RUNS = 4
RISES = -1
"""A choice: the slot ends higher than all before it in its step."""

Copies = tuple[int, ...]
"""Sizes of the weights that a step copies."""
Needed = tuple[int, ...]
"""Bytes of each backend's buffer."""


class Replay:
    """What courses through steps need, for one thread at a time; ``steps`` may become more.

    Every size is linear in the cells, and every choice compares sums of sizes. So where two numbers
    of cells lead to the same choices, all numbers between do, and what they need lies on a line.
    """

    def __init__(self, steps: Sequence[Step], backends: int, *, padded: bool) -> None:
        self._steps = steps
        gpu = GPU_ALIGNMENT if padded else HOST_ALIGNMENT
        self._alignments = (*[gpu] * (backends - 1), HOST_ALIGNMENT)
        self._tasks: dict[tuple[int, Copies], int] = {}
        self._known_tasks: list[_Task] = []
        self._programs: dict[int, _Program] = {}
        self._names: dict[Lasting, int] = {}
        self._course = lru_cache(KEPT_COURSES)(partial(Course, self))
        self._run = lru_cache(KEPT_RUNS)(partial(_Run, self._known_tasks, backends))

    def course(self, steps: Sequence[tuple[int, Copies]]) -> Course:
        """Steps by number in the order in which a model takes them, some of them many times."""
        return self._course(tuple(map(self._task, steps)))

    def follow(self, tasks: tuple[int, ...], cells: int) -> _Point:
        """What a course needs."""
        return self._run(cells).follow(tasks)

    def _task(self, step: tuple[int, Copies]) -> int:
        if step not in self._tasks:
            number, copies = step
            if number not in self._programs:
                self._programs[number] = _program(
                    self._steps[number], self._alignments, self._names
                )
            self._tasks[step] = len(self._tasks)
            self._known_tasks.append(_Task(self._programs[number], copies))
        return self._tasks[step]


class Course:
    """The steps of one layout and one quantization."""

    def __init__(self, replay: Replay, tasks: tuple[int, ...]) -> None:
        self._replay = replay
        self._tasks = tasks
        self._points: list[_Point] = []

    def needed(self, cells: int) -> Needed:
        """Bytes of each backend's buffer."""
        points = self._points
        place = bisect_left(points, cells, key=_cells)
        if place < len(points) and points[place].cells == cells:
            return points[place].needed
        if 0 < place < len(points):
            found = _between(points[place - 1], points[place], cells)
            if found:
                return found
        points.insert(place, self._replay.follow(self._tasks, cells))
        return points[place].needed


class _Point(NamedTuple):
    """What a course needs at a number of cells."""

    cells: int
    needed: Needed
    choices: int
    """A hash of all choices: which free block each slot takes, and which slot ends highest.

    Of negative numbers none but RISES is among them: hash(-1) is hash(-2).
    """


def _cells(point: _Point) -> int:
    return point.cells


def _between(low: _Point, high: _Point, cells: int) -> Needed:
    """What is needed between two points; empty where that is not known."""
    if low.choices != high.choices or (low.cells | cells | high.cells) % ALIGNED_CELLS:
        return ()
    span, part = high.cells - low.cells, cells - low.cells
    return tuple(a + (b - a) * part // span for a, b in zip(low.needed, high.needed, strict=True))


class _Program(NamedTuple):
    """A step, ready to be run many times."""

    events: array[int]
    """As a step's, but with other sizes."""
    sizes: array[int]
    """Four numbers each: fixed bytes, bytes a cell, which of the copied weights (or -1), and the
    alignment."""
    slots: int
    lasting: tuple[int, ...]
    """By the number of the name."""
    passed_on: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]
    """By the number of the name, and the slot."""


def _program(step: Step, alignments: tuple[int, ...], names: dict[Lasting, int]) -> _Program:
    sizes: dict[tuple[int, int, int, int], int] = {}

    def aligned(size: int, backend: int) -> int:
        return sizes.setdefault((*step.sizes[size], alignments[backend]), len(sizes))

    events = array("h")
    for action, slot, backend, size, kept in _groups(array("h", step.events), 5):
        events.extend((action, slot, backend, aligned(size, backend), aligned(kept, backend)))
    return _Program(
        events,
        array("q", chain.from_iterable(sizes)),
        max(events[1::5], default=-1) + 1,
        tuple([names.setdefault(name, len(names)) for name in step.lasting]),
        step.passed_on,
        tuple([(names.setdefault(name, len(names)), slot) for slot, name in step.kept]),
    )


def _groups(numbers: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    return zip(*[iter(numbers)] * size, strict=True)


class _Task(NamedTuple):
    """A step with the weights that it copies."""

    program: _Program
    copies: Copies


Pairs = list[tuple[int, int]]
Blocks = Pairs
"""Offset and size of a buffer's free blocks: by offset, the endless one last; behind it only what
_free puts there."""


class _State(NamedTuple):
    """Memory between two steps; pairs are packed, as there are many states."""

    free: tuple[bytes, ...]
    """Blocks of each backend."""
    passed_on: tuple[int, ...]
    """Offsets of the slots that the step before has passed on."""
    lasting: bytes
    """Slots that are kept for long, by the number of their name, and their offsets."""


class _End(NamedTuple):
    """How a step ends."""

    state: int
    needed: Needed
    choices: int


class _Run:
    """The steps for a cache of so many cells."""

    def __init__(self, tasks: Sequence[_Task], backends: int, cells: int) -> None:
        self._tasks = tasks
        self._cells = cells
        self._states: dict[_State, int] = {}
        self._known: list[_State] = []
        self._ends: dict[tuple[int, int], _End] = {}
        """By state and task."""
        self._start = self._number(_State((_pack([(0, ENDLESS)]),) * backends, (), b""))

    def follow(self, tasks: tuple[int, ...]) -> _Point:
        """What a course needs."""
        state = self._start
        passed: list[_End] = []
        for task in tasks:
            key = state, task
            end = self._ends.get(key)
            if end is None:
                end = self._ends[key] = self._execute(*key)
            passed.append(end)
            state = end.state
        by_backend = list(zip(*[end.needed for end in passed], strict=True))
        needed = tuple(map(max, by_backend))
        highest = tuple(map(tuple.index, by_backend, needed))
        return _Point(self._cells, needed, hash((highest, *[end.choices for end in passed])))

    def _number(self, state: _State) -> int:
        if state not in self._states:
            self._states[state] = len(self._known)
            self._known.append(state)
        return self._states[state]

    def _execute(self, start: int, number: int) -> _End:
        state, (program, copies) = self._known[start], self._tasks[number]
        cells = self._cells
        sizes = [
            -(-(fixed + per_cell * cells if weight < 0 else copies[weight]) // to) * to
            for fixed, per_cell, weight, to in _groups(program.sizes, 4)
        ]
        lasting = dict(_unpack(state.lasting))
        offsets = list(state.passed_on)
        offsets += [0] * (program.slots - len(offsets))
        # slots -1, -2 and so on
        offsets += [lasting.pop(name) for name in program.lasting][::-1]
        free = [_unpack(blocks) for blocks in state.free]
        needed = [0] * len(free)
        choices: list[int] = []
        for action, slot, backend, size, kept in _groups(program.events, 5):
            if action == ALLOCATE:
                offsets[slot], end = _allocate(free[backend], sizes[size], choices)
                if end > needed[backend]:
                    needed[backend] = end
                    choices.append(RISES)
            elif action == FREE:
                _free(free[backend], offsets[slot], sizes[size], choices)
            elif sizes[size] > sizes[kept]:
                left = sizes[kept]
                _free(free[backend], offsets[slot] + left, sizes[size] - left, choices)
        lasting.update([(name, offsets[slot]) for name, slot in program.kept])
        end_state = _State(
            tuple(map(_pack, free)),
            tuple([offsets[slot] for slot in program.passed_on]),
            _pack(sorted(lasting.items())),
        )
        return _End(self._number(end_state), tuple(needed), hash(tuple(choices)))


def _pack(pairs: Pairs) -> bytes:
    return array("q", chain.from_iterable(pairs)).tobytes()


def _unpack(packed: bytes) -> Pairs:
    numbers = array("q", packed)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _allocate(blocks: Blocks, size: int, choices: list[int]) -> tuple[int, int]:
    """Offsets of a new slot and its end: in the smallest block that is large enough."""
    best, best_size, large_enough = -1, ENDLESS, 0
    for index in range(len(blocks) - 1):
        available = blocks[index][1]
        if size <= available:
            large_enough |= 1 << index
            if available <= best_size:
                best, best_size = index, available
    offset, available = blocks[best]
    if available == size:
        del blocks[best]
    else:
        blocks[best] = offset + size, available - size
    choices += large_enough, 2 * (best + 1) + (available == size)
    return offset, offset + size


def _free(blocks: Blocks, offset: int, size: int, choices: list[int]) -> None:
    """Give a slot back, or its end: it joins the free blocks on either side.

    As ggml has it, a slot of no size that lies in the endless block ends up behind it.
    """
    end = offset + size
    place = len(blocks)
    for index, (at, available) in enumerate(blocks):
        if at + available == offset:
            following = blocks[index + 1 : index + 2]
            joins = bool(following) and following[0][0] == end
            joined = available + size + (following[0][1] if joins else 0)
            blocks[index : index + 1 + joins] = [(at, joined)]
            choices.append(4 * index + joins)
            return
        if at == end:
            blocks[index] = offset, available + size
            choices.append(4 * index + 2)
            return
        if at >= offset:
            place = min(place, index)
    blocks.insert(place, (offset, size))
    choices.append(4 * place + 3)
