"""Build ``service/tagfit/quality/capability.json``: benchmarks on one scale for each use.

From ``sources/benchmarks.json`` (leaderboards) and ``sources/model_cards.toml`` (what makers
published), each table with its source and date, and the catalog (sizes and dates of the
checkpoints). For each use the benchmarks that bear on it are taken to be straight lines over
one hidden ability, and abilities and lines are fitted together by least squares (alternating,
benchmarks weighted by how much they bear on the use). A checkpoint with few results is held
near to what its size and age let expect. The ability is then stretched so that the best of the
library is 1 and the weakest twentieth 0.1.

A checkpoint without results of the use gets what is usual for its size and age and for its family,
less one standard deviation of what such a guess misses: what is measured goes before a promise.

Run: ``python service/data/build_capability.py``; ``--check`` only says if it is up to date.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable
from datetime import date
from math import log2
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any, NamedTuple

from tagfit.catalog.library import Model, load
from tagfit.quality.capability import checkpoint
from tagfit.sizing.tensors import tensor_groups

SOURCES = Path(__file__).parent / "sources"
PACKAGE = Path(__file__).parents[1] / "tagfit"
TARGET = PACKAGE / "quality" / "capability.json"

GENERAL = (
    "compiled_index",
    "aa_index",
    "ifeval",
    "mmlu_pro",
    "bbh",
    "math_lvl5",
    "gpqa",
    "arena_text",
    "arena_hard",
    "livebench_",
)
CODE = (
    "compiled_coding",
    "humaneval",
    "mbpp_plus",
    "multipl_e",
    "aider_",
    "livebench_coding_",
    "livecodebench",
    "swe_",
)
INFILL = ("fim_", "base_")
WEIGHTS: dict[str, dict[str, float]] = {
    "chat": dict.fromkeys(GENERAL, 1.0)
    | {"arena_text": 3.0, "arena_hard": 1.5, "livebench_": 2.5, "livebench_coding_": 0.5}
    | {"mmlu_pro_card": 0.5, "compiled_index": 2.0, "aa_index": 2.0},
    "code": dict.fromkeys(CODE, 2.0)
    | {"humaneval_plus_report": 1.0, "mbpp_plus_report": 1.0, "multipl_e": 1.0, "swe_": 1.0}
    | {"compiled_coding": 2.0}
    | dict.fromkeys(GENERAL, 0.15)
    | {"compiled_index": 0.5, "aa_index": 0.5},
    "autocomplete": {"fim_": 3.0, "base_": 1.0, "mmlu_pro": 0.1},
    "agent": {"bfcl_": 3.0, "tau": 3.0, "swe_": 1.5, "ifeval": 1.0, "aider_polyglot": 1.0}
    | dict.fromkeys(("livebench_", "mmlu_pro"), 0.5)
    | {"compiled_agent": 1.5, "compiled_index": 0.5, "aa_index": 1.0},
    "embedding": {"mteb_": 1.0},
    "vision": {
        "compiled_vision": 2.0,
        "vlm_local": 2.0,
        "arena_vision": 2.0,
        "mmmu": 2.0,
        "docvqa": 1.0,
        "mathvista": 1.0,
    },
}
"""By the beginning of a benchmark's key (the longest that fits): how much it bears on the use.

