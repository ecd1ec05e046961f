"""How large the buffers of a graph become: ggml's graph allocator.

Source: llama.cpp b11434 ``ggml/src/ggml-alloc.c``. Which tensor takes the memory of which
other one depends on the graph alone: it is found once, step by step (a step is a block, or what
comes before or after them). The steps are then run for any number of cells and of blocks; a step
that starts where it has started before ends as it did.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

from tagfit.sizing.graph.scheduler import Order
from tagfit.sizing.graph.tensors import CELLS, INPLACE, Tensor, cuda_padding

HOST_ALIGNMENT = 32
GPU_ALIGNMENT = 128
ENDLESS = 1 << 62

ALLOCATE, FREE, SHRINK = range(3)


class Size(NamedTuple):
    """Bytes as fixed + per_cell * cells, or those of a copied weight."""

    fixed: int
    per_cell: int = 0
    weight: int = -1
    """Which of the step's copied weights."""


class Step(NamedTuple):
    """The events of one step."""

    events: array[int]
    """Five numbers each: the action (allocate a slot, free it, or free the part of it that a
    successor leaves over), slot, backend, and which of the trace's sizes it has and keeps."""
    weights: list[tuple[str, int]]
    """Those that it copies to another device, and how many steps later they are needed."""
    passed_on: list[int]
    """Slots taken of late that are still in use after it."""


class Trace(NamedTuple):
    """All steps of one graph."""

    steps: tuple[Step, ...]
    sizes: tuple[Size, ...]
    alignments: tuple[int, ...]


def trace(order: Order, backends: int, *, padded: bool, reach: int) -> Trace:
    """The steps that ggml takes for a graph; ``padded`` for GPUs of CUDA and ROCm.

    ``reach`` is the number of steps for which a slot may be kept that each block takes anew.
    """
    return _Tracer(order, backends, padded=padded, reach=reach).run()


def _linear(size: int) -> Size:
    if size < CELLS // 2:
        return Size(size)
    per_cell, fixed = divmod(size, CELLS)
    return Size(fixed - CELLS, per_cell + 1) if fixed > CELLS // 2 else Size(fixed, per_cell)


class _Tracer:
    def __init__(self, order: Order, backends: int, *, padded: bool, reach: int) -> None:
        self._reach = reach
        self._order = order
        self._cpu = backends - 1
        self._padded = padded
        self._children = [0] * order.tensors
        self._views = [0] * order.tensors
        self._slots: dict[int, int] = {}
        """Tensor to the slot that it holds."""
        self._sizes: list[tuple[int, Size]] = []
        """Backend and size of each slot."""
        self._known: dict[Size, int] = {}
        self._step = Step(array("i"), [], [])
        self._steps = [self._step]
        self._taken: dict[int, int] = {}
        """Slot to the step in which it was taken last."""

    def run(self) -> Trace:
        for leaf in self._order.leafs:
            self._allocate(leaf, leaf.backend)
        for node in self._order.nodes:
            self._count(node)
        for node in self._order.nodes:
            while node.step >= len(self._steps):
                self._next_step()
            self._allocate(node, node.backend)
            for source in node.sources:
                self._release(source)
        while len(self._steps) < self._order.steps:
            self._next_step()
        gpu = GPU_ALIGNMENT if self._padded else HOST_ALIGNMENT
        alignments = (*[gpu] * self._cpu, HOST_ALIGNMENT)
        return Trace(tuple(self._steps), tuple(self._known), alignments)

    def _next_step(self) -> None:
        recent = len(self._steps) + 1 - self._reach
        held = self._slots.values()
        self._step.passed_on.extend(slot for slot in held if self._taken[slot] >= recent)
        self._step = Step(array("i"), [], [])
        self._steps.append(self._step)

    def _record(self, action: int, slot: int, backend: int, size: Size, kept: Size) -> None:
        known = self._known
        numbers = (known.setdefault(size, len(known)), known.setdefault(kept, len(known)))
        self._step.events.extend((action, slot, backend, *numbers))

    def _count(self, node: Tensor) -> None:
        if node.base is not None and node.operation != "none":
            self._views[node.base.index] += 1
        if node.is_input:
            self._allocate(node, node.backend)
        for source in node.sources:
            self._children[source.index] += 1
            if source.is_input:
                self._allocate(source, node.backend)

    def _size(self, tensor: Tensor, backend: int) -> Size:
        if tensor.weight:
            name, step = tensor.weight
            copied = name, step - len(self._steps) + 1
            if copied not in self._step.weights:
                self._step.weights.append(copied)
            return Size(0, 0, self._step.weights.index(copied))
        extra = cuda_padding(tensor) if self._padded and backend != self._cpu else 0
        return _linear(tensor.bytes + extra)

    def _allocate(self, tensor: Tensor, backend: int) -> None:
        if tensor.device is not None or tensor.base is not None or tensor.index in self._slots:
            return
        if tensor.operation in INPLACE and self._reuse(tensor):
            return
        slot, size = len(self._sizes), self._size(tensor, backend)
        self._sizes.append((backend, size))
        self._slots[tensor.index] = slot
        self._taken[slot] = len(self._steps)
        self._record(ALLOCATE, slot, backend, size, size)

    def _reuse(self, tensor: Tensor) -> bool:
        """Take over the memory of a source that nothing else needs."""
        for source in tensor.sources:
            if (
                source.index in self._slots
                and not source.is_output
                and source.kind == tensor.kind
                and source.shape == tensor.shape
                and source.strides == tensor.strides
                and self._children[source.index] == 1
                and not self._views[source.index]
            ):
                slot = self._slots.pop(source.index)
                self._slots[tensor.index] = slot
                self._taken[slot] = len(self._steps)
                backend, before = self._sizes[slot]
                after = self._size(tensor, backend)
                if before != after:
                    self._sizes[slot] = backend, after
                    self._record(SHRINK, slot, backend, before, after)
                return True
        return False

    def _release(self, source: Tensor) -> None:
        self._children[source.index] -= 1
        if self._children[source.index] or self._views[source.index]:
            return
        owner = source.base
        if owner is None:
            self._free(source)
            return
        self._views[owner.index] -= 1
        if not self._views[owner.index] and not self._children[owner.index]:
            self._free(owner)

    def _free(self, tensor: Tensor) -> None:
        if tensor.is_output or tensor.index not in self._slots:
            return
        slot = self._slots.pop(tensor.index)
        backend, size = self._sizes[slot]
        if size.weight >= 0 and tensor.weight:
            size = self._size(tensor, backend)  # counted from this step
        self._record(FREE, slot, backend, size, size)


