"""Rules that hold for every model and machine."""

from itertools import pairwise

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tagfit.advice.estimate import EstimateRequest, Subject, estimate, read_subject
from tagfit.advice.ladder import ladder
from tagfit.advice.machine import Machine, PostedGpu, PostedHardware, read_machine
from tagfit.advice.recommend import RecommendRequest, recommend
from tagfit.catalog.library import load
from tagfit.problems import InvalidRequest
from tagfit.sizing.mixtures import FILE_TYPES
from tagfit.units import GIB, Bytes, Tokens

CATALOG = load()
LOCAL = [
    tag.name
    for model in CATALOG.models
    for tag in model.tags
    if tag.quantization in ("Q4_K_M", "Q8_0") and tag.kind == "gguf"
]
CACHE_TYPES = ("q4_0", "q8_0", "f16", "f32")
LADDERS = {
    "K_S": ("Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K"),
    "K_M": ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K"),
    "K_L": ("Q2_K", "Q3_K_L", "Q6_K"),
    "legacy": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "F32"),
}

machines = st.builds(
    lambda name, vram, gpus, ram: read_machine(
        PostedHardware(
            gpus=(PostedGpu(name=name, memory=Bytes(vram * GIB)),) * gpus, memory=Bytes(ram * GIB)
        )
    ),
    name=st.sampled_from((None, "RTX 3090", "RX 7900 XTX", "Arc A770", "M3 Max")),
    vram=st.integers(2, 80),
    gpus=st.integers(0, 3),
    ram=st.integers(4, 256),
)


def needed(subject: Subject, request: EstimateRequest, machine: Machine) -> int:
    try:
        return estimate(subject, request, machine, "chat").memory.total_bytes
    except InvalidRequest as error:
        if "cannot hold heads" not in error.detail:  # a cache type's blocks may not divide a head
            raise
        reject()


@settings(max_examples=30, deadline=None)
@given(
    tag=st.sampled_from(LOCAL),
    machine=machines,
    parallel=st.integers(1, 4),
    contexts=st.lists(st.integers(256, 32768), min_size=2, max_size=2),
    cache=st.sampled_from(CACHE_TYPES),
    layers=st.sampled_from((0, 10_000)),
)
def test_more_context_never_needs_less(
    tag: str, machine: Machine, parallel: int, contexts: list[int], cache: str, layers: int
) -> None:
    """Batches and layers being the same: Ollama itself takes larger batches for longer ones."""
    totals = []
    for context in sorted(contexts):
        request = EstimateRequest(
            model=tag,
            context_length=Tokens(context),
            parallel=parallel,
            kv_cache_type=cache,  # type: ignore[arg-type]
            batch_size=256,
            micro_batch_size=256,
            offloaded_layers=layers,
        )
        totals.append(needed(read_subject(CATALOG, request), request, machine))

    assert totals[0] <= totals[1]


@settings(max_examples=30, deadline=None)
@given(tag=st.sampled_from(LOCAL), context=st.integers(256, 32768), cache=st.integers(1, 3))
def test_a_wider_cache_never_needs_less(tag: str, context: int, cache: int) -> None:
    machine = read_machine(PostedHardware(memory=Bytes(64 * GIB)))
    totals = []
    for kind in (CACHE_TYPES[cache - 1], CACHE_TYPES[cache]):
        request = EstimateRequest(
            model=tag,
            context_length=Tokens(context),
            kv_cache_type=kind,  # type: ignore[arg-type]
        )
        totals.append(needed(read_subject(CATALOG, request), request, machine))

    assert totals[0] <= totals[1]


@settings(max_examples=30, deadline=None)
@given(tag=st.sampled_from(LOCAL), machine=machines, parallel=st.integers(1, 3))
def test_more_requests_at_once_never_need_less(tag: str, machine: Machine, parallel: int) -> None:
    """Of cache; the scores of one stream are narrower than those of a single long one."""
    totals = []
    for count in (parallel, parallel + 1):
        request = EstimateRequest(
            model=tag,
            context_length=Tokens(4096),
            parallel=count,
            batch_size=512,
            micro_batch_size=512,
            offloaded_layers=0,
        )
        totals.append(needed(read_subject(CATALOG, request), request, machine))

    assert totals[0] <= totals[1]


@pytest.mark.parametrize("scheme", LADDERS)
def test_a_higher_level_of_a_scheme_is_never_smaller(scheme: str) -> None:
    """By today's rules, for every checkpoint of the catalog.

    One exception is real: where rows are no multiple of 256, Q2_K and Q3_K alike fall back to
    Q4_0, and Q2_K gives attn_v and others more bits than Q3_K_S does.
    """
    for model in CATALOG.models:
        sizes = {rung.quantization: rung.tensor_bytes for rung in ladder(replace(model, tags=()))}
        for lower, higher in pairwise(LADDERS[scheme]):
            uneven = model.architecture.embedding_length % 256 != 0
            if not (uneven and (lower, higher) == ("Q2_K", "Q3_K_S")):
                assert sizes[lower] <= sizes[higher], (model.family, model.size, lower, higher)


@settings(max_examples=12, deadline=None)
@given(
    machine=machines,
    use_case=st.sampled_from(("chat", "code", "autocomplete", "agent")),
    limit=st.integers(1, 8),
)
def test_every_recommendation_exists_and_fits_its_machine_in_order_of_score(
    machine: Machine, use_case: str, limit: int
) -> None:
    found = recommend(CATALOG, RecommendRequest(use_case=use_case, limit=limit), machine)  # type: ignore[arg-type]

    for one in found.recommendations:
        assert one.estimate.fit.verdict != "none"
        for device in one.estimate.memory.devices:
            assert device.total_bytes <= device.available_bytes
        assert CATALOG.find(one.tag)[1].name == one.tag
    scores = [one.score for one in found.recommendations]
    assert scores == sorted(scores, reverse=True)
    assert [one.rank for one in found.recommendations] == list(range(1, len(scores) + 1))


@settings(max_examples=8, deadline=None)
@given(machine=machines)
def test_a_stricter_limit_never_adds_a_candidate(machine: Machine) -> None:
    loose = recommend(CATALOG, RecommendRequest(limit=20), machine)
    strict = recommend(
        CATALOG,
        RecommendRequest(limit=20, require_full_gpu=True, max_download=Bytes(8 * GIB)),
        machine,
    )

    assert len(strict.recommendations) <= len(loose.recommendations)


def test_every_file_type_of_a_model_is_on_its_ladder() -> None:
    model, _ = CATALOG.find("codellama:7b")
    rungs = {rung.quantization for rung in ladder(model)}

    assert rungs == set(FILE_TYPES)
