"""Which device computes which tensor, and in what order: ggml_backend_sched.

Source: llama.cpp b11434 ``ggml/src/ggml-backend.cpp:1049-1720``. The last backend is the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tagfit.sizing.graph.tensors import VIEWS, Graph, Tensor

PIPELINE_COPIES = 4
"""GGML_SCHED_MAX_COPIES: copies of inputs when several GPUs work as a pipeline."""
OFFLOAD_BATCH = 32
"""Rows from which a GPU computes with weights that lie on the host (ggml-cuda.cu:5754)."""


class Order(msgspec.Struct, frozen=True):
    """A graph as the allocator sees it: leafs first, then nodes in order of execution."""

    leafs: list[Tensor]
    nodes: list[Tensor]
    tensors: int
    steps: int


def schedule(
    graph: Graph, backends: int, *, pipeline: bool = False, attention_on_host: bool = False
) -> Order:
    """Assign every tensor to a backend and put copies where data changes the device.

    ``attention_on_host``: GPUs have no flash attention for this model.
    """
    if attention_on_host:
        for node in graph.nodes:
            node.needs_host = node.operation == "flash_attn_ext"
    _assign(graph, backends - 1)
    copies = _Copies(graph, PIPELINE_COPIES if pipeline else 1)
    splits = _split(graph, copies)
    leafs: list[Tensor] = []
    if pipeline:
        inputs = [leaf for leaf in graph.leafs if leaf.is_input]
        leafs = [copy for leaf in inputs for copy in copies.of_graph_input(leaf)]
        for backend, split_inputs, _ in splits:
            leafs.extend(copy for x in split_inputs for copy in copies.of(x, backend))
    nodes: list[Tensor] = []
    for backend, split_inputs, split_nodes in splits:
        for x in split_inputs:
            needed = (_dependency(graph, x), copies.of(x, backend)[0])
            for node in needed:
                node.step = split_nodes[0].step
            nodes.extend(needed)
        nodes.extend(split_nodes)
    return Order([*leafs, *graph.leafs], nodes, graph.count, graph.step + 1)


def _dependency(graph: Graph, x: Tensor) -> Tensor:
    """A node that keeps x alive until it is copied."""
    node = graph.tensor(
        "none", x.kind, x.shape, (x,), base=x.base or x, strides=x.strides, size=x.bytes
    )
    node.backend = x.backend
    return node


def _batch(tensor: Tensor) -> int:
    if tensor.operation == "get_rows":
        return 0
    if tensor.operation == "mul_mat":
        return tensor.shape[1]
    if tensor.operation in {"mul_mat_id", "rope"}:
        return tensor.shape[2]
    return tensor.rows


def _own_backend(tensor: Tensor, cpu: int) -> int:
    """Where a tensor must be computed because of where its data or weights lie; -1: anywhere."""
    home = tensor.home
    if home is not None:
        return home
    if tensor.is_input:
        return cpu
    if tensor.operation in {"rope", "flash_attn_ext"}:
        return -1
    for source in tensor.sources:
        if source.weight and source.device is not None:
            if cpu and source.device == cpu and _batch(tensor) >= OFFLOAD_BATCH:
                return 0
            return source.device
    return -1


def _spread(nodes: Iterable[Tensor], skipped: int, cpu: int) -> None:
    """Give nodes without a backend that of the node before; ``skipped`` is not passed on."""
    current = -1
    for node in nodes:
        if node.operation in VIEWS:
            continue
        if node.backend != -1:
            current = -1 if node.backend == skipped else node.backend
        elif current != -1 and not (node.needs_host and current != cpu):
            node.backend = current


def _assign(graph: Graph, cpu: int) -> None:
    for tensor in (*graph.leafs, *graph.nodes):
        tensor.backend = _own_backend(tensor, cpu)
    for skipped in (cpu, -1):
        _spread(graph.nodes, skipped, cpu)
        _spread(reversed(graph.nodes), skipped, cpu)
    for node in graph.nodes:
        if node.needs_host:
            node.backend = cpu
        if node.backend == -1 and node.base is not None:
            node.backend = node.base.backend
        for source in node.sources:
            if source.backend == -1:
                source.backend = node.backend if source.base is None else source.base.backend
        node.backend = max(node.backend, 0)


class _Copies:
    """The copies of tensors that other backends need."""

    def __init__(self, graph: Graph, count: int) -> None:
        self._graph = graph
        self._count = count
        self._made: dict[tuple[int, int], list[Tensor]] = {}

    def _copy(self, tensor: Tensor, backend: int) -> Tensor:
        copied = self._graph.copy(tensor)
        copied.backend = backend
        # in a pipeline, copies live through the whole graph
        copied.is_input = copied.is_output = self._count > 1
        return copied

    def has(self, tensor: Tensor, backend: int) -> bool:
        return (tensor.index, backend) in self._made

    def of(self, tensor: Tensor, backend: int) -> list[Tensor]:
        key = tensor.index, backend
        if key not in self._made:
            self._made[key] = [self._copy(tensor, backend) for _ in range(self._count)]
        return self._made[key]

    def of_graph_input(self, tensor: Tensor) -> list[Tensor]:
        key = tensor.index, tensor.backend
        if key not in self._made:
            tensor.is_output = True
            others = [self._copy(tensor, tensor.backend) for _ in range(self._count - 1)]
            self._made[key] = [tensor, *others]
        return self._made[key]


Split = tuple[int, list[Tensor], list[Tensor]]
"""Backend, tensors that it needs from others, nodes."""


def _is_there(tensor: Tensor, backend: int) -> bool:
    home = tensor.home
    return (tensor.backend if home is None else home) == backend


def _split(graph: Graph, copies: _Copies) -> list[Split]:
    backend = next(node.backend for node in graph.nodes if node.operation not in VIEWS)
    inputs: list[Tensor] = []
    nodes: list[Tensor] = []
    splits: list[Split] = [(backend, inputs, nodes)]
    for node in graph.nodes:
        nodes_before = nodes
        if node.operation in VIEWS:
            nodes_before.append(node)
            continue
        # a new split lets the memory of weights that were copied before be used again
        fresh = bool(inputs) and any(
            source.weight and not _is_there(source, backend) for source in node.sources
        )
        if node.backend != backend or fresh:
            backend, inputs, nodes = node.backend, [], []
            splits.append((backend, inputs, nodes))
        sources = list(node.sources)
        for position, source in enumerate(sources):
            if source.backend != backend and not _is_there(source, backend):
                if not copies.has(source, backend):
                    inputs.append(source)
                sources[position] = copies.of(source, backend)[0]
        node.sources = tuple(sources)
        nodes.append(node)
    return splits
