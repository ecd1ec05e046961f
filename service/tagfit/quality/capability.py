"""How good a model is at a use, from published benchmarks; and a guess where there are none.

``capability.json`` is built by ``service/data/build_capability.py``: benchmarks of different
kinds and years are put on one scale by what models that took several of them got, and each
model's place on it is kept with the published points that it rests on. A model of the library that
took none is guessed by its size, age and family, and put lower for doubt; any other by ``prior``.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from importlib.resources import files
from math import log2
from typing import Literal

import msgspec

UseCase = Literal["chat", "code", "autocomplete", "agent", "embedding", "vision"]


class Points(msgspec.Struct, frozen=True):
    """What one benchmark found, as published."""

    benchmark: str
    points: float
    date: str
    """Of publication, ISO 8601, sometimes only the month."""
    source: str


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model is at a use."""

    use_case: UseCase
    score: float
    """0 to 1: 1 is the best of the library, 0.1 one that is hardly of use."""
    basis: Literal["measured", "prior"]
    """measured: from this checkpoint's published results; prior: from its size and age alone."""
    points: tuple[Points, ...]
    explanation: str


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes that a model thinks before it answers."""

    length: float
    """Tokens of an everyday answer with its thoughts, over those without: a judgement."""
    optional: bool
    """It can be told not to think (Ollama's ``"think": false``)."""
    kept_without: float
    """The part of the ability that is left where it is told so."""


class _Table(msgspec.Struct, frozen=True):
    title: str
    date: str
    source: str


class _Model(msgspec.Struct, frozen=True):
    points: dict[str, tuple[float, int]]
    """By the benchmark's key: the figure, and in which table it was published."""
    scores: dict[UseCase, float]
    evidence: dict[UseCase, tuple[str, ...]]
    """The benchmarks that each score rests on."""


class _Prior(msgspec.Struct, frozen=True):
    law: tuple[float, float, float, float]
    """Weights of 1, log2 of billions of parameters, years after 2023, and the two's product."""
    steps: int
    """Power of it that is the score: how many answers have to succeed."""
    latest: float
    """Years after 2023 of the newest that it was fitted on: newer ones are no better for it."""
    doubt: float
    """A guess is put so much lower."""
    models: int
    """That it was fitted on."""


class _Always(msgspec.Struct, frozen=True):
    families: frozenset[str]
    words: frozenset[str]


class _Thinking(msgspec.Struct, frozen=True):
    lengths: dict[str, float]
    """By family or family/size; ``usual`` for the others."""
    always: _Always
    kept_without: dict[str, float]
    """By use; ``usual`` for the others."""


class _Data(msgspec.Struct, frozen=True):
    tables: tuple[_Table, ...]
    models: dict[str, _Model]
    """By family/size/variant."""
    guesses: dict[UseCase, dict[str, float]]
    """Of models without results, by family/size/variant."""
    priors: dict[UseCase, _Prior]
    thinking: _Thinking


def checkpoint(family: str, size: str, variant: str) -> str:
    """family/size/variant without what is another form of the same checkpoint.

    Quantization-aware training aims at the same answers from fewer bits, prediction layers
    (MTP) at the same answers sooner: they are not better or worse models.
    """
    kept = [part for part in variant.split("-") if part not in FORMS]
    return f"{family}/{size}/{'-'.join(kept)}"


FORMS = ("qat", "mtp")


@lru_cache(maxsize=4096)
def capability(family: str, size: str, variant: str, use_case: UseCase) -> Capability | None:
    """What benchmarks say of a checkpoint of the library, or else of its size, age and family.

    None where nothing is known: it is not in the library, or cannot serve the use.
    """
    name = f"{family}/{size}/{variant}"
    same = checkpoint(family, size, variant)
    if name not in _data().models:
        name = same
    model = _data().models.get(name)
    if model is None or use_case not in model.scores:
        return _guess(same, use_case)
    points = []
    for key in model.evidence[use_case]:
        figure, number = model.points[key]
        table = _data().tables[number]
        points.append(Points(table.title, figure, table.date, table.source))
    named = "; ".join(f"{point.benchmark}: {point.points:g}" for point in points[:3])
    more = f" and {len(points) - 3} more" if len(points) > 3 else ""
    return Capability(
        use_case=use_case,
        score=model.scores[use_case],
        basis="measured",
        points=tuple(points),
        explanation=f"published results for {use_case}: {named}{more}",
    )


def _guess(name: str, use_case: UseCase) -> Capability | None:
    score = _data().guesses[use_case].get(name)
    if score is None:
        return None
    return Capability(
        use_case=use_case,
        score=score,
        basis="prior",
        points=(),
        explanation=(
            f"no published results for {use_case} known: usual for its size, age and family,"
            " put lower for doubt"
        ),
    )


@lru_cache(maxsize=4096)
def prior(parameters: int, released: str, use_case: UseCase) -> Capability:
    """What a checkpoint of this size and age usually reaches, put lower for doubt."""
    law = _data().priors[use_case]
    text = f"{released}-01-01"[:10] if len(released) == 4 else f"{released}-01"[:10]
    years = (date.fromisoformat(text) - date(2023, 1, 1)).days / 365.25
    size, years = log2(parameters / 1e9), min(years, law.latest)
    terms = (1.0, size, years, size * years)
    expected = sum(weight * term for weight, term in zip(law.law, terms, strict=True))
    return Capability(
        use_case=use_case,
        score=round(min(max(expected - law.doubt, 0.02), 0.95) ** law.steps, 4),
        basis="prior",
        points=(),
        explanation=(
            f"no published results known: usual for {parameters / 1e9:.3g} billion parameters"
            f" of {released[:7]}, as {law.models} measured models go, put lower for doubt"
        ),
    )


@lru_cache(maxsize=1024)
def thinking(
    family: str,
    size: str,
    variant: str,
    capabilities: tuple[str, ...],
    use_case: UseCase = "chat",
) -> Thinking | None:
    """How much longer the answers of a model are for its thinking; None where it does not think."""
    known = _data().thinking
    always = family in known.always.families or not known.always.words.isdisjoint(
        variant.split("-")
    )
    if not always and "thinking" not in capabilities:
        return None
    lengths = known.lengths
    return Thinking(
        length=lengths.get(f"{family}/{size}", lengths.get(family, lengths["usual"])),
        optional=not always,
        kept_without=known.kept_without.get(use_case, known.kept_without["usual"]),
    )


@lru_cache(maxsize=1)
def _data() -> _Data:
    data = files("tagfit.quality").joinpath("capability.json").read_bytes()
    return msgspec.json.decode(data, type=_Data)
