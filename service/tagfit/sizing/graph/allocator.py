"""Which tensors of a graph share memory, and for how long: ggml's graph allocator.

Source: llama.cpp b11434 ``ggml/src/ggml-alloc.c``. Which tensor takes the memory of which
other one depends on the graph alone: it is found once, step by step (a step is a block, or what
comes before or after them). A step names nothing of the graph that it was found in, so it
stands for the same step of any other.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from tagfit.sizing.graph.scheduler import Order
from tagfit.sizing.graph.tensors import CELLS, INPLACE, OUTSIDE, Tensor, cuda_padding

ALLOCATE, FREE, SHRINK = range(3)


class Size(NamedTuple):
    """Bytes as fixed + per_cell * cells, or those of a copied weight."""

    fixed: int
    per_cell: int = 0
    weight: int = -1
    """Which of the step's copied weights."""


Lasting = tuple[int | str, ...]
"""The name of a slot that is kept for long: which input or weight, or on which backend a copy."""


class Step(NamedTuple):
    """The events of one step; its slots count from those that the step before passed on."""

    events: bytes
    """Five C shorts each: the action (allocate a slot, free it, or free the part of it that a
    successor leaves over), slot, backend, and which of the sizes it has and keeps."""
    sizes: tuple[Size, ...]
    weights: tuple[tuple[str, int], ...]
    """Those that it copies to another device, and how many steps later they are needed."""
    lasting: tuple[Lasting, ...]
    """What it uses of earlier steps, as slots -1, -2 and so on."""
    passed_on: tuple[int, ...]
    """Slots taken of late that are still in use after it."""
    kept: tuple[tuple[int, Lasting], ...]
    """Other slots of it that are, and their names from here on."""


class Trace(NamedTuple):
    """What ggml does for one graph."""

    steps: tuple[Step, ...]
    stand_alone: bool
    """Slots that are kept for long are named by their place in this graph alone."""


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


class _Slot:
    """Memory that a tensor has taken."""

    __slots__ = ("backend", "number", "size", "step", "taken", "tensor")

    def __init__(self, tensor: Tensor, backend: int, size: Size, step: int, number: int) -> None:
        self.tensor = tensor
        self.backend = backend
        self.size = size
        self.number = number
        self.step = step
        """The step in which it has this number."""
        self.taken = step
        """The step in which it was taken last."""


class _Tracer:
    def __init__(self, order: Order, backends: int, *, padded: bool, reach: int) -> None:
        self._reach = reach
        self._order = order
        self._cpu = backends - 1
        self._padded = padded
        self._children = [0] * order.tensors
        self._views = [0] * order.tensors
        self._slots: dict[int, _Slot] = {}
        """By tensor."""
        self._inputs: dict[int, int] = {}
        """Tensor to its place among the inputs."""
        self._steps: list[Step] = []
        self._stand_alone = False
        self._begin([])

    def run(self) -> Trace:
        for leaf in self._order.leafs:
            self._allocate(leaf, leaf.backend)
        for node in self._order.nodes:
            self._count(node)
        for node in self._order.nodes:
            while node.step > len(self._steps):
                self._end()
            self._allocate(node, node.backend)
            for source in node.sources:
                self._release(source)
        while len(self._steps) < self._order.steps:
            self._end()
        return Trace(tuple(self._steps), self._stand_alone)

    def _begin(self, passed_on: list[_Slot]) -> None:
        self._events = array("h")
        self._sizes: dict[Size, int] = {}
        self._weights: dict[tuple[str, int], int] = {}
        self._lasting: list[Lasting] = []
        for number, slot in enumerate(passed_on):
            slot.number, slot.step = number, len(self._steps)
        self._next = len(passed_on)

    def _end(self) -> None:
        step = len(self._steps)
        recent = step + 1 - self._reach
        passed_on, kept = [], []
        is_last = step + 1 == self._order.steps
        for slot in () if is_last else self._slots.values():
            if slot.taken >= recent and not self._lasts(slot.tensor):
                passed_on.append(slot)
            elif slot.step == step:
                kept.append((slot.number, self._name(slot.tensor)))
        self._steps.append(
            Step(
                self._events.tobytes(),
                tuple(self._sizes),
                tuple(self._weights),
                tuple(self._lasting),
                tuple(slot.number for slot in passed_on),
                tuple(kept),
            )
        )
        self._begin(passed_on)

    def _lasts(self, tensor: Tensor) -> bool:
        """Whether it belongs to all blocks: how long ago it was taken depends on much."""
        if tensor.original is not None:
            return self._lasts(tensor.original)
        owner = tensor.base or tensor
        step = owner.weight[1] if owner.weight else owner.step
        return owner.index in self._inputs or step in {OUTSIDE, 0}

    def _name(self, tensor: Tensor) -> Lasting:
        if tensor.original is not None:
            return (*self._name(tensor.original), tensor.backend)
        owner = tensor.base or tensor
        if owner.weight:
            self._stand_alone |= owner.weight[1] > 0
            return (*owner.weight, owner.backend)
        if owner.index not in self._inputs:
            # of the first step all graphs of a model have the same
            self._stand_alone |= tensor.step > 0
            return (-1, tensor.step, tensor.index)
        number = self._inputs[owner.index]
        return (number,) if owner is tensor else (number, -1, *tensor.shape)

    def _number(self, slot: _Slot) -> int:
        if slot.step != len(self._steps):
            self._lasting.append(self._name(slot.tensor))
            slot.number, slot.step = -len(self._lasting), len(self._steps)
        return slot.number

    def _record(self, action: int, slot: _Slot, size: Size, kept: Size) -> None:
        known = self._sizes
        numbers = (known.setdefault(size, len(known)), known.setdefault(kept, len(known)))
        self._events.extend((action, self._number(slot), slot.backend, *numbers))

    def _count(self, node: Tensor) -> None:
        if node.base is not None and node.operation != "none":
            self._views[node.base.index] += 1
        if node.is_input:
            self._allocate_input(node, node.backend)
        for source in node.sources:
            self._children[source.index] += 1
            if source.is_input:
                self._allocate_input(source, node.backend)

    def _allocate_input(self, tensor: Tensor, backend: int) -> None:
        self._allocate(tensor, backend)
        self._inputs.setdefault(tensor.index, len(self._inputs))

    def _size(self, tensor: Tensor, backend: int) -> Size:
        if tensor.weight:
            name, step = tensor.weight
            later = 0 if step == OUTSIDE else step - len(self._steps)
            return Size(0, 0, self._weights.setdefault((name, later), len(self._weights)))
        extra = cuda_padding(tensor) if self._padded and backend != self._cpu else 0
        return _linear(tensor.bytes + extra)

    def _allocate(self, tensor: Tensor, backend: int) -> None:
        if tensor.device is not None or tensor.base is not None or tensor.index in self._slots:
            return
        if tensor.operation in INPLACE and self._reuse(tensor):
            return
        size = self._size(tensor, backend)
        slot = _Slot(tensor, backend, size, len(self._steps), self._next)
        self._next += 1
        self._slots[tensor.index] = slot
        self._record(ALLOCATE, slot, size, size)

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
                self._number(slot)
                before, slot.size = slot.size, self._size(tensor, slot.backend)
                if before != slot.size:
                    self._record(SHRINK, slot, before, slot.size)
                slot.tensor, slot.taken = tensor, len(self._steps)
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
        size = slot.size
        if size.weight >= 0 and tensor.weight:
            size = self._size(tensor, slot.backend)  # counted from this step
        self._record(FREE, slot, size, size)
