"""The graph of one micro-batch through a model, as llama.cpp b11434 builds it.

Sources: ``src/llama-graph.cpp`` and ``src/models/<name>.cpp``. A block is built from the tensors
that it has; what tensors do not tell stands in sets of architectures. Steps that keep the memory
of what they change (scaling, soft-capping) change no size and are left out.
"""

from __future__ import annotations

from functools import lru_cache

from tagfit.facts import Architecture
from tagfit.sizing import kv_cache
from tagfit.sizing.graph.attention import attention, is_windowed, latent_attention, rotates
from tagfit.sizing.graph.blocks import NORM_IS_LAST, Batch, Block, Builder, Step, Weight
from tagfit.sizing.graph.feed_forward import experts, feed_forward
from tagfit.sizing.graph.gemma import (
    both_networks,
    is_sparse,
    merged,
    per_layer_inputs,
    spread,
    streams_block,
    take_in,
)
from tagfit.sizing.graph.mixers import recurrent
from tagfit.sizing.graph.tensors import Graph, Tensor
from tagfit.sizing.tensors import tensor_groups

PARALLEL = frozenset({"cohere2", "cohere2moe", "command-r", "falcon", "phi2", "plamo"})
"""The feed-forward part reads the attention's norm, not its result."""
ATTENTION_ADDED_FIRST = frozenset({"falcon", "phi2"})
"""Both parts are added before the block's input."""
WITHOUT_MIXED_INPUT = frozenset({"cogvlm", "deepseek4"})
"""Batches never mix text with image embeddings (llama-arch.cpp:1182)."""
DEEP_STACKS = {"qwen3vl": 3, "qwen3vlmoe": 3}
"""Image embeddings that come in beside the input and are added after the first blocks."""
SCALED_INPUT_ROWS = frozenset({"gemma-embedding", "gemma3", "gemma3n", "gemma4"})
"""Text rows of the input are scaled by a vector of the batch."""
RESIDUAL_FIRST = frozenset({"lfm2", "lfm2moe"})
"""The residual is the first term of both sums of a block (models/lfm2.cpp:268, 276)."""
ROWS_BEFORE_NORM = frozenset({"gpt-oss"})
"""The rows to answer with are taken after the last block, not within it."""
WITH_STREAMS = frozenset({"gemma3n"})
ROWS_AFTER_NORM = frozenset(
    {"cohere2moe", "gemma4", "nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next"}
)
FEED_FORWARD_NORM = {
    "dbrx": "attn_output_norm",
    **dict.fromkeys(("gpt-oss", "qwen35", "qwen35moe", "qwen3next"), "post_attention_norm"),
}
"""Norm before the feed-forward part where it is not ``ffn_norm``."""
NORM_OF_EMBEDDING = "token_embd_norm"
"""Norm after the embedding, but for those of NORM_IS_LAST."""


@lru_cache(maxsize=512)
def kinds(arch: Architecture) -> tuple[int, ...]:
    """For each block the first one whose graph is the same."""
    tensors: list[list[int]] = [[] for _ in range(arch.block_count)]
    for number, group in enumerate(tensor_groups(arch)):
        for block in group.blocks:
            tensors[block].append(number)
    stacked = DEEP_STACKS.get(arch.architecture, 0)
    first: dict[object, int] = {}
    return tuple(
        block
        if block < stacked
        else first.setdefault(
            (
                tuple(names),
                kv_cache.slides(arch, block),
                kv_cache.has_cache(arch, block),
                is_sparse(arch, block),
                is_windowed(arch, block),
                rotates(arch, block),
            ),
            block,
        )
        for block, names in enumerate(tensors)
    )


def forward(
    arch: Architecture, shape: Batch, steps: tuple[Step, ...], outside: tuple[Weight, ...]
) -> Graph:
    """The graph over these blocks; full-attention caches have CELLS cells.

    ``outside`` are the tensors outside of blocks, with an ``output.weight`` in any case.
    """
    build = Builder(arch, shape, outside)
    x = _prepared(build, _embedded(build))
    inputs = per_layer_inputs(build, x)
    if build.name in WITH_STREAMS:
        x = spread(build, x)
    stacked = DEEP_STACKS.get(build.name, 0)
    for number, step in enumerate(steps, 1):
        build.graph.step = number
        block = Block(build.graph, step)
        if build.is_encoder and "attn_norm.weight" not in block:
            x = _encoder_block(build, block, x, last=step is steps[-1])
        elif inputs is not None and build.name in WITH_STREAMS:
            x = streams_block(build, block, x, inputs)
        else:
            x = _block(build, block, x, inputs, last=step is steps[-1])
        if build.deep_stack is not None and step.block < stacked:
            image = build.graph.view(build.deep_stack, x.shape[:2], build.deep_stack.strides)
            x = build.graph.elementwise("add", x, image)
    build.graph.step = len(steps) + 1
    _finish(build, x)
    return build.graph


