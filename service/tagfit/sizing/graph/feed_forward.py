"""Feed-forward networks and mixtures of experts (``src/llama-graph.cpp:1799, 2044``)."""

from __future__ import annotations

from tagfit.sizing.graph.blocks import Block, Builder
from tagfit.sizing.graph.tensors import Tensor

CHOSEN_BEFORE_SOFTMAX = frozenset({"gpt-oss"})
"""Experts are chosen by their logits, the softmax follows."""
PLAIN_EXPERT_WEIGHTS = frozenset(
    {
        "cohere2moe",
        "deepseek",
        "deepseek2-ocr",
        "gpt-oss",
        "llama4",
        "nomic-bert-moe",
        "olmoe",
        "qwen2moe",
    }
)
"""The weights of the chosen experts are not normalized again; nor are DeepSeek-V2's."""
WEIGHTED_BEFORE = frozenset({"llama4"})
"""Experts are weighted before they compute, not after; they are chosen by their logits."""


def feed_forward(build: Builder, block: Block, x: Tensor, suffix: str = "") -> Tensor:
    """A dense network, gated if it has a gate or its first matrix is twice as wide."""
    graph = build.graph
    up = build.linear(x, block, f"ffn_up{suffix}")
    gate, down = f"ffn_gate{suffix}", f"ffn_down{suffix}"
    if f"{gate}.weight" in block:
        y = graph.gate(build.linear(x, block, gate), up)
    elif up.shape[0] == 2 * block[f"{down}.weight"].shape[0]:
        y = graph.gate(up)
    else:
        y = graph.elementwise("unary", up)
    return build.linear(y, block, down)


def experts(build: Builder, block: Block, x: Tensor, logits: Tensor | None = None) -> Tensor:
    """A mixture of experts, with the shared expert beside it.

    ``logits`` choose the experts where they do not come from x.
    """
    graph, tokens = build.graph, x.shape[1]
    small = build.linear(x, block, "ffn_latent_down") if "ffn_latent_down.weight" in block else x
    if logits is None:
        logits = build.linear(x, block, "ffn_gate_inp")
    chosen, weights = _routed(build, block, logits)
    given = graph.reshape(small, small.shape[0], 1, tokens)
    if build.name in WEIGHTED_BEFORE:
        shape = small.shape[0], build.arch.expert_used_count, tokens
        repeated = graph.tensor("repeat", "F32", shape, (given,))
        given = graph.elementwise("mul", repeated, weights)

    def apply(name: str, y: Tensor) -> Tensor:
        return _chosen_products(build, block, name, y, chosen)

    if "ffn_gate_up_exps.weight" in block:
        both = apply("ffn_gate_up_exps", given)
        half = (both.shape[0] // 2, *both.shape[1:])
        y = graph.gate(graph.view(both, half, both.strides), graph.view(both, half, both.strides))
    else:
        up = apply("ffn_up_exps", given)
        if "ffn_gate_exps.weight" in block:
            y = graph.gate(apply("ffn_gate_exps", given), up)
        else:
            y = graph.elementwise("unary", up)
    y = apply("ffn_down_exps", y)
    if build.name not in WEIGHTED_BEFORE:
        y = graph.elementwise("mul", y, weights)
    graph.expand(y)
    result = _summed(build, y)
    if "ffn_latent_up.weight" in block:
        result = build.linear(result, block, "ffn_latent_up")
    if "ffn_up_shexp.weight" in block:
        shared = feed_forward(build, block, x, "_shexp")
        if "ffn_gate_inp_shexp.weight" in block:
            gate = graph.mul_mat(block["ffn_gate_inp_shexp.weight"], x)
            shared = graph.elementwise("mul", shared, graph.elementwise("unary", gate))
        result = graph.elementwise("add", result, shared)
    return result


def _chosen_products(build: Builder, block: Block, name: str, x: Tensor, chosen: Tensor) -> Tensor:
    graph = build.graph
    y = graph.mul_mat_id(block[f"{name}.weight"], x, chosen)
    if scale := block.get(f"{name}.scale"):
        count = scale.shape[0]
        each = graph.reshape(scale, 1, count)
        repeated = graph.tensor("repeat", "F32", (1, count, chosen.shape[1]), (each,))
        y = graph.elementwise("mul", y, graph.get_rows(repeated, chosen))
    if bias := block.get(f"{name}.bias"):
        y = graph.elementwise("add_id", y, bias, chosen)
    return y


def _routed(build: Builder, block: Block, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which experts each token goes to, and with what weights."""
    graph, tokens, used = build.graph, logits.shape[1], build.arch.expert_used_count
    late = build.name in CHOSEN_BEFORE_SOFTMAX
    scores = logits if late else graph.elementwise("soft_max", logits)
    ranked = logits if build.name in WEIGHTED_BEFORE else scores
    if bias := block.get("exp_probs_b.bias"):
        ranked = graph.elementwise("add", scores, bias)
    order = graph.tensor("argsort", "I32", ranked.shape, (ranked,))
    chosen = graph.view(order, (used, tokens), order.strides)
    weights = graph.get_rows(graph.reshape(scores, 1, scores.shape[0], tokens), chosen)
    if late:
        flat = graph.elementwise("soft_max", graph.reshape(weights, used, tokens))
        weights = graph.reshape(flat, 1, used, tokens)
    if _normalizes_weights(build):
        flat = graph.reshape(weights, used, tokens)
        total = graph.tensor("sum_rows", "F32", (1, tokens), (flat,))
        flat = graph.elementwise("div", flat, graph.elementwise("clamp", total))
        weights = graph.reshape(flat, 1, used, tokens)
    graph.expand(weights)
    return chosen, weights


def _normalizes_weights(build: Builder) -> bool:
    if build.name == "deepseek2":  # V3 does, V2 does not (expert_weights_norm)
        return build.arch.expert_probs_bias
    return build.name not in PLAIN_EXPERT_WEIGHTS


def _summed(build: Builder, y: Tensor) -> Tensor:
    """The experts' results, added one after the other, from the third on in the same memory."""
    graph = build.graph
    width, used, tokens, _ = y.shape
    row = y.strides[2]
    strides = (4, row, row * tokens, row * tokens)
    parts = [graph.view(y, (width, tokens), strides) for _ in range(min(used, 3))]
    for part in parts:
        graph.expand(part)
    total = parts[0]
    for part in parts[1:]:
        total = graph.tensor("add", "F32", (width, tokens), (total, part))
        graph.expand(total)
    return graph.contiguous(total) if used == 1 else total
