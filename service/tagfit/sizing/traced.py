"""The steps of a model's graphs, traced once for all layouts that share them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from threading import Lock
from typing import cast

from tagfit.facts import Architecture, CacheType
from tagfit.sizing.device_weights import ELSEWHERE, INPUTS, DeviceWeights, is_with_first_block
from tagfit.sizing.flash_attention import runs_on_cuda
from tagfit.sizing.graph.allocator import Step, Trace, trace
from tagfit.sizing.graph.blocks import Batch, Weight
from tagfit.sizing.graph.blocks import Step as Block
from tagfit.sizing.graph.forward import forward
from tagfit.sizing.graph.replay import KEPT_COURSES, Copies, Course, Needed, Replay
from tagfit.sizing.graph.scheduler import schedule
from tagfit.sizing.outline import Layout, Outline, Place, Segment, outline, reach
from tagfit.sizing.shipped_steps import KnownSteps, digest, shipped_steps
from tagfit.sizing.tensors import tensor_groups


class Traced:
    """What is known of one model's graphs for one batch and so many devices."""

    def __init__(
        self,
        arch: Architecture,
        shape: Batch,
        gpus: int,
        output_device: int,
        *,
        pipeline: bool,
        padded: bool,
    ) -> None:
        self.key = (arch, shape, gpus, output_device, pipeline, padded)
        self._arch = arch
        self._shape = shape
        self._gpus = gpus
        self._output_device = output_device
        self._pipeline = pipeline
        self._padded = padded
        self._shipped = shipped_steps(self.key)
        self._places: dict[Place, int] = {}
        self._alone: dict[Layout, tuple[int, ...]] = {}
        """Plans whose steps are like no other's."""
        self._steps = list(self._shipped.steps)
        self._same = {step: number for number, step in enumerate(self._steps)}
        self._replay = Replay(self._steps, gpus + 1, padded=padded)
        self._course = lru_cache(KEPT_COURSES)(self._new_course)
        self._lock = Lock()

    def needed(self, layout: Layout, weights: DeviceWeights, cells: int, *, whole: bool) -> Needed:
        """Bytes of each GPU's buffer and of the host's; ``whole`` as for an outline."""
        with self._lock:
            return self._course(layout, weights, whole).needed(cells)

    def _new_course(self, layout: Layout, weights: DeviceWeights, whole: bool) -> Course:
        few = outline(self._arch, layout, self._gpus, whole=whole)
        return self._replay.course(list(self._steps_with_copies(few, weights)))

    def _steps_with_copies(
        self, few: Outline, weights: DeviceWeights
    ) -> Iterator[tuple[int, Copies]]:
        """The layout's steps, each with the sizes of the weights that it copies."""
        first, *chosen, last = self._steps_of(few)
        outside, blocks = weights.outside_copies, few.blocks
        of_blocks = (chosen[place] for place in few.stand_ins)
        for position, number in enumerate((first, *of_blocks, last), -1):
            names = self._steps[number].weights
            yield (
                number,
                tuple(
                    outside[name]
                    if name in outside
                    else weights.block_copies[blocks[position + later]][name]
                    for name, later in names
                )
                if names
                else (),
            )

    def _steps_of(self, outline: Outline) -> tuple[int, ...]:
        """By number: the steps before the plan's first block, of each of its blocks, and after."""
        plan, places = outline.plan, outline.places
        if plan not in self._alone and self._shipped.alone:
            shipped = self._shipped.alone.get(digest(plan))
            if shipped is not None:
                self._alone[plan] = shipped
        if plan in self._alone:
            return self._alone[plan]
        if not places or not all(map(self._is_known, places)):
            found = self._trace(plan)
            numbers = tuple([self._number(step) for step in found.steps])
            if found.stand_alone or not places:
                self._alone[plan] = numbers
                return numbers
            for place, number in zip(places, numbers, strict=True):
                self._places.setdefault(place, number)
        return tuple([self._places[place] for place in places])

    def _is_known(self, place: Place) -> bool:
        if place in self._places:
            return True
        number = self._shipped.places.get(digest(place))
        if number is None:
            return False
        self._places[place] = number
        return True

    def learned(self) -> KnownSteps:
        """What is known by now, to be shipped."""
        places = {digest(place): number for place, number in self._places.items()}
        alone = {digest(plan): numbers for plan, numbers in self._alone.items()}
        return KnownSteps(
            tuple(self._steps),
            {**self._shipped.places, **places},
            {**self._shipped.alone, **alone},
        )

    def _number(self, step: Step) -> int:
        number = self._same.setdefault(step, len(self._steps))
        if number == len(self._steps):
            self._steps.append(step)
        return number

    def _trace(self, plan: Layout) -> Trace:
        arch, gpus = self._arch, self._gpus
        blocks = tuple(_block(arch, segment) for segment in plan)
        outside = _outside(arch, plan[0].device, self._output_device, gpus)
        graph = forward(arch, self._shape, blocks, outside)
        cache_type = cast("CacheType", self._shape.cache_kind.lower())
        on_host = self._padded and gpus > 0 and not runs_on_cuda(arch, cache_type)
        order = schedule(graph, gpus + 1, pipeline=self._pipeline, attention_on_host=on_host)
        return trace(order, gpus + 1, padded=self._padded, reach=reach(arch))


traced = lru_cache(maxsize=192)(Traced)
"""What is known of one model's graphs; it grows with each layout that is asked for."""


def _block(arch: Architecture, segment: Segment) -> Block:
    """One block with its tensors."""
    pattern = ELSEWHERE[segment.part] if segment.part else None
    tensors = []
    for group in tensor_groups(arch):
        if segment.start in group.blocks:
            moved = pattern is not None and pattern.match(group.name)
            device = segment.elsewhere if moved else segment.device
            tensors.append(Weight(group.name, group.shape, device))
    return Block(segment.start, segment.device, tuple(tensors), segment.cache_device)


def _outside(
    arch: Architecture, first_device: int, output_device: int, host: int
) -> tuple[Weight, ...]:
    """Tensors outside of blocks; a tied token embedding is the output matrix too."""
    found = []
    for group in tensor_groups(arch):
        if not group.blocks:
            device = host if INPUTS.match(group.name) else output_device
            if is_with_first_block(arch, group.name):
                device = first_device
            found.append(Weight(group.name, group.shape, device))
            if group.name == "token_embd.weight" and not arch.has_output:
                found.append(Weight("output.weight", group.shape, output_device))
    return tuple(found)