class _State(NamedTuple):
    """Memory between two steps."""

    free: tuple[tuple[tuple[int, int], ...], ...]
    """Offset and size of the free blocks of each backend, the last of which is endless."""
    passed_on: tuple[int, ...]
    """Offsets of the slots that the step before has passed on."""
    others: tuple[tuple[int, int], ...]
    """Slots that live longer, and their offsets."""


class Replay:
    """The steps of a trace for a cache of so many cells."""

    def __init__(self, found: Trace, cells: int) -> None:
        self._trace = found
        self._bytes = [size.fixed + size.per_cell * cells for size in found.sizes]
        self._states: dict[_State, int] = {}
        self._known: list[_State] = []
        self._ends: dict[tuple[int, int, tuple[int, ...]], tuple[int, tuple[int, ...]]] = {}
        """State, step and sizes of copied weights to the state after it and bytes needed."""
        self.copied = tuple(tuple(step.weights) for step in found.steps)
        """The names of the weights that each step copies."""
        backends = len(found.alignments)
        self._start = self._number(_State((((0, ENDLESS),),) * backends, (), ()))

    def run(self, steps: Iterable[tuple[int, tuple[int, ...]]]) -> tuple[int, ...]:
        """Bytes of each backend's buffer; each step comes with its copied weights' sizes."""
        state, ends = self._start, self._ends
        needed = set()
        for step, weights in steps:
            key = state, step, weights
            if key not in ends:
                ends[key] = self._execute(*key)
            state, bytes_needed = ends[key]
            needed.add(bytes_needed)
        return tuple(map(max, *needed)) if len(needed) > 1 else needed.pop()

    def _number(self, state: _State) -> int:
        if state not in self._states:
            self._states[state] = len(self._known)
            self._known.append(state)
        return self._states[state]

    def _execute(
        self, start: int, step: int, weights: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        state, alignments, sizes = self._known[start], self._trace.alignments, self._trace.sizes
        buffers = [_Buffer(free) for free in state.free]
        offsets = dict(state.others)
        if step:
            before = self._trace.steps[step - 1].passed_on
            offsets.update(zip(before, state.passed_on, strict=True))

        def bytes_of(size: int, alignment: int) -> int:
            weight = sizes[size].weight
            found = weights[weight] if weight >= 0 else self._bytes[size]
            return -(-found // alignment) * alignment

        numbers = iter(self._trace.steps[step].events)
        for action, slot, backend, size, kept in zip(*[numbers] * 5, strict=True):
            needed = bytes_of(size, alignments[backend])
            if action == ALLOCATE:
                offsets[slot] = buffers[backend].allocate(needed)
            elif action == FREE:
                buffers[backend].free(offsets.pop(slot), needed)
            else:
                left = bytes_of(kept, alignments[backend])
                if needed > left:
                    buffers[backend].free(offsets[slot] + left, needed - left)
        end = _State(
            tuple(tuple((at, size) for at, size in buffer.free_blocks) for buffer in buffers),
            tuple(offsets.pop(slot) for slot in self._trace.steps[step].passed_on),
            tuple(sorted(offsets.items())),
        )
        return self._number(end), tuple(buffer.size for buffer in buffers)


class _Buffer:
    """Best fit over free blocks, the last of which is endless (ggml_dyn_tallocr)."""

    __slots__ = ("free_blocks", "size")

    def __init__(self, free: Iterable[tuple[int, int]]) -> None:
        self.free_blocks = [list(block) for block in free]
        self.size = 0

    def allocate(self, size: int) -> int:
        blocks = self.free_blocks
        best, best_size = -1, ENDLESS
        for index in range(len(blocks) - 1):
            available = blocks[index][1]
            if size <= available <= best_size:
                best, best_size = index, available
        block = blocks[best]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            del blocks[best]
        self.size = max(self.size, offset + size)
        return offset

    def free(self, offset: int, size: int) -> None:
        blocks = self.free_blocks
        end = offset + size
        for index, block in enumerate(blocks):
            if block[0] + block[1] == offset:
                block[1] += size
                if index + 1 < len(blocks) and blocks[index + 1][0] == end:
                    block[1] += blocks.pop(index + 1)[1]
                return
            if block[0] == end:
                block[0] = offset
                block[1] += size
                if index and blocks[index - 1][0] + blocks[index - 1][1] == offset:
                    blocks[index - 1][1] += block[1]
                    del blocks[index]
                return
        position = next((i for i, block in enumerate(blocks) if block[0] >= offset), len(blocks))
        blocks.insert(position, [offset, size])