Judgements. Two runs of one benchmark share its weight; what a maker ran alone counts less.
"""
DECISIVE: dict[str, tuple[str, ...]] = {
    "chat": GENERAL,
    "code": CODE,
    "autocomplete": INFILL,
    "agent": ("bfcl_", "tau", "swe_", "compiled_agent"),
    "embedding": ("mteb_",),
    "vision": ("compiled_vision", "vlm_local", "arena_vision", "mmmu", "docvqa", "mathvista"),
}
"""A score needs one of these; the others only sharpen it."""
WITHOUT_THINKING = ("ifeval", "mmlu_pro", "bbh", "math_lvl5", "gpqa")
"""The Open LLM Leaderboard left models no room to think: its results for those are not used."""
THINKERS = ("deepseek-r1/", "qwq/", "openthinker/", "marco-o1/", "smallthinker/")
HELD = 1.0
"""Weight of the expectation from size and age, as of one benchmark of weight 1."""
DOUBT = dict.fromkeys(WEIGHTS, 1.0) | {"autocomplete": 2.0}
"""Standard deviations that a guess is put lower. Those that were measured at infilling are made for
code; the others do it poorly (https://docs.continue.dev/advanced/model-roles/autocomplete).
"""
STEPS = dict.fromkeys(WEIGHTS, 1) | {"agent": 2}
"""Answers that have to succeed one after another: an agent's run is many, and one that is wrong
breaks it. That it counts as two and not as ten is a judgement."""
MOST_GUESSED = 0.85
"""A judgement: no guess is among the best."""
ROUNDS = 200
LEAST_SHARED = 3
"""A benchmark is used where so many checkpoints took it."""

Points = dict[str, dict[str, float]]
Traits = tuple[float, float]
Law = tuple[float, ...]


def weight_of(use: str, benchmark: str) -> float:
    """How much a benchmark bears on a use."""
    fitting = [key for key in WEIGHTS[use] if benchmark.startswith(key)]
    return WEIGHTS[use][max(fitting, key=len)] if fitting else 0.0


def active_parameters(model: Model) -> float:
    """Parameters that one token passes through: of its experts only those that are chosen.

    A table that is looked up for each layer (Gemma's per-layer embeddings) counts for nothing.
    """
    arch = model.architecture
    share = arch.expert_used_count / arch.expert_count if arch.expert_count else 1.0
    shares = {"_exps.": share, "per_layer_token_embd": 0.0}
    return sum(
        group.elements
        * group.count
        * next((part for key, part in shares.items() if key in group.name), 1.0)
        for group in tensor_groups(arch)
    )


def day(text: str) -> date:
    """A day, a month or a year, at its beginning."""
    return date.fromisoformat((text + "-01-01")[:10])


def traits() -> dict[str, Traits]:
    """log2 of billions of parameters and years after 2023 of each checkpoint.

    A mixture of experts counts as the geometric mean of all and of the active ones: a rule of
    thumb, no measurement.
    """
    return {
        name_of(model): (
            log2((model.parameters * active_parameters(model)) ** 0.5 / 1e9),
            (day(model.released) - date(2023, 1, 1)).days / 365.25,
        )
        for model in load().models
    }


def name_of(model: Model) -> str:
    """The key of a checkpoint in the sources."""
    return f"{model.family}/{model.size}/{model.variant}"


def terms(trait: Traits) -> tuple[float, ...]:
    """Of the law: size, age, and how size has come to count for more."""
    size, years = trait
    return 1.0, size, years, size * years


def fit(rows: list[tuple[Traits, float]]) -> Law:
    """The weights of the terms by least squares (Gaussian elimination)."""
    columns = range(len(terms(rows[0][0])))
    matrix = [
        [
            sum(terms(trait)[i] * terms(trait)[j] for trait, _ in rows) + 1e-9 * (i == j)
            for j in columns
        ]
        + [sum(terms(trait)[i] * value for trait, value in rows)]
        for i in columns
    ]
    for i in columns:
        matrix[i] = [value / matrix[i][i] for value in matrix[i]]
        for j in columns:
            if j != i:
                factor = matrix[j][i]
                matrix[j] = [x - factor * y for x, y in zip(matrix[j], matrix[i], strict=True)]
    return tuple(row[-1] for row in matrix)


def line(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope (never negative) of y over x."""
    mean_x, mean_y = (fmean(column) for column in zip(*pairs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in pairs) + 0.05
    slope = max(sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread, 0.2)
    return mean_y - slope * mean_x, slope


def usual(law: Law, trait: Traits) -> float:
    """The ability that size and age let expect."""
    return sum(weight * term for weight, term in zip(law, terms(trait), strict=True))


def abilities(
    points: Points, weights: dict[str, float], known: dict[str, Traits]
) -> tuple[dict[str, float], Law]:
    """The hidden ability of each model that took any benchmark, and its law of size and age."""
    standard = {}
    for benchmark, rows in points.items():
        middle, spread = fmean(rows.values()), pstdev(rows.values()) or 1.0
        standard[benchmark] = {name: (value - middle) / spread for name, value in rows.items()}
    names = sorted({name for rows in standard.values() for name in rows})
    ability = {
        name: fmean(rows[name] for rows in standard.values() if name in rows) for name in names
    }
    law: Law = ()
    for _ in range(ROUNDS):
        law = fit([(known[name], ability[name]) for name in names])
        lines = {
            benchmark: line([(ability[name], value) for name, value in rows.items()])
            for benchmark, rows in standard.items()
        }
        updated = {}
        for name in names:
            top, bottom = HELD * usual(law, known[name]), HELD
            for benchmark, rows in standard.items():
                if name in rows:
                    intercept, slope = lines[benchmark]
                    top += weights[benchmark] * slope * (rows[name] - intercept)
                    bottom += weights[benchmark] * slope * slope
            updated[name] = top / bottom
        middle, spread = fmean(updated.values()), pstdev(updated.values())
        ability = {name: (value - middle) / spread for name, value in updated.items()}
    return ability, law


def family_gain(name: str, residuals: dict[str, float]) -> float | None:
    """What the measured others of a family are above the usual, held near to nothing."""
    family = name.split("/", maxsplit=1)[0]
    others = [
        r for other, r in residuals.items() if other != name and other.startswith(family + "/")
    ]
    return sum(others) / (len(others) + 1) if others else None


class Scale(NamedTuple):
    """Ability to score: the best is 1 and the weakest twentieth 0.1, for each step of the use."""

    weakest: float
    stretch: float
    steps: int

    def score(self, ability: float, most: float = 1.0) -> float:
        """Within 0.02 and the most, at each step."""
        step = min(max(0.1 + self.stretch * (ability - self.weakest), 0.02), most)
        return round(step**self.steps, 4)


def scale_of(measured: Iterable[float], steps: int) -> Scale:
    """The scale on which the measured lie."""
    ranked = sorted(measured)
    weakest = ranked[len(ranked) // 20]
    return Scale(weakest, 0.9 / (ranked[-1] - weakest), steps)


class Expectation(NamedTuple):
    """What size, age and family let expect of a use, and how far the measured are from it."""

    law: Law
    latest: float
    residuals: dict[str, float]
    doubt: float
    """Standard deviations."""

    @property
    def deviation(self) -> float:
        """Of the measured from the law."""
        return pstdev(self.residuals.values())

    @property
    def family_deviation(self) -> float:
        """Of the measured from the law and their family's gain."""
        gains = ((name, family_gain(name, self.residuals)) for name in self.residuals)
        return pstdev([self.residuals[name] - gain for name, gain in gains if gain is not None])

    def guess(self, trait: Traits, gain: float | None, hint: float | None) -> float:
        """The ability to be expected, less the doubt; ``hint``: from results that bear a little."""
        size, years = trait
        expected = usual(self.law, (size, min(years, self.latest))) + (gain or 0.0)
        if hint is not None:
            expected = (expected + hint) / 2
        missed = self.doubt * self.deviation if gain is None else self.family_deviation
        return expected - missed


def build_use(
    use: str, points: Points, known: dict[str, Traits], capable: set[str]
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Scores of the measured, guesses for the other capable ones, the law for unknown ones."""
    weights = {name: weight_of(use, name) for name in points}
    used = {
        name: {model: value for model, value in rows.items() if model in known}
        for name, rows in points.items()
        if weights[name]
    }
    used = {name: rows for name, rows in used.items() if len(rows) >= LEAST_SHARED}
    ability, law = abilities(used, weights, known)
    measured = {
        name: ability[name]
        for name in sorted(ability)
        if any(name in rows and key.startswith(DECISIVE[use]) for key, rows in used.items())
    }
    scale = scale_of(measured.values(), STEPS[use])
    residuals = {name: value - usual(law, known[name]) for name, value in measured.items()}
    latest = max(known[name][1] for name in measured)
    expectation = Expectation(law, latest, residuals, DOUBT[use])
    guesses = {
        name: scale.score(
            expectation.guess(known[name], family_gain(name, residuals), ability.get(name)),
            MOST_GUESSED,
        )
        for name in sorted(capable - measured.keys())
    }
    prior = {
        "law": [
            round(0.1 + scale.stretch * (law[0] - scale.weakest), 4),
            *(round(scale.stretch * weight, 4) for weight in law[1:]),
        ],
        "steps": STEPS[use],
        "latest": round(latest, 2),
        "doubt": round(scale.stretch * DOUBT[use] * expectation.deviation, 4),
        "models": len(ability),
    }
    return {name: scale.score(value) for name, value in measured.items()}, guesses, prior


NEEDED = dict.fromkeys(WEIGHTS, "chat") | {
    "autocomplete": "insert",
    "embedding": "embedding",
    "vision": "vision",
}
"""What a checkpoint must be able to do before it is guessed how well."""


def capable(use: str) -> set[str]:
    """The checkpoints of the library that can serve a use, but for versions of another."""
    return {
        name_of(model)
        for model in load().models
        if NEEDED[use] in model.capabilities
        and checkpoint(model.family, model.size, model.variant) == name_of(model)
    }


def build() -> str:
    """The text of the target."""
    tables = json.loads((SOURCES / "benchmarks.json").read_text())["tables"]
    tables += tomllib.loads((SOURCES / "model_cards.toml").read_text())["tables"]
    known = traits()
    points: Points = {}
    origin: dict[tuple[str, str], int] = {}
    for number, table in enumerate(tables):
        benchmark = table["benchmark"]
        for name, value in table["rows"].items():
            if not (benchmark in WITHOUT_THINKING and name.startswith(THINKERS)):
                points.setdefault(benchmark, {})[name] = value
                origin[benchmark, name] = number
    models: dict[str, dict[str, Any]] = {
        name: {
            "points": {
                key: [rows[name], origin[key, name]] for key, rows in points.items() if name in rows
            },
            "scores": {},
            "evidence": {},
        }
        for name in sorted({name for rows in points.values() for name in rows})
    }
    priors, guesses = {}, {}
    for use in WEIGHTS:
        scores, guesses[use], priors[use] = build_use(use, points, known, capable(use))
        for name, score in scores.items():
            model = models[name]
            model["scores"][use] = score
            taken = [key for key in model["points"] if weight_of(use, key)]
            model["evidence"][use] = sorted(taken, key=lambda key: (-weight_of(use, key), key))
    thinking = tomllib.loads((SOURCES / "thinking.toml").read_text())
    shares = [
        without / with_thoughts
        for without, with_thoughts in (row["indices"] for row in thinking["without"])
    ]
    kept = median(shares)
    thinking["kept_without"] |= {
        "usual" if steps == 1 else use: round(kept**steps, 2) for use, steps in STEPS.items()
    } | thinking["kept_without"]
    del thinking["without"]
    about = [{key: table[key] for key in ("title", "date", "source")} for table in tables]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in models.items())
    return (
        f'{{"tables": {json.dumps(about, ensure_ascii=False, indent=0)},\n'
        f'"priors": {json.dumps(priors)},\n"guesses": {json.dumps(guesses, indent=0)},\n'
        f'"thinking": {json.dumps(thinking, indent=0)},\n'
        f'"models": {{\n{lines}\n}}}}\n'
    )


def main() -> int:
    """Write the target, or compare it."""
    if "--check" in sys.argv[1:]:
        return int(TARGET.read_text() != build())
    TARGET.write_text(build())
    return 0


if __name__ == "__main__":
    sys.exit(main())
