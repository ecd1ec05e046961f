"""What only Gemma 3n and Gemma 4 compute (``src/models/gemma3n.cpp``, ``gemma4.cpp``)."""

from __future__ import annotations

from tagfit.facts import Architecture
from tagfit.sizing.gemma import ALTUP_INPUTS
from tagfit.sizing.graph.attention import attention
from tagfit.sizing.graph.blocks import Block, Builder
from tagfit.sizing.graph.feed_forward import experts, feed_forward
from tagfit.sizing.graph.tensors import Tensor

SPARSE_BLOCKS = {"gemma3n": 10}
"""First blocks whose gate keeps only its highest values (models.h:849)."""


def is_sparse(arch: Architecture, block: int) -> bool:
    """Whether the gate of this block keeps only its highest values."""
    return block < SPARSE_BLOCKS.get(arch.architecture, 0)


def per_layer_inputs(build: Builder, x: Tensor) -> Tensor | None:
    """Embeddings of each token for each block, of the shape [width, tokens, blocks]."""
    arch, graph, tokens = build.arch, build.graph, build.tokens
    if not build.has("per_layer_token_embd.weight"):
        return None
    shape = arch.embedding_length_per_layer_input, arch.block_count, tokens
    table = build.weight("per_layer_token_embd.weight")
    rows = graph.reshape(graph.get_rows(table, graph.input("I32", tokens)), *shape)
    rows = graph.elementwise("scale", rows)
    graph.expand(rows)
    projected = graph.mul_mat(build.weight("per_layer_model_proj.weight"), x)
    projected = graph.elementwise("rms_norm", graph.reshape(projected, *shape))
    norm = build.weight("per_layer_proj_norm.weight")
    projected = graph.elementwise("mul", projected, norm)
    return graph.contiguous(graph.permute(graph.elementwise("add", projected, rows)))


def take_in(build: Builder, block: Block, x: Tensor, inputs: Tensor) -> Tensor:
    """What a block adds for its own embedding."""
    graph = build.graph
    y = graph.elementwise("unary", build.linear(x, block, "inp_gate"))
    y = graph.elementwise("mul", y, _slice(build, inputs))
    return build.norm(build.linear(y, block, "proj"), block, "post_norm")


def both_networks(build: Builder, block: Block, x: Tensor) -> Tensor:
    """Gemma 4's dense network and its experts, side by side."""
    graph = build.graph
    dense = feed_forward(build, block, build.norm(x, block, "ffn_norm"))
    dense = build.norm(dense, block, "post_ffw_norm_1")
    given = build.norm(x, block, "pre_ffw_norm_2")
    scaled = graph.elementwise("rms_norm", x)
    scaled = graph.elementwise("mul", scaled, block["ffn_gate_inp.scale"])
    logits = graph.mul_mat(block["ffn_gate_inp.weight"], scaled)
    routed = build.norm(experts(build, block, given, logits), block, "post_ffw_norm_2")
    return graph.elementwise("add", dense, routed)


def spread(build: Builder, x: Tensor) -> Tensor:
    """The input and its projections, one after the other: the streams of Gemma 3n."""
    graph, (width, tokens) = build.graph, x.shape[:2]
    magnitude = _magnitude(build, x)
    repeated = graph.tensor("repeat", "F32", (width, tokens, ALTUP_INPUTS - 1), (x,))
    added = graph.mul_mat(build.weight("altup_proj.weight"), repeated)
    added = _of_magnitude(build, added, magnitude)
    return graph.tensor("concat", "F32", (width, tokens, ALTUP_INPUTS), (x, added))


def merged(build: Builder, x: Tensor) -> Tensor:
    """The mean of the streams."""
    graph = build.graph
    magnitude = _magnitude(build, _slice(build, x))
    others = graph.mul_mat(build.weight("altup_unembd_proj.weight"), _rest(build, x))
    others = _of_magnitude(build, others, magnitude)
    y = _slice(build, x)
    for _ in range(ALTUP_INPUTS - 1):
        y = graph.elementwise("add", y, _slice(build, others))
    return y