def _embedded(build: Builder) -> Tensor:
    """Token embeddings, with the two other ways in that the graph reserves for."""
    graph, tokens = build.graph, build.tokens
    width = build.arch.embedding_length
    stacked = (width * (1 + DEEP_STACKS.get(build.name, 0)), tokens)
    table = build.weight("token_embd.weight")

    def looked_up() -> Tensor:
        rows = graph.get_rows(table, graph.input("I32", tokens))
        return rows if rows.shape[:2] == stacked else graph.tensor("pad", "F32", stacked, (rows,))

    text = looked_up()
    graph.expand(text)
    graph.expand(graph.input("F32", *stacked))
    if build.name not in WITHOUT_MIXED_INPUT:
        rows = looked_up()
        target = graph.tensor("dup", "F32", stacked, (graph.input("F32", *stacked),))
        graph.expand(graph.set_rows(target, rows, graph.input("I64", tokens)))
    if build.name in DEEP_STACKS:
        build.deep_stack = text
        text = graph.view(text, (width, tokens))
    if build.name in SCALED_INPUT_ROWS:
        text = graph.elementwise("mul", text, graph.input("F32", 1, tokens))
    graph.expand(text)
    return text


def _prepared(build: Builder, x: Tensor) -> Tensor:
    """Type and position embeddings and the norm over them."""
    graph = build.graph
    if build.has("token_types.weight"):
        types = build.weight("token_types.weight")
        x = graph.elementwise("add", x, graph.view(types, types.shape[:1]))
    if build.has("position_embd.weight"):
        positions = build.input("positions", "I32", build.tokens)
        places = graph.get_rows(build.weight("position_embd.weight"), positions)
        x = graph.elementwise("add", places, x)
    if build.has(f"{NORM_OF_EMBEDDING}.weight") and build.name not in NORM_IS_LAST:
        x = _outer_norm(build, x, NORM_OF_EMBEDDING, "norm")
    return x


def _outer_norm(build: Builder, x: Tensor, name: str, kind: str) -> Tensor:
    x = build.graph.elementwise(kind, x)
    if build.has(f"{name}.weight"):
        x = build.graph.elementwise("mul", x, build.weight(f"{name}.weight"))
    if build.has(f"{name}.bias"):
        x = build.graph.elementwise("add", x, build.weight(f"{name}.bias"))
    return x


def _rows(build: Builder, x: Tensor) -> Tensor:
    """The rows to answer with."""
    rows = build.input("rows", "I32", build.shape.outputs)
    return build.graph.get_rows(x, rows)


def _mixed(build: Builder, block: Block, x: Tensor) -> Tensor:
    """What a block does before its feed-forward part."""
    if not kv_cache.is_recurrent(build.arch, block.index):
        return (latent_attention if build.arch.kv_lora_rank else attention)(build, block, x)
    y = recurrent(build, block, x)
    if build.name in kv_cache.BOTH:
        y = build.graph.elementwise("add", y, attention(build, block, x))
    return y


def _block(build: Builder, block: Block, x: Tensor, inputs: Tensor | None, *, last: bool) -> Tensor:
    graph, name = build.graph, build.name
    rows = last and name not in ROWS_BEFORE_NORM | ROWS_AFTER_NORM
    mixes = "attn_output.weight" in block or kv_cache.is_recurrent(build.arch, block.index)
    residual = x
    normed = build.norm(x, block, "attn_norm") if "attn_norm.weight" in block else x
    second = "attn_norm_2.weight" in block
    attended = build.norm(x, block, "attn_norm_2") if second else normed
    y = _mixed(build, block, attended) if mixes else normed
    if rows:
        y, residual = _rows(build, y), _rows(build, residual)
    if name in PARALLEL or build.arch.use_parallel_residual:
        return _parallel(build, block, normed, y, residual, rows=rows)
    feed_forward_norm = FEED_FORWARD_NORM.get(name, "ffn_norm")
    if feed_forward_norm == "ffn_norm" and "post_attention_norm.weight" in block:
        y = build.norm(y, block, "post_attention_norm")
    if mixes:
        terms = (residual, y) if name in RESIDUAL_FIRST else (y, residual)
        y = residual = graph.elementwise("add", *terms)
    if "ffn_down.weight" not in block and "ffn_down_exps.weight" not in block:
        return y
    y = _fed_forward(build, block, y, feed_forward_norm)
    if "post_ffw_norm.weight" in block:
        y = build.norm(y, block, "post_ffw_norm")
    residual_first = name == "phi3" or name in RESIDUAL_FIRST
    y = graph.elementwise("add", *((residual, y) if residual_first else (y, residual)))
    if inputs is not None:
        y = graph.elementwise("add", y, take_in(build, block, y, inputs))
    if scale := block.get("layer_output_scale.weight"):
        y = graph.elementwise("mul", y, scale)
    return y


