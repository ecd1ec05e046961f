"""Attention over the cache (``src/llama-graph.cpp:2691``, ``src/llama-kv-cache.cpp:1296``)."""

from __future__ import annotations

from typing import NamedTuple

from tagfit.facts import Architecture, at
from tagfit.sizing import kv_cache
from tagfit.sizing.ggml import row_bytes
from tagfit.sizing.graph.blocks import Block, Builder
from tagfit.sizing.graph.tensors import CELLS, ELEMENT_BYTES, Tensor

WITHOUT_ROPE = frozenset(
    {
        "bert",
        "bloom",
        "gpt2",
        "granitehybrid",
        "jais",
        "jamba",
        "jina-bert-v2",
        "mpt",
        "nemotron_h",
        "nemotron_h_moe",
        "refact",
        "starcoder",
    }
)
ROPE_WHERE_SLIDING = frozenset({"cohere2", "cohere2moe"})
"""Leading dense blocks have it too."""
ROPE_BUT_EACH_FOURTH = frozenset({"llama4", "smollm3"})
BAICHUAN_7B_BLOCKS = 32
"""Baichuan's other sizes have ALiBi (models/baichuan.cpp)."""
SCALED_WHERE_NOT_ROTATED = frozenset({"llama4"})
"""Queries are scaled by a vector of the batch instead."""
NORMED_VALUES = frozenset({"gemma3n", "gemma4"})
"""Values are normed, without weights."""
FOUR_POSITIONS = frozenset({"qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"})
"""A token has four positions (M-RoPE)."""
WINDOWED_ENCODERS = {"gemma-embedding": 6}
"""n: encoders of which all but each n-th block attend within a window."""
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight")
FACTORS_WHERE_FULL = frozenset({"gemma4"})
"""Blocks with a sliding window rotate without factors (models/gemma4.cpp:201)."""
NORMED_BEFORE_HEADS = frozenset({"minimax-m2", "olmo2", "olmoe"})
"""Queries and keys are normed as whole rows, then divided into heads (models/olmo2.cpp)."""


class _Cache(NamedTuple):
    """Inputs that attention over one kind of cache needs."""

    cells: int
    key_rows: Tensor
    value_rows: Tensor | None
    mask: Tensor
    key_rotation: Tensor | None
    value_rotation: Tensor | None


def attention(build: Builder, block: Block, x: Tensor) -> Tensor:
    """Grouped-query attention over the cache, or over the batch in an encoder."""
    graph, tokens = build.graph, build.tokens
    query, key, value = _queries_keys_values(build, block, x)
    length, heads = key.shape[0], query.shape[1]
    gate = None
    if query.shape[0] == 2 * length:  # the query's matrix yields a gate for the output too
        gate = graph.view(query, (length, heads, tokens), query.strides)
        query = graph.view(query, (length, heads, tokens), query.strides)
    normed = build.name in NORMED_BEFORE_HEADS
    if "attn_q_norm.weight" in block and not normed:
        query = build.norm(query, block, "attn_q_norm")
    query = _rope(build, block, query)
    if build.name in SCALED_WHERE_NOT_ROTATED and query.operation != "rope":
        scale = build.input("query scale", "F32", 1, 1, tokens)
        query = graph.elementwise("mul", query, scale)
    if "attn_k_norm.weight" in block and not normed:
        key = build.norm(key, block, "attn_k_norm")
    if build.name in NORMED_VALUES:
        value = graph.elementwise("rms_norm", value)
    key = _rope(build, block, key)
    y = _attended(build, block, query, key, value)
    if "attn_gate.weight" in block:
        y = _gated_heads(build, block, x, y, length)
    if gate is not None:
        gate = graph.contiguous(gate, length * heads, tokens)
        y = graph.elementwise("mul", y, graph.elementwise("unary", gate))
    return build.linear(y, block, "attn_output")