def streams_block(build: Builder, block: Block, x: Tensor, inputs: Tensor) -> Tensor:
    """A block of Gemma 3n: predicts each stream from all, computes on one, corrects all."""
    graph = build.graph
    predictions = _predict(build, block, x)
    active = _slice(build, predictions)
    normed = build.norm(active, block, "attn_norm")
    laurel = build.linear(build.linear(normed, block, "laurel_l"), block, "laurel_r")
    laurel = graph.elementwise("add", build.norm(laurel, block, "laurel_post_norm"), normed)
    y = build.norm(attention(build, block, normed), block, "post_attention_norm")
    y = graph.elementwise("add", y, active)
    residual = graph.elementwise("scale", graph.elementwise("add", y, laurel))
    y = build.norm(residual, block, "ffn_norm")
    up, gate = build.linear(y, block, "ffn_up"), build.linear(y, block, "ffn_gate")
    if is_sparse(build.arch, block.index):
        gate = _highest(build, gate)
    y = graph.elementwise("mul", up, graph.elementwise("unary", gate))
    y = build.norm(build.linear(y, block, "ffn_down"), block, "post_ffw_norm")
    corrected = _correct(build, block, predictions, graph.elementwise("add", y, residual))
    first = graph.elementwise("mul", _slice(build, corrected), block["altup_correct_scale.weight"])
    first = take_in(build, block, first, inputs)
    first_stream = _slice(build, corrected)
    rest = graph.elementwise("add", _rest(build, corrected), first)
    return graph.tensor("concat", "F32", corrected.shape, (first_stream, rest))


def _slice(build: Builder, x: Tensor) -> Tensor:
    return build.graph.view(x, x.shape[:2], x.strides)


def _rest(build: Builder, x: Tensor) -> Tensor:
    return build.graph.view(x, (*x.shape[:2], ALTUP_INPUTS - 1), x.strides)


def _magnitude(build: Builder, x: Tensor) -> Tensor:
    graph = build.graph
    squares = graph.elementwise("sqr", x)
    return graph.tensor("sum_rows", "F32", (1, *x.shape[1:]), (squares,))


def _of_magnitude(build: Builder, x: Tensor, magnitude: Tensor) -> Tensor:
    graph = build.graph
    own = _magnitude(build, x)
    return graph.elementwise("div", graph.elementwise("mul", x, magnitude), own)


def _modalities(build: Builder, block: Block, x: Tensor) -> Tensor:
    normed = build.norm(x, block, "altup_router_norm")
    return build.graph.elementwise("unary", build.linear(normed, block, "altup_router"))


def _predict(build: Builder, block: Block, x: Tensor) -> Tensor:
    graph, (width, tokens) = build.graph, x.shape[:2]
    modalities = _modalities(build, block, _slice(build, x))
    coefficients = build.linear(modalities, block, "altup_predict_coef")
    coefficients = graph.reshape(coefficients, ALTUP_INPUTS, ALTUP_INPUTS, tokens)
    each, row, plane, whole = x.strides
    streams_first = graph.view(x, (ALTUP_INPUTS, width, tokens), (plane, each, row, whole))
    y = graph.mul_mat(graph.contiguous(streams_first), coefficients)
    return graph.elementwise("add", graph.contiguous(graph.permute(y)), x)


def _correct(build: Builder, block: Block, predictions: Tensor, activated: Tensor) -> Tensor:
    graph, tokens = build.graph, build.tokens
    modalities = _modalities(build, block, activated)
    innovation = graph.elementwise("sub", activated, _slice(build, predictions))
    coefficients = graph.elementwise("scale", build.linear(modalities, block, "altup_correct_coef"))
    coefficients = graph.contiguous(graph.transpose(coefficients), 1, tokens, ALTUP_INPUTS)
    repeated = graph.tensor("repeat", "F32", predictions.shape, (innovation,))
    y = graph.elementwise("mul", repeated, coefficients)
    return graph.elementwise("add", y, predictions)


def _highest(build: Builder, x: Tensor) -> Tensor:
    """Values below a share of the normal distribution become zero."""
    graph = build.graph
    row = (1, *x.shape[1:])
    mean = graph.tensor("mean", "F32", row, (x,))
    squares = graph.elementwise("sqr", graph.elementwise("sub", x, mean))
    deviation = graph.tensor("sum_rows", "F32", row, (squares,))
    return graph.elementwise("sub", x, graph.elementwise("add", mean, deviation))