def _fed_forward(build: Builder, block: Block, x: Tensor, norm: str) -> Tensor:
    if "post_ffw_norm_1.weight" in block:
        return both_networks(build, block, x)
    if f"{norm}.weight" in block:
        x = build.norm(x, block, norm)
    return (experts if "ffn_gate_inp.weight" in block else feed_forward)(build, block, x)


def _parallel(
    build: Builder, block: Block, normed: Tensor, y: Tensor, residual: Tensor, *, rows: bool
) -> Tensor:
    """The feed-forward part beside attention, and both added to the block's input."""
    graph = build.graph
    if "ffn_norm.weight" in block:
        normed = build.norm(residual, block, "ffn_norm")
    elif rows:
        normed = _rows(build, normed)
    routed = "ffn_gate_inp.weight" in block
    z = (experts if routed else feed_forward)(build, block, normed)
    if build.name in ATTENTION_ADDED_FIRST:
        pair = (y, z) if build.name == "phi2" else (z, y)
        return graph.elementwise("add", graph.elementwise("add", *pair), residual)
    return graph.elementwise("add", graph.elementwise("add", z, residual), y)


def _encoder_block(build: Builder, block: Block, x: Tensor, *, last: bool) -> Tensor:
    """A block of BERT and its kin: norms follow the sums (models/bert.cpp)."""
    graph = build.graph
    y = attention(build, block, x)
    if last:
        y, x = _rows(build, y), _rows(build, x)
    y = graph.elementwise("add", y, x)
    y = residual = build.norm(y, block, "attn_output_norm", "norm")
    y = (experts if "ffn_gate_inp.weight" in block else feed_forward)(build, block, y)
    y = graph.elementwise("add", y, residual)
    return build.norm(y, block, "layer_output_norm", "norm")


def _finish(build: Builder, x: Tensor) -> None:
    graph = build.graph
    if build.is_encoder and build.has("output_norm.weight"):
        x = _outer_norm(build, x, "output_norm", build.norm_kind)
    if not build.is_encoder:
        if build.name in ROWS_BEFORE_NORM:
            x.is_output = True
            x = _rows(build, x)
        if build.name in WITH_STREAMS:
            x = _rows(build, merged(build, x))
        norm = NORM_OF_EMBEDDING if build.name in NORM_IS_LAST else "output_norm"
        x = _outer_norm(build, x, norm, build.norm_kind)
        x.is_output = True
        if build.name in ROWS_AFTER_NORM:
            x = _rows(build, x)
            x.is_output = True
        logits = graph.mul_mat(build.weight("output.weight"), x)
        logits.is_output = True
        graph.expand(logits)
    x.is_output = True
    graph.expand(x)
    if build.shape.embeds:
        _pool(build, x)


def _pool(build: Builder, x: Tensor) -> None:
    """One row a sequence (llama-graph.cpp:3797), and the projections after it.

    The mean for encoders, though some files take the first token; else the last token.
    """
    graph, sequences = build.graph, build.shape.sequences
    if build.is_encoder:
        mean = graph.input("F32", build.tokens, sequences)
        x = graph.mul_mat(graph.contiguous(graph.transpose(x), *x.shape[1::-1]), mean)
    else:
        x = graph.get_rows(x, graph.input("I32", sequences))
    x.is_output = True
    graph.expand(x)
    if build.has("dense_2.weight"):
        for name in ("dense_2.weight", "dense_3.weight"):
            x = graph.mul_mat(build.weight(name), x)
        x.is_output = True
        graph.expand(x)
