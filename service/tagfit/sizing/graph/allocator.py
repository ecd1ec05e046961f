"""Which tensors of a graph share memory, and for how long: ggml's graph allocator.

Source: llama.cpp b11434 ``ggml/src/ggml-alloc.c``. Which tensor takes the memory of which
other one depends on the graph alone: it is found once, step by step (a step is a block, or what
comes before or after them). The steps can then be run for any number of cells and of blocks.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from tagfit.sizing.graph.scheduler import Order
from tagfit.sizing.graph.tensors import CELLS, INPLACE, Tensor, cuda_padding

HOST_ALIGNMENT = 32
GPU_ALIGNMENT = 128

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
