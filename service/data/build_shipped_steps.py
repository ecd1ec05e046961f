"""Build ``service/tagfit/sizing/shipped_steps.xz``: what most first answers need of the graphs.

Asks ``/recommend``'s question for many machines, known ones and made-up ones, and keeps every step
of a graph that had to be traced for the answers.

Run: ``python service/data/build_shipped_steps.py``, some minutes. ``--check`` asks the first of the
questions again and says whether the file holds what they need.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from tagfit.advice.jobs import JOBS
from tagfit.advice.machine import Machine, PostedGpu, PostedHardware, read_machine
from tagfit.advice.recommend import RecommendRequest, recommend
from tagfit.catalog.library import load
from tagfit.sizing import compute, traced
from tagfit.sizing.shipped_steps import KnownSteps, digest, pack, unpack
from tagfit.speed.devices import known_devices
from tagfit.units import GIB, Bytes, Tokens

TARGET = Path(__file__).parents[1] / "tagfit" / "sizing" / "shipped_steps.xz"
QUESTIONS = 15_000
CHECKED = 250
CONTEXTS = (None, None, None, 4096, 8192, 8192, 16384, 32768, 32768, 65536, 131072)
"""More often what is more often asked: a judgement, as are the machines."""


def machine(source: random.Random) -> Machine:
    """A machine with a made-up GPU, a known one, two of a kind, or none."""
    (kind,) = source.choices(("made up", "known", "two", "none"), (55, 25, 8, 12))
    gpus: tuple[PostedGpu, ...] = ()
    if kind == "made up":
        gpus = (PostedGpu(memory=Bytes(source.randrange(3 * GIB, 100 * GIB))),)
    elif kind == "known":
        gpus = (PostedGpu(name=source.choice(known_devices()).name),)
    elif kind == "two":
        gpus = (PostedGpu(memory=Bytes(source.choice((8, 12, 16, 24, 48)) * GIB), count=2),)
    return read_machine(
        PostedHardware(gpus=gpus, memory=Bytes(source.randrange(8 * GIB, 256 * GIB)))
    )


def questions(source: random.Random) -> Iterator[tuple[RecommendRequest, Machine]]:
    """What is asked, without end."""
    while True:
        context = source.choice(CONTEXTS)
        request = RecommendRequest(
            use_case=source.choice(tuple(JOBS)),
            context_length=None if context is None else Tokens(context),
        )
        yield request, machine(source)


def learned(number: int) -> dict[int, KnownSteps]:
    """What the answers to so many questions need, nothing being known before."""
    known: dict[object, traced.Traced] = {}

    def kept(*key: Any, pipeline: bool, padded: bool) -> traced.Traced:
        full = (*key, pipeline, padded)
        if full not in known:
            known[full] = traced.Traced(*key, pipeline=pipeline, padded=padded)
        return known[full]

    catalog = load()
    with (
        patch.object(traced, "shipped_steps", lambda _: KnownSteps()),
        patch.object(compute, "traced", kept),
    ):
        for request, here in islice(questions(random.Random(1)), number):
            recommend(catalog, request, here)
    return {digest(one.key): one.learned() for one in known.values()}


def differences() -> Iterator[str]:
    """Where the file is not what its first questions make it."""
    shipped = unpack(TARGET.read_bytes())
    for model, known in learned(CHECKED).items():
        if model not in shipped:
            yield f"nothing is known of {model}"
            continue
        found = msgspec.msgpack.decode(shipped[model], type=KnownSteps)
        for place, number in known.places.items():
            if place not in found.places:
                yield f"{model}: nothing is known of {place}"
            elif found.steps[found.places[place]] != known.steps[number]:
                yield f"{model}: another step at {place}"
        for plan, numbers in known.alone.items():
            steps = [found.steps[number] for number in found.alone.get(plan, ())]
            if steps != [known.steps[number] for number in numbers]:
                yield f"{model}: other steps in {plan}"


def main() -> int:
    """Write the target, or compare it."""
    if "--check" in sys.argv[1:]:
        found = list(differences())
        print("\n".join(found[:10]))
        return int(bool(found))
    TARGET.write_bytes(pack(learned(QUESTIONS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
