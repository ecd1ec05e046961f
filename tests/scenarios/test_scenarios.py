"""What an expert would look for in the answer for a machine and a use: ``scenarios.toml``.

The rules of a use hold for each of its scenarios; the class of size, expected families and the
floor of speed are the scenario's own, from public advice.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tagfit.advice.estimate import EstimateRequest, estimate, read_subject
from tagfit.advice.machine import Machine, PostedHardware, read_machine
from tagfit.advice.recommend import Recommendation, RecommendRequest, recommend
from tagfit.catalog.library import Catalog, Model, Tag, load
from tagfit.quality.capability import UseCase, checkpoint
from tagfit.units import Tokens, decode_quantity

TABLE = tomllib.loads((Path(__file__).parent / "scenarios.toml").read_text())
USES: tuple[UseCase, ...] = ("chat", "code", "autocomplete", "agent", "embedding", "vision")


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the table."""

    machine: str
    use_case: UseCase
    size: tuple[float, float]
    families: tuple[str, ...]
    least: int
    sources: tuple[str, ...]
    on_gpu: bool = False
    speed: float = 0

    @property
    def name(self) -> str:
        """As pytest shows it."""
        return f"{self.machine}-{self.use_case}"


SCENARIOS = msgspec.convert(TABLE["scenarios"], tuple[Scenario, ...])
CONVERSED: tuple[UseCase, ...] = ("chat", "code", "agent", "vision")
NEEDED: dict[UseCase, set[str]] = {
    "chat": {"chat"},
    "code": {"chat"},
    "autocomplete": {"insert"},
    "agent": {"chat", "tools"},
    "embedding": {"embedding"},
    "vision": {"chat", "vision"},
}
USUAL_CONTEXT = 8192
CODE_FAMILIES = {
    *("qwen2.5-coder", "qwen3-coder", "codestral", "deepseek-coder", "deepseek-coder-v2"),
    *("starcoder", "starcoder2", "codegemma", "codellama", "codeqwen", "granite-code"),
    *("stable-code", "codegeex4", "opencoder", "yi-coder"),
}
"""Made to complete code; of the others, advice (``fim``) says that they do it poorly."""
LINES = (
    ("qwen", "qwen2", "qwen2.5", "qwen3", "qwen3.5", "qwen3.6"),
    ("qwen2.5vl", "qwen3-vl", "qwen3.5", "qwen3.6"),
    ("gemma", "gemma2", "gemma3", "gemma4"),
    ("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"),
    ("granite3-dense", "granite3.1-dense", "granite3.2", "granite3.3", "granite4", "granite4.1"),
    ("phi", "phi3", "phi3.5", "phi4"),
    ("mistral-small", "mistral-small3.1", "mistral-small3.2"),
    ("devstral", "devstral-small-2"),
    ("laguna-xs.2", "laguna-xs-2.1"),
    ("nomic-embed-text", "nomic-embed-text-v2-moe"),
    ("snowflake-arctic-embed", "snowflake-arctic-embed2"),
)
"""Generations of one maker's line, oldest first (the pages of the Ollama library)."""


def machine_of(scenario: Scenario) -> Machine:
    posted = TABLE["machines"][scenario.machine]
    return read_machine(msgspec.convert(posted, PostedHardware, dec_hook=decode_quantity))


@lru_cache(maxsize=256)
def answer(scenario: Scenario, **narrowed: Any) -> tuple[Recommendation, ...]:
    request = RecommendRequest(use_case=scenario.use_case, **narrowed)
    return recommend(catalog(), request, machine_of(scenario)).recommendations


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    return load()


def found(one: Recommendation) -> tuple[Model, Tag]:
    model, tag = catalog().find(one.tag)
    assert model is not None
    return model, tag


def named(scenario: Scenario) -> list[str]:
    return [one.tag for one in answer(scenario)]


def each(*uses: UseCase) -> pytest.MarkDecorator:
    rows = [one for one in SCENARIOS if one.use_case in uses]
    return pytest.mark.parametrize("scenario", rows, ids=[one.name for one in rows])


def test_the_table_is_wide_enough() -> None:
    """At least 40 machines x uses, every use, and nothing in it that is not used or sourced."""
    assert len({one.name for one in SCENARIOS}) == len(SCENARIOS) >= 40
    assert {one.use_case for one in SCENARIOS} == set(USES)
    assert {one.machine for one in SCENARIOS} == set(TABLE["machines"])
    assert {key for one in SCENARIOS for key in one.sources} == set(TABLE["sources"])
    assert all(source["url"].startswith("https://") for source in TABLE["sources"].values())


