"""The type and the bytes of every tensor in every file type."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tagfit.facts import Architecture, StoredTensors, Weights
from tagfit.sizing.generations import DEFAULT_TYPES, MIXTURES
from tagfit.sizing.mixtures import (
    FILE_TYPES,
    NotQuantizable,
    file_bytes,
    file_type,
    more,
    weights,
)
from tagfit.sizing.tensors import tensor_groups
from tests.oracle.specimens import SPECIMENS
from tests.reference_models import DATA, REFERENCE_MODELS, ROWS
from tests.sizing.published_files import Repository, repositories
from tests.sizing.slow_quantize import Quantizer, RefusedError
from tests.stopwatch import milliseconds

REPOSITORIES = repositories()
RECORDED: dict[str, dict[str, int]] = json.loads(
    (DATA / "llama_quantize_specimens.json").read_text()
)


def counted_types(found: Weights) -> Counter[str]:
    """How many tensors have each type."""
    types: Counter[str] = Counter()
    for stored in found.tensors:
        types[stored.tensor_type] += stored.group.count
    return types


def types_by_name(found: Weights) -> dict[str, str]:
    """Tensor type by full name."""
    return {
        f"blk.{block}.{stored.group.name}" if block is not None else stored.group.name: (
            stored.tensor_type
        )
        for stored in found.tensors
        for block in stored.group.blocks or (None,)
    }


@pytest.mark.parametrize("name", ROWS)
def test_every_file_type_has_the_bytes_that_llama_quantize_gives(name: str) -> None:
    expected = ROWS[name]["tensor_bytes"]

    assert expected == {
        kind: weights(REFERENCE_MODELS[name], kind).tensor_bytes for kind in expected
    }


@pytest.mark.parametrize("name", ROWS)
def test_so_it_has_with_an_importance_matrix(name: str) -> None:
    expected = ROWS[name]["tensor_bytes_with_imatrix"]

    assert expected == {
        kind: weights(REFERENCE_MODELS[name], kind, imatrix=True).tensor_bytes for kind in expected
    }


@pytest.mark.parametrize("name", ROWS)
def test_as_many_tensors_have_each_type(name: str) -> None:
    expected = {
        kind: Counter({tensor_type.upper(): count for tensor_type, count in types.items()})
        for kind, types in ROWS[name]["tensors_by_type"].items()
    }

    assert expected == {
        kind: counted_types(weights(REFERENCE_MODELS[name], kind)) for kind in expected
    }


@pytest.mark.parametrize("title", SPECIMENS)
def test_every_architecture_has_the_bytes_that_llama_quantize_gave(title: str) -> None:
    """Recorded by ``tests/oracle`` from a real build; refused file types are not in the record."""
    found = {}
    for kind in DEFAULT_TYPES:
        try:
            found[kind] = weights(SPECIMENS[title], kind).tensor_bytes
        except NotQuantizable:
            continue

    assert RECORDED[title] == found


@pytest.mark.parametrize("repository", REPOSITORIES.values(), ids=REPOSITORIES)
def test_files_of_one_repository_differ_by_their_tensors_alone(repository: Repository) -> None:
    """Published files of 2023 and 2024: what the tensors leave is the same header in each."""
    headers = {
        kind: size - file_bytes(weights(repository.architecture, kind, mixture=repository.mixture))
        for kind, size in repository.file_bytes.items()
    }

    assert len(set(headers.values())) == 1, headers
    assert 0 < min(headers.values()) < 8_000_000


def test_phi_4_mini_was_made_when_fused_attention_had_a_rule_of_its_own() -> None:
    """Two published files (bartowski, March 2025) leave the same header, to the byte."""
    arch = Architecture(
        architecture="phi3",
        block_count=32,
        context_length=131072,
        embedding_length=3072,
        vocab_size=200064,
        feed_forward_length=8192,
        head_count=24,
        head_count_kv=8,
        has_output=False,
        rope_factors=48,
    )
    published = {"Q4_K_M": 2491874688, "Q8_0": 4084611456}
    rows = [json.loads(line) for line in (DATA / "gguf_file_bytes.jsonl").read_text().splitlines()]
    assert published == {
        row["quantization"]: row["bytes"] for row in rows if "Phi-4-mini" in row["model"]
    }

    headers = {
        size - file_bytes(weights(arch, kind, mixture="llama.cpp-2024"))
        for kind, size in published.items()
    }

    assert len(headers) == 1


def architectures() -> st.SearchStrategy[Architecture]:
    """Models of any width, depth, grouping and number of experts."""
    return st.builds(
        _architecture,
        name=st.sampled_from(["llama", "qwen2", "qwen3moe", "phi3", "deepseek2", "starcoder2"]),
        blocks=st.integers(1, 84) | st.just(80),
        width=st.integers(1, 40).map(lambda n: 32 * n) | st.integers(1, 5).map(lambda n: 256 * n),
        inner=st.integers(1, 50).map(lambda n: 32 * n) | st.integers(3, 90).map(lambda n: 8 * n),
        heads_kv=st.sampled_from([1, 2, 4]),
        group=st.sampled_from([1, 2, 3, 4, 5, 8]),
        experts=st.sampled_from([0, 2, 4, 8, 16]),
        dense=st.integers(0, 4),
        has_output=st.booleans(),
    )


def _architecture(
    *,
    name: str,
    blocks: int,
    width: int,
    inner: int,
    heads_kv: int,
    group: int,
    experts: int,
    dense: int,
    has_output: bool,
) -> Architecture:
    fields: dict[str, Any] = {}
    if experts and name in {"llama", "qwen3moe", "deepseek2"}:
        fields = {
            "expert_count": experts,
            "expert_feed_forward_length": 2 * inner,
            "expert_shared_count": dense,
            "leading_dense_block_count": min(dense, blocks),
        }
    if name == "deepseek2":
        fields |= {"kv_lora_rank": 96, "q_lora_rank": 160, "rope_dimension_count": 32}
        fields |= {"key_length_mla": 96, "value_length_mla": 64} if dense else {}
    return Architecture(
        architecture=name,
        block_count=blocks,
        context_length=4096,
        embedding_length=width,
        vocab_size=333,
        feed_forward_length=inner,
        head_count=heads_kv * group,
        head_count_kv=heads_kv,
        key_length=96,
        value_length=64,
        has_output=has_output,
        **fields,
    )


@given(arch=architectures(), kind=st.sampled_from(list(DEFAULT_TYPES)), imatrix=st.booleans())
def test_the_grouped_rules_choose_what_a_walk_over_every_tensor_chooses(
    arch: Architecture, kind: str, *, imatrix: bool
) -> None:
    try:
        expected = Quantizer(arch, kind, imatrix=imatrix).run()
    except RefusedError:
        with pytest.raises(NotQuantizable):
            weights(arch, kind, imatrix=imatrix)
        return

    assert expected == types_by_name(weights(arch, kind, imatrix=imatrix))


@given(arch=architectures(), mixture=st.sampled_from(list(MIXTURES)))
def test_every_generation_stores_every_tensor_once(arch: Architecture, mixture: str) -> None:
    stored = weights(arch, "Q4_K_M", mixture=mixture)

    assert sorted(types_by_name(stored)) == sorted(
        f"blk.{block}.{group.name}" if block is not None else group.name
        for group in tensor_groups(arch)
        for block in group.blocks or (None,)
    )
    assert stored.tensor_bytes == sum(tensors.total_bytes for tensors in stored.tensors)


LADDERS = (
    ("Q2_K_S", "Q3_K_S", "Q4_K_S", "Q5_K_S"),
    ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16", "F32"),
    ("Q2_K", "Q3_K_L"),
    ("Q4_0", "Q5_0", "Q8_0"),
    ("Q4_1", "Q5_1", "Q8_0"),
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_S", "IQ3_M", "IQ4_XS"),
    ("IQ3_XXS", "IQ3_XS", "IQ3_S"),
)
"""File types of one scheme, from the lower level to the higher."""
SMALLER_THAN_THE_LEVEL_BELOW = {
    ("gpt-oss-20b", "Q3_K_S"),
    ("gpt-oss-20b", "IQ3_XS"),
    ("gemma-3-270m", "IQ3_XS"),
    ("qwen2.5-coder-0.5b", "IQ3_XS"),
    ("smollm2-135m", "IQ3_XS"),
}
"""Real ones: rows that no block of 256 divides (2880, 640, 896, 576 wide). There Q2_K and Q3_K
both become Q4_0 and all of IQ1 to IQ3 become IQ4_NL, while Q2_K_S gives the first ffn_down Q4_K,
which becomes Q5_0; and IQ3_XXS gives ffn_down and attn_v types that IQ3_XS does not."""


def smaller_than_below(arch: Architecture, ladder: tuple[str, ...]) -> set[str]:
    sizes = {kind: weights(arch, kind).tensor_bytes for kind in ladder}
    return {higher for lower, higher in pairwise(ladder) if sizes[lower] > sizes[higher]}


def test_a_higher_level_of_one_scheme_makes_a_smaller_file_only_where_rows_do_not_divide() -> None:
    found = {
        (name, kind)
        for name, arch in REFERENCE_MODELS.items()
        for ladder in LADDERS
        for kind in smaller_than_below(arch, ladder)
    }

    assert found == SMALLER_THAN_THE_LEVEL_BELOW


@given(arch=architectures(), wide=st.integers(1, 5), inner=st.integers(1, 9))
def test_nor_does_it_for_any_other_dense_model(arch: Architecture, wide: int, inner: int) -> None:
    dense = msgspec.structs.replace(
        arch,
        architecture="llama",
        embedding_length=256 * wide,
        feed_forward_length=256 * inner,
        head_count=8,
        head_count_kv=4,
        key_length=32 * wide,
        value_length=32 * wide,
        expert_count=0,
    )

    assert [smaller_than_below(dense, ladder) for ladder in LADDERS] == [set()] * len(LADDERS)


def test_community_variants_have_embedding_and_output_at_q8_0() -> None:
    arch = REFERENCE_MODELS["llama-3.1-8b"]
    plain, large = (types_by_name(weights(arch, kind)) for kind in ("Q4_K_M", "Q4_K_L"))

    assert {name for name in plain if plain[name] != large[name]} == {
        "token_embd.weight",
        "output.weight",
    }
    assert {large["token_embd.weight"], large["output.weight"]} == {"Q8_0"}


def test_the_tower_in_the_same_file_moves_the_places_of_attn_v() -> None:
    arch = REFERENCE_MODELS["gemma-3-4b"]
    chosen = {
        tower: {
            block
            for stored in weights(arch, "Q4_K_M", vision_blocks=tower).tensors
            if (stored.group.name, stored.tensor_type) == ("attn_v.weight", "Q6_K")
            for block in stored.group.blocks
        }
        for tower in (0, 27)
    }

    assert chosen == {0: set(more(34)), 27: {block for block in more(61) if block < 34}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [("q4_K_M", "Q4_K_M"), ("fp16", "F16"), ("Q4_K", "Q4_K_M"), ("q3_K_XL", "Q3_K_XL")],
)
def test_file_types_are_read_as_tags_and_tools_write_them(written: str, expected: str) -> None:
    assert expected == file_type(written)


@pytest.mark.parametrize("name", ["Q7_K", "", "mxfp8"])
def test_an_unknown_file_type_is_a_key_error(name: str) -> None:
    with pytest.raises(KeyError):
        file_type(name)


def test_a_row_that_no_block_fits_refuses_the_file_type() -> None:
    with pytest.raises(NotQuantizable, match="Q1_0"):
        weights(REFERENCE_MODELS["smollm2-135m"], "Q1_0")


def test_each_tensor_of_a_file_starts_at_a_multiple_of_32_bytes() -> None:
    group = msgspec.structs.replace(tensor_groups(REFERENCE_MODELS["llama-2-7b"])[0])
    stored = StoredTensors(group, "F32", 33)
    found = Weights("F32", "llama.cpp", (stored,), 1, 33)

    assert file_bytes(found) == 64


def test_a_ladder_of_all_file_types_costs_little() -> None:
    """Target: 1 ms, and no more than twice that."""
    arch = REFERENCE_MODELS["granite-4.0-h-small"]

    def ladder() -> None:
        weights.cache_clear()
        for kind in FILE_TYPES:
            weights(arch, kind)

    assert milliseconds(ladder) < 2
