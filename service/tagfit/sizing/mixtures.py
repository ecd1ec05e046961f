"""File type to the type of each tensor, as llama-quantize and Ollama choose it.

The rules themselves are data, in ``generations``; line numbers are of llama.cpp b11434,
``src/llama-quant.cpp``. A tensor's type follows its role, its place among the tensors of that
role, and a few facts of the model. Places are counted by block, then by name.

A higher level of one scheme makes a smaller file only where 256 does not divide the rows, so
that Q2_K and Q3_K both become Q4_0: gpt-oss-20b at Q3_K_S is smaller than at Q2_K_S. Within
level 3, IQ3_XS is smaller than IQ3_XXS for such models (gpt-oss-20b, gemma-3-270m,
qwen2.5-0.5b, smollm2-135m).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import msgspec

from tagfit.facts import Architecture, StoredTensors, TensorGroup, Weights, at
from tagfit.sizing.generations import (
    DEFAULT_TYPES,
    MIXTURES,
    VALUES,
    VERY_LOW,
    Generation,
    Rule,
    Rules,
)
from tagfit.sizing.ggml import TENSOR_TYPES
from tagfit.sizing.roles import is_quantizable, is_stacked, role_of, source_type
from tagfit.sizing.tensors import parameter_count, tensor_groups

COMMUNITY = {
    "Q6_K_L": "Q6_K",
    "Q5_K_L": "Q5_K_M",
    "Q4_K_L": "Q4_K_M",
    "Q3_K_XL": "Q3_K_L",
    "Q2_K_L": "Q2_K",
}
"""Community names for a file type with embedding and output at Q8_0
(``--token-embedding-type q8_0 --output-tensor-type q8_0``; huggingface.co/bartowski)."""

FILE_TYPES: tuple[str, ...] = (*DEFAULT_TYPES, *COMMUNITY)
"""Every file type that llama-quantize makes, and the community's."""