def test_expected_families_are_in_the_library() -> None:
    families = {family.name for family in catalog().families}

    assert {name for one in SCENARIOS for name in one.families} <= families
    assert {name for line in LINES for name in line} <= families


@each(*USES)
def test_there_are_five_and_each_can_do_it_and_be_pulled(scenario: Scenario) -> None:
    five = answer(scenario)

    assert len(five) == 5
    for one in five:
        model, tag = found(one)
        assert NEEDED[scenario.use_case] <= set(model.capabilities), one.tag
        assert tag.kind == "gguf", one.tag
        assert one.estimate.fit.verdict != "none", one.tag


@each("agent")
def test_an_agent_has_32k_tokens_of_context(scenario: Scenario) -> None:
    assert all(one.estimate.runtime.context_length >= 32768 for one in answer(scenario))


@each(*CONVERSED)
def test_none_is_years_old(scenario: Scenario) -> None:
    """Two years before the snapshot there was nothing that would be recommended now."""
    assert all(found(one)[0].released >= "2024-07" for one in answer(scenario)), named(scenario)


@each("autocomplete")
def test_those_that_complete_first_are_code_models(scenario: Scenario) -> None:
    first = [found(one)[0].family for one in answer(scenario)[:3]]

    assert set(first) <= CODE_FAMILIES, named(scenario)


@each(*USES)
def test_each_checkpoint_is_named_once(scenario: Scenario) -> None:
    models = [found(one)[0] for one in answer(scenario)]
    checkpoints = [checkpoint(one.family, one.size, one.variant) for one in models]

    assert len(set(checkpoints)) == len(checkpoints), named(scenario)


@each(*CONVERSED)
def test_no_bits_are_wasted_or_begrudged(scenario: Scenario) -> None:
    """Q4 to Q8, as all advice says: below is a makeshift, 16 bits show no gain."""
    for one in answer(scenario):
        model, tag = found(one)
        level = tag.quantization or ""
        assert not level.startswith(("Q2", "Q3", "IQ")), one.tag
        assert model.parameters < 1e9 or level not in {"F16", "BF16"}, one.tag


@each(*USES)
def test_no_newer_generation_of_the_size_would_do_as_well(scenario: Scenario) -> None:
    """The first is not passed over by its own line at its own size."""
    first = answer(scenario)[0]
    model = found(first)[0]
    newer = tuple(
        {
            name
            for line in LINES
            if model.family in line
            for name in line[line.index(model.family) + 1 :]
        }
    )
    if not newer:
        return
    for other in answer(scenario, families=tuple(sorted(newer)), limit=10):
        rival = found(other)[0]
        alike = 0.75 <= rival.parameters / model.parameters <= 1.33 and (
            bool(rival.architecture.expert_count) == bool(model.architecture.expert_count)
        )
        assert not (alike and other.estimate.fit.verdict == first.estimate.fit.verdict), (
            f"{first.tag} before {other.tag}"
        )


@each(*USES)
def test_the_first_is_of_the_class_that_advice_names(scenario: Scenario) -> None:
    least, most = scenario.size
    model = found(answer(scenario)[0])[0]

    assert least <= model.parameters / 1e9 <= most, named(scenario)


@each(*USES)
def test_what_advice_names_is_among_the_five(scenario: Scenario) -> None:
    families = [found(one)[0].family for one in answer(scenario)]

    assert sum(name in scenario.families for name in families) >= scenario.least, named(scenario)


@each(*USES)
def test_the_first_lies_on_the_gpu_where_a_good_one_does(scenario: Scenario) -> None:
    first = answer(scenario)[0]

    assert not scenario.on_gpu or first.estimate.fit.verdict == "gpu", named(scenario)


@each(*USES)
def test_the_first_is_fast_enough(scenario: Scenario) -> None:
    """At no more than the context that published rates are of, where the answer's is longer."""
    first = answer(scenario)[0]
    context = min(first.estimate.runtime.context_length, USUAL_CONTEXT)
    asked = EstimateRequest(model=first.tag, context_length=Tokens(context))
    subject = read_subject(catalog(), asked)
    found = estimate(subject, asked, machine_of(scenario), scenario.use_case)
    assert found.speed is not None
    rate = found.speed.generation_tokens_per_second.expected

    assert rate >= scenario.speed, (first.tag, rate)