def _attended(build: Builder, block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if build.is_encoder:
        for tensor in (query, key, value):
            build.graph.expand(tensor)
        return _attend(build, query, key, value, _batch_mask(build, block))
    if kv_cache.has_cache(build.arch, block.index):
        return _attend_cache(build, block, query, key, value)
    return _attend_earlier_cache(build, block, query)


def _gated_heads(build: Builder, block: Block, x: Tensor, y: Tensor, length: int) -> Tensor:
    """Heads weighed by a gate from the block's input, one a head or one an element (Laguna)."""
    graph = build.graph
    gate = graph.elementwise("unary", graph.mul_mat(block["attn_gate.weight"], x))
    if gate.shape[0] == y.shape[0]:
        return graph.elementwise("mul", y, gate)
    heads = gate.shape[0]
    gated = graph.elementwise(
        "mul",
        graph.reshape(y, length, heads, build.tokens),
        graph.reshape(gate, 1, heads, build.tokens),
    )
    return graph.reshape(gated, *y.shape[:2])


def latent_attention(build: Builder, block: Block, x: Tensor) -> Tensor:
    """Multi-head latent attention (models/deepseek2.cpp, minicpm3.cpp).

    In its absorbed form the cache holds the latent rows; files of before 2025 hold one matrix
    for keys and values, and the cache has those of each head.
    """
    arch, graph, tokens = build.arch, build.graph, build.tokens
    heads = at(arch.head_count, block.index)
    absorbs = kv_cache.uses_latent_attention(arch)
    rank, rope = arch.kv_lora_rank, arch.rope_dimension_count
    full = arch.key_length_mla if absorbs else arch.key_length
    if "attn_q.weight" in block:
        query = build.linear(x, block, "attn_q")
    else:
        query = build.norm(build.linear(x, block, "attn_q_a"), block, "attn_q_a_norm")
        query = build.linear(query, block, "attn_q_b")
    query = graph.reshape(query, full, heads, tokens)
    compressed = build.linear(x, block, "attn_kv_a_mqa")
    row = compressed.strides[1]
    latent = graph.view(compressed, (rank, tokens), (4, row, row * tokens, row * tokens))
    key_rope = graph.view(compressed, (rope, 1, tokens), (4, row, row, row * tokens))
    key_rope = _rope(build, block, key_rope)
    latent = build.norm(latent, block, "attn_kv_a_norm")
    if not absorbs:
        y = _expanded(build, block, query, latent, key_rope)
        return build.linear(y, block, "attn_output")
    plain = graph.view(query, (full - rope, heads, tokens), query.strides)
    query_rope = graph.view(query, (rope, heads, tokens), query.strides)
    query_rope = _rope(build, block, query_rope)
    absorbed = graph.mul_mat(block["attn_k_b.weight"], graph.permute(plain))
    query = graph.concat(graph.permute(absorbed), query_rope)
    value = graph.reshape(latent, rank, 1, tokens)
    key = graph.concat(value, key_rope)
    for tensor in (query, value, key):
        graph.expand(tensor)
    cache = _cache(build, sliding=False)
    keys = graph.cache(
        build.shape.cache_kind, (rank + rope, cache.cells, build.shape.streams), block.device
    )
    _store(build, keys, key, cache.key_rows)
    past = _past(build, keys, rank + rope, 1)
    past_values = graph.view(past, (rank, *past.shape[1:]))
    expansion = block["attn_v_b.weight"]
    y = _attend(build, query, past, past_values, cache.mask, expansion=expansion)
    return build.linear(y, block, "attn_output")


def _expanded(
    build: Builder, block: Block, query: Tensor, latent: Tensor, key_rope: Tensor
) -> Tensor:
    """Latent rows turned into keys and values of each head before they are stored."""
    arch, graph, tokens = build.arch, build.graph, build.tokens
    heads, value_length = at(arch.head_count, block.index), arch.value_length
    rope, plain = key_rope.shape[0], query.shape[0] - key_rope.shape[0]
    both = build.linear(latent, block, "attn_kv_b")
    row = 4 * (plain + value_length)
    strides = (4, row, row * heads, row * heads * tokens)
    key = graph.view(both, (plain, heads, tokens), strides)
    value = graph.contiguous(graph.view(both, (value_length, heads, tokens), strides))
    query = _rope(build, block, query)
    repeated = graph.tensor("repeat", "F32", (rope, heads, tokens), (key_rope,))
    return _attend_cache(build, block, query, graph.concat(key, repeated), value)


def _queries_keys_values(build: Builder, block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    arch, graph, tokens = build.arch, build.graph, build.tokens
    heads, kv_heads = at(arch.head_count, block.index), at(arch.head_count_kv, block.index)
    key, value = kv_cache.head_lengths(arch, block.index)
    if "attn_qkv.weight" in block:
        fused = build.linear(x, block, "attn_qkv")
        row = fused.strides[1]

        def part(length: int, count: int) -> Tensor:
            return graph.view(fused, (length, count, tokens), (4, 4 * length, row, row * tokens))

        return part(key, heads), part(key, kv_heads), part(value, kv_heads)
    query = build.linear(x, block, "attn_q")
    if "attn_k.weight" not in block:  # it reads an earlier block's cache
        shaped = graph.reshape(query, key, heads, tokens)
        return shaped, shaped, shaped
    keys = build.linear(x, block, "attn_k")
    values = build.linear(x, block, "attn_v") if "attn_v.weight" in block else keys
    if build.name in NORMED_BEFORE_HEADS:
        query = build.norm(query, block, "attn_q_norm")
        keys = build.norm(keys, block, "attn_k_norm")
    return (
        graph.reshape(query, query.shape[0] // heads, heads, tokens),
        graph.reshape(keys, key, kv_heads, tokens),
        graph.reshape(values, value, kv_heads, tokens),
    )


def _positions(build: Builder) -> Tensor:
    count = 4 if build.name in FOUR_POSITIONS else 1
    return build.input("positions", "I32", count * build.tokens)


def rotates(arch: Architecture, index: int) -> bool:
    """Whether a block's queries and keys get rotary positions."""
    name = arch.architecture
    if name in ROPE_WHERE_SLIDING:
        return kv_cache.slides(arch, index) or index < arch.leading_dense_block_count
    if name in ROPE_BUT_EACH_FOURTH:
        return (index + 1) % 4 != 0
    if name == "baichuan":
        return arch.block_count == BAICHUAN_7B_BLOCKS
    return name not in WITHOUT_ROPE


def has_factors(arch: Architecture, index: int) -> bool:
    """Whether a block rotates by the file's factors, if it has any."""
    return arch.architecture not in FACTORS_WHERE_FULL or not kv_cache.slides(arch, index)


def _rope(build: Builder, block: Block, x: Tensor) -> Tensor:
    if not rotates(build.arch, block.index):
        return x
    used = has_factors(build.arch, block.index)
    names = [name for name in ROPE_FACTORS if used and build.has(name)]
    factors = build.weight(names[0], block.device) if names else None
    return build.graph.elementwise("rope", x, _positions(build), factors)


def _mask_kind(build: Builder) -> str:
    return "F16" if build.shape.flash_attention else "F32"


def is_windowed(arch: Architecture, index: int) -> bool:
    """Whether a block of an encoder attends within a window."""
    period = WINDOWED_ENCODERS.get(arch.architecture, 1)
    return index % period < period - 1


def _batch_mask(build: Builder, block: Block) -> Tensor:
    """The mask of an encoder, which attends over its micro-batch alone."""
    name = "sliding mask" if is_windowed(build.arch, block.index) else "mask"
    return build.input(name, _mask_kind(build), build.tokens, build.tokens)


def _cache(build: Builder, *, sliding: bool) -> _Cache:
    arch, shape, tokens = build.arch, build.shape, build.tokens
    prefix = "sliding " if sliding else ""
    cells = shape.sliding_cells if sliding else CELLS
    values = None
    if not kv_cache.uses_latent_attention(arch):
        width = 1 if shape.flash_attention else kv_cache.widest_value(arch)
        values = build.input(prefix + "value rows", "I64", tokens * width)
    lengths = kv_cache.cached_head_lengths(arch, sliding=sliding)
    key_rotation = _rotation_size(build, {key for key, _ in lengths}, whole=True)
    value_rotation = _rotation_size(build, {value for _, value in lengths}, whole=False)
    each, streams = tokens // shape.streams, shape.streams
    return _Cache(
        cells=cells,
        key_rows=build.input(prefix + "key rows", "I64", tokens),
        value_rows=values,
        mask=build.input(prefix + "mask", _mask_kind(build), cells, each, 1, streams),
        key_rotation=build.input(prefix + "key rotation", "F32", key_rotation, key_rotation)
        if key_rotation
        else None,
        value_rotation=build.input(prefix + "value rotation", "F32", value_rotation, value_rotation)
        if value_rotation
        else None,
    )


def _rotation_size(build: Builder, lengths: set[int], *, whole: bool) -> int:
    """The side of the Hadamard matrix that rotates a quantized cache (llama-kv-cache.cpp:318)."""
    unquantized = build.shape.cache_kind in ELEMENT_BYTES
    if unquantized or kv_cache.uses_latent_attention(build.arch) or len(lengths) != 1:
        return 0
    (length,) = lengths
    if length % 64:
        return 0
    size = 64
    while whole and length % (2 * size) == 0:
        size *= 2
    return size


def _rotated(build: Builder, x: Tensor, rotation: Tensor | None) -> Tensor:
    if rotation is None:
        return x
    graph, size = build.graph, rotation.shape[0]
    shape = size, x.elements // size
    flat = graph.reshape(x, *shape) if graph.is_contiguous(x) else graph.contiguous(x, *shape)
    return graph.reshape(graph.mul_mat(rotation, flat), *x.shape)


def _attend_cache(
    build: Builder, block: Block, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    arch, graph, shape = build.arch, build.graph, build.shape
    cache = _cache(build, sliding=kv_cache.slides(arch, block.index))
    query = _rotated(build, query, cache.key_rotation)
    key = _rotated(build, key, cache.key_rotation)
    value = _rotated(build, value, cache.value_rotation)
    for tensor in (query, key, value) if kv_cache.window(arch) else (query, value, key):
        graph.expand(tensor)
    length, kv_heads = key.shape[:2]
    value_length = value.shape[0]
    size, kind = (cache.cells, shape.streams), shape.cache_kind
    keys = graph.cache(kind, (length * kv_heads, *size), block.device)
    past_keys = _past(build, keys, length, kv_heads)
    _store(build, keys, key, cache.key_rows)
    if cache.value_rows is None:
        raise ValueError("grouped-query attention stores values")
    if shape.flash_attention:
        values = graph.cache(kind, (value_length * kv_heads, *size), block.device)
        _store(build, values, value, cache.value_rows)
        past_values = _past(build, values, value_length, kv_heads)
    else:
        values = graph.cache(kind, (kv_cache.widest_value(arch), *size), block.device)
        _store_transposed(build, values, value, cache.value_rows)
        past_values = _past_transposed(build, values, value_length, kv_heads)
    sinks = block.get("attn_sinks.weight")
    y = _attend(build, query, past_keys, past_values, cache.mask, sinks=sinks)
    return _rotated(build, y, cache.value_rotation)


def _attend_earlier_cache(build: Builder, block: Block, query: Tensor) -> Tensor:
    """Attention over the cache of an earlier block, which has stored its keys already."""
    arch, graph, shape = build.arch, build.graph, build.shape
    cache = _cache(build, sliding=kv_cache.slides(arch, block.index))
    query = _rotated(build, query, cache.key_rotation)
    graph.expand(query)
    length, value_length = kv_cache.head_lengths(arch, block.index)
    heads, size = at(arch.head_count_kv, block.index), (cache.cells, shape.streams)
    device = block.cache_device
    keys = graph.cache(shape.cache_kind, (length * heads, *size), device)
    past_keys = _past(build, keys, length, heads)
    if shape.flash_attention:
        values = graph.cache(shape.cache_kind, (value_length * heads, *size), device)
        past_values = _past(build, values, value_length, heads)
    else:
        values = graph.cache(shape.cache_kind, (kv_cache.widest_value(arch), *size), device)
        past_values = _past_transposed(build, values, value_length, heads)
    y = _attend(build, query, past_keys, past_values, cache.mask)
    return _rotated(build, y, cache.value_rotation)


def _row(kind: str, elements: int) -> int:
    each = ELEMENT_BYTES.get(kind)
    return each * elements if each else row_bytes(kind, elements)


def _past(build: Builder, cache: Tensor, length: int, heads: int) -> Tensor:
    """A cache as heads over cells, one after the other for each stream."""
    kind = cache.kind
    width, cells, streams, _ = cache.shape
    row = _row(kind, width)
    return build.graph.view(
        cache,
        (length, heads, cells, streams),
        (ELEMENT_BYTES.get(kind, 0), _row(kind, length), row, row * cells),
    )


def _past_transposed(build: Builder, cache: Tensor, length: int, heads: int) -> Tensor:
    kind = cache.kind
    width, cells, streams, _ = cache.shape
    row = _row(kind, cells)
    return build.graph.view(
        cache,
        (cells, heads, length, streams),
        (ELEMENT_BYTES.get(kind, 0), row * length, row, row * width),
    )


def _store(build: Builder, cache: Tensor, x: Tensor, rows: Tensor) -> None:
    graph, tokens = build.graph, build.tokens
    stride = x.strides[2]
    shape = x.shape[0] * x.shape[1], tokens
    flat = graph.view(x, shape, (4, stride, stride * tokens, stride * tokens))
    if build.shape.streams > 1:
        cache = graph.reshape(cache, cache.shape[0], cache.shape[1] * cache.shape[2])
    graph.expand(graph.set_rows(cache, flat, rows))


def _store_transposed(build: Builder, cache: Tensor, x: Tensor, rows: Tensor) -> None:
    """Without flash attention each element of a value is a row of its own."""
    graph, tokens = build.graph, build.tokens
    width = x.shape[0] * x.shape[1]
    joined = x.strides[2] == 4 * width
    flat = graph.reshape(x, width, tokens) if joined else graph.contiguous(x, width, tokens)
    if width < cache.shape[0]:
        flat = graph.tensor("pad", "F32", (cache.shape[0], tokens), (flat,))
    target = graph.reshape(cache, 1, cache.elements)
    graph.expand(graph.set_rows(target, graph.reshape(flat, 1, flat.elements), rows))


def _attend(
    build: Builder,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    sinks: Tensor | None = None,
    expansion: Tensor | None = None,
) -> Tensor:
    """Attention proper; ``expansion`` turns latent values into those of each head."""
    graph = build.graph
    transposed = value.strides[1] > value.strides[2]
    streams = key.shape[3]
    length, heads, tokens, _ = query.shape
    each = tokens // streams
    query = graph.view(
        query,
        (length, heads, each, streams),
        (*query.strides[:3], query.strides[2] * each),
    )
    query, key, value = map(graph.permute, (query, key, value))
    if build.shape.flash_attention:
        if key.kind == "F32":
            key = graph.tensor("cpy", "F16", key.shape, (key,))
        if value.kind == "F32":
            value = graph.tensor("cpy", "F16", value.shape, (value,))
        y = graph.flash_attention(query, key, value, mask, sinks)
        if expansion is not None:
            y = graph.permute(graph.mul_mat(expansion, graph.permute(y)))
            y = graph.contiguous(y)
        y = graph.reshape(y, y.shape[0] * y.shape[1], y.shape[2] * y.shape[3])
    else:
        scores = graph.elementwise("soft_max", graph.mul_mat(key, query), mask, sinks)
        if not transposed:
            value = graph.contiguous(graph.transpose(value))
        y = graph.mul_mat(value, scores)
        if expansion is not None:
            y = graph.mul_mat(expansion, y)
        y = graph.permute(y)
        y = graph.contiguous(y, y.shape[0] * y.shape[1], y.shape[2] * y.shape[3])
    graph.expand(y)
    return y