ALIASES = {"FP16": "F16", "FP32": "F32", "Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}
"""Other names (tools/quantize/quantize.cpp:34, Ollama's tags)."""

FILE_ALIGNMENT = 32
"""GGUF_DEFAULT_ALIGNMENT, ggml/include/gguf.h."""
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
OUTPUT_Q5_K = VERY_LOW | {"IQ3_XXS"}

FALLBACKS = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""For rows that the type's block does not divide (390)."""

COUNTED = (VALUES, frozenset({"ffn_down"}), frozenset({"ffn_gate"}), frozenset({"ffn_up"}))
"""Roles with a counter of their own."""

NO_RULE = Rule()


class NotQuantizable(ValueError):  # noqa: N818  # named for what it says
    """llama-quantize refuses this model at this file type."""


class Slot(msgspec.Struct, frozen=True):
    """A group of tensors that may be quantized."""

    group: TensorGroup
    rules: Rules
    is_output: bool
    """It is stored as an output matrix."""
    is_embedding: bool
    """Token embedding or output."""
    counters: tuple[int, ...]
    """Place of each block's tensor, counted one after the other."""
    places: tuple[int, ...]
    """The same, or the block's number where there are experts."""
    count: int
    """Places that there are."""
    is_q8_0: bool
    grouped: bool
    enlarged: bool
    """Q3_K and Q4_K become Q5_K (601)."""
    row: int
    rows: int


class Plan(msgspec.Struct, frozen=True):
    """A model as one generation of rules sees it, the same for all file types."""

    kept: tuple[StoredTensors, ...]
    slots: tuple[Slot, ...]
    is_falcon: bool
    q3_k_fallback: str
    q8_0_ends: bool
    q8_0_ends_of_f16: bool


def file_type(name: str) -> str:
    """The file type of a name as tags and tools write it; KeyError when there is none."""
    known = ALIASES.get(name.upper(), name.upper())
    if known not in DEFAULT_TYPES and known not in COMMUNITY:
        raise KeyError(name)
    return known


@lru_cache(maxsize=512)
def weights(
    arch: Architecture,
    quantization: str,
    *,
    mixture: str = "llama.cpp",
    imatrix: bool = False,
    vision_blocks: int = 0,
) -> Weights:
    """Every tensor of a model in one file type, grouped by name, shape and tensor type.

    ``vision_blocks`` are those of a vision tower in the same file that has an attn_v in each:
    the tower itself is not counted in, but its tensors are when places are counted.
    Raises UnknownArchitecture, NotQuantizable, and KeyError for an unknown file type or mixture.
    """
    name = file_type(quantization)
    plan = _plan(arch, mixture, vision_blocks)
    stored = (*plan.kept, *stored_slots(plan, name, imatrix=imatrix))
    return Weights(
        quantization=name,
        mixture=mixture,
        tensors=stored,
        parameters=parameter_count(arch),
        tensor_bytes=sum(tensors.total_bytes for tensors in stored),
    )


@lru_cache(maxsize=512)
def file_bytes(found: Weights) -> int:
    """Bytes of the tensors in a GGUF file, where each starts at a multiple of 32 bytes."""
    return sum(
        -(-stored.bytes_each // FILE_ALIGNMENT) * FILE_ALIGNMENT * stored.group.count
        for stored in found.tensors
    )


@lru_cache(maxsize=1024)
def first(count: int) -> frozenset[int]:
    """The first places."""
    return frozenset(range(count))


@lru_cache(maxsize=1024)
def middle(count: int) -> frozenset[int]:
    """The places between the first and the last eighth."""
    return frozenset(range(count // 8, 7 * count // 8))


@lru_cache(maxsize=1024)
def more(count: int) -> frozenset[int]:
    """The places that _M file types give more bits: the ends, and each third between (452)."""
    return first(count) - frozenset(i for i in middle(count) if (i - count // 8) % 3 != 2)


def grouped_queries(arch: Architecture) -> int:
    """Query heads for each key-value head of the first block (llama-hparams.cpp:99)."""
    heads_kv = at(arch.head_count_kv, 0)
    return at(arch.head_count, 0) // heads_kv if heads_kv else 0


def is_large(arch: Architecture) -> bool:
    """Whether llama.cpp takes a model for one of 70B: by its blocks (models/*.cpp)."""
    if arch.architecture == "llama":
        return arch.block_count == 80 and grouped_queries(arch) != 1
    blocks = {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
    return blocks.get(arch.architecture) == arch.block_count


@lru_cache(maxsize=512)
def _plan(arch: Architecture, mixture: str, vision_blocks: int = 0) -> Plan:
    generation = MIXTURES[mixture]
    groups = tensor_groups(arch)
    roles = {group.name: role_of(group.name) for group in groups}
    free = [group for group in groups if _is_free(group, generation)]
    counters = _counters(free, roles)
    text_values = sum(group.count for group in groups if roles[group.name] in VALUES)
    tied = "output" not in roles.values()
    by_block = arch.expert_count > 1 and not generation.counts_experts

    def slot(group: TensorGroup) -> Slot:
        role = roles[group.name]
        is_values = role in VALUES
        nameless = generation.separate_experts and "_exps." in group.name
        running = counters.get(group, ())
        return Slot(
            group=group,
            rules={} if nameless else generation.rules(role, arch.architecture, arch.expert_count),
            is_output=role == "output"
            or (role == "token_embd" and tied and generation.tied_as_output),
            is_embedding=role in {"output", "token_embd"},
            counters=running,
            places=group.blocks if by_block and not is_values else running,
            count=text_values + vision_blocks if is_values else arch.block_count,
            is_q8_0=any(part in group.name for part in generation.q8_0),
            grouped=grouped_queries(arch) >= 4,
            enlarged=role in generation.large_roles and is_large(arch),
            row=group.shape[0],
            rows=group.elements // group.shape[0],
        )

    return Plan(
        kept=tuple(
            _store(group, _kept_type(group, generation)) for group in groups if group not in free
        ),
        slots=tuple(slot(group) for group in free),
        is_falcon=arch.architecture == "falcon",
        q3_k_fallback=generation.q3_k_fallback,
        q8_0_ends=generation.q8_0_ends,
        q8_0_ends_of_f16=generation.q8_0_ends_of_f16,
    )


def _is_free(group: TensorGroup, generation: Generation) -> bool:
    """Whether a generation's rules may change the type of these tensors."""
    if generation.experts_only:
        return group.name.endswith("_exps.weight")
    if generation.positions and group.name == "position_embd.weight":
        return True
    further = any(part in group.name for part in generation.kept)
    return not further and is_quantizable(group.name, group.shape)


def _kept_type(group: TensorGroup, generation: Generation) -> str:
    is_expert_bias = group.name.endswith("_exps.bias")
    if group.name in generation.f16 or (generation.experts_only and is_expert_bias):
        return "F16"
    return source_type(group.name, group.shape)


def _counters(
    groups: Iterable[TensorGroup], roles: dict[str, str]
) -> dict[TensorGroup, tuple[int, ...]]:
    """What llama.cpp's running counters say at each tensor of a counted role."""
    result: dict[TensorGroup, tuple[int, ...]] = {}
    for counted in COUNTED:
        mine = [group for group in groups if roles[group.name] in counted]
        order = sorted((block, group.name) for group in mine for block in group.blocks)
        place = {key: index for index, key in enumerate(order)}
        for group in mine:
            result[group] = tuple(place[block, group.name] for block in group.blocks)
    return result


def _store(group: TensorGroup, tensor_type: str) -> StoredTensors:
    kind = TENSOR_TYPES[tensor_type]
    return StoredTensors(group, tensor_type, group.elements // kind.block_size * kind.block_bytes)


def stored_slots(
    plan: Plan, quantization: str, *, imatrix: bool = False
) -> Iterator[StoredTensors]:
    """The tensors of a plan that may be quantized, one item a group and tensor type."""
    base = COMMUNITY.get(quantization, quantization)
    default = DEFAULT_TYPES[base]
    unquantized = default in UNQUANTIZED
    q8_0_ends = quantization in COMMUNITY or (
        plan.q8_0_ends_of_f16 if unquantized else plan.q8_0_ends
    )
    for slot in plan.slots:
        if slot.is_embedding and q8_0_ends:
            yield _fitting(slot, slot.group, "Q8_0", plan)
        elif unquantized:
            yield _store(slot.group, default)
        elif slot.is_q8_0:
            yield _fitting(slot, slot.group, "Q8_0", plan)
        elif slot.is_output:
            yield _fitting(slot, slot.group, _output(slot, base, plan), plan)
        elif base == "MXFP4_MOE":
            kind = "MXFP4" if is_stacked(slot.group.shape) else "Q8_0"
            yield _fitting(slot, slot.group, kind, plan)
        else:
            rule = slot.rules.get(base, NO_RULE)
            for kind, group in _apply(rule, slot, base, imatrix=imatrix):
                yield _fitting(slot, group, kind, plan)


def _output(slot: Slot, base: str, plan: Plan) -> str:
    """The type of an output matrix (496)."""
    default = DEFAULT_TYPES[base]
    divides = slot.row % TENSOR_TYPES[default].block_size == 0
    if base in {"MXFP4_MOE", "Q8_0"} or plan.is_falcon or not divides:
        return "Q8_0"
    return "Q5_K" if base in OUTPUT_Q5_K else "Q6_K"


def _apply(
    rule: Rule, slot: Slot, base: str, *, imatrix: bool
) -> Iterator[tuple[str, TensorGroup]]:
    """The types that a rule gives the tensors of a slot, and the tensors of each."""
    default = DEFAULT_TYPES[base]
    applies = rule.imatrix is None or rule.imatrix == imatrix
    kind = (rule.base if applies else None) or default
    if rule.grouped and slot.grouped:
        kind = rule.grouped
    layers = _layers(rule, slot.count) if applies else []
    if slot.enlarged and base not in VERY_LOW and kind in {"Q3_K", "Q4_K"}:
        kind = "Q5_K"
    if not layers:
        yield kind, slot.group
        return
    blocks: dict[str, list[int]] = {}
    places = slot.counters if base in VERY_LOW else slot.places
    for block, place in zip(slot.group.blocks, places, strict=True):
        special = next((other for chosen, other in layers if place in chosen), kind)
        blocks.setdefault(special, []).append(block)
    for special, members in blocks.items():
        yield special, TensorGroup(slot.group.name, slot.group.shape, tuple(members))


def _layers(rule: Rule, count: int) -> list[tuple[frozenset[int], str]]:
    """Places with a type of their own; the first that holds a place counts."""
    layers = []
    if rule.start:
        start = count // rule.start_share if rule.start_count is None else rule.start_count
        layers.append((first(start), rule.start))
    if rule.middle:
        layers.append((middle(count), rule.middle))
    if rule.more:
        layers.append((more(count), rule.more))
    return layers


def _fitting(slot: Slot, group: TensorGroup, name: str, plan: Plan) -> StoredTensors:
    """The tensors in a type, or in the one that replaces it for rows of their length (390)."""
    kind = TENSOR_TYPES[name]
    if slot.row % kind.block_size and kind.block_size > 32:
        replacement = plan.q3_k_fallback if name == "Q3_K" else FALLBACKS.get(name)
        if replacement is None:
            raise NotQuantizable(f"{group.name}: {name} has no blocks for rows of {slot.row}")
        name, kind = replacement, TENSOR_TYPES[replacement]
    if slot.row % kind.block_size:
        name, kind = "F16", TENSOR_TYPES["F16"]
    return StoredTensors(group, name, slot.row // kind.block_size * kind.block_bytes * slot.rows)
