"""The tensors of a block and what every part of a block is built with."""

from __future__ import annotations

from typing import NamedTuple

from tagfit.facts import Architecture, Runtime
from tagfit.sizing import kv_cache
from tagfit.sizing.graph.tensors import Graph, Tensor

LAYER_NORMS = frozenset(
    {
        "bert",
        "bloom",
        "codeshell",
        "cohere2",
        "command-r",
        "dbrx",
        "falcon",
        "gpt2",
        "gptneox",
        "jais",
        "jina-bert-v2",
        "jina-bert-v3",
        "mpt",
        "nemotron",
        "nomic-bert",
        "nomic-bert-moe",
        "olmo",
        "orion",
        "phi2",
        "stablelm",
        "starcoder",
        "starcoder2",
    }
)
"""LayerNorm, which needs memory of its own, where the others have RMSNorm, which does not."""

NORM_IS_LAST = frozenset({"lfm2", "lfm2moe"})
"""Architectures whose token_embd_norm is the last norm (llama-arch.cpp:775)."""


class Weight(NamedTuple):
    """One tensor."""

    name: str
    shape: tuple[int, ...]
    device: int


class Step(NamedTuple):
    """One block to compute."""

    block: int
    """Which block of the model it stands for."""
    device: int
    """Where its weights and its cache lie."""
    weights: tuple[Weight, ...]
    cache_device: int = 0
    """Where the cache lies that its attention reads."""


class Batch(NamedTuple):
    """The shape of a micro-batch and of the caches."""

    tokens: int
    outputs: int
    streams: int
    sequences: int
    sliding_cells: int
    flash_attention: bool
    cache_kind: str
    embeds: bool
    """Each sequence's tokens are pooled to one row."""


def batch(arch: Architecture, runtime: Runtime, output_rows: int) -> Batch:
    """The largest micro-batch, for which llama.cpp reserves (llama-context.cpp:627)."""
    streams = kv_cache.streams(runtime)
    cells = kv_cache.cells_per_stream(runtime) * streams
    tokens = kv_cache.pad(min(kv_cache.micro_batch(arch, runtime), cells), runtime.parallel)
    return Batch(
        tokens=tokens,
        outputs=min(tokens, output_rows),
        streams=streams,
        sequences=runtime.parallel,
        sliding_cells=kv_cache.sliding_cells(arch, runtime) if kv_cache.window(arch) else 0,
        flash_attention=runtime.flash_attention,
        cache_kind=runtime.kv_cache_type.upper(),
        embeds=runtime.embedding,
    )


class Block:
    """The tensors of one block, put into the graph when first asked for."""

    def __init__(self, graph: Graph, step: Step) -> None:
        self.index = step.block
        self.device = step.device
        self.cache_device = step.cache_device
        self._graph = graph
        self._weights = {weight.name: weight for weight in step.weights}
        self._made: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            self._made[name] = self._graph.weight(*self._weights[name])
        return self._made[name]

    def get(self, name: str) -> Tensor | None:
        """The tensor, or None where the block has none of this name."""
        return self[name] if name in self._weights else None


class Builder:
    """A graph under construction, with the inputs that its blocks share."""

    def __init__(self, arch: Architecture, shape: Batch, outside: tuple[Weight, ...]) -> None:
        self.arch = arch
        self.name = arch.architecture
        self.shape = shape
        self.tokens = shape.tokens
        self.graph = Graph()
        self.norm_kind = "norm" if self.name in LAYER_NORMS else "rms_norm"
        self.is_encoder = self.name in kv_cache.ENCODERS
        self.deep_stack: Tensor | None = None
        """The input with the image embeddings that later blocks add."""
        self._outside = {weight.name: weight for weight in outside}
        self._shared: dict[str, Tensor] = {}

    def has(self, name: str) -> bool:
        """Whether the model has a tensor of this name outside of its blocks."""
        return name in self._outside

    def weight(self, name: str, device: int | None = None) -> Tensor:
        """A tensor outside of blocks, once for each device that it is asked for."""
        _, shape, home = self._outside[name]
        home = home if device is None else device
        key = f"{name} {home}"
        if key not in self._shared:
            self._shared[key] = self.graph.weight(name, shape, home, outside=True)
        return self._shared[key]

    def input(self, name: str, kind: str, *shape: int) -> Tensor:
        """An input of the batch, the same one each time it is asked for."""
        if name not in self._shared:
            self._shared[name] = self.graph.input(kind, *shape)
        return self._shared[name]

    def state_rows(self, count: int) -> Tensor:
        """A view of so many of the sequences' places among the recurrent states."""
        name = f"states {count}"
        if name not in self._shared:
            places = self.input("states", "I32", self.shape.sequences)
            self._shared[name] = self.graph.view(places, (count,))
        return self._shared[name]

    def norm(self, x: Tensor, block: Block, name: str, kind: str = "") -> Tensor:
        """A norm with the weights of this name, of the architecture's kind unless given."""
        graph = self.graph
        x = graph.elementwise(kind or self.norm_kind, x)
        if weight := block.get(f"{name}.weight"):
            x = graph.elementwise("mul", x, weight)
        if bias := block.get(f"{name}.bias"):
            x = graph.elementwise("add", x, bias)
        return x

    def linear(self, x: Tensor, block: Block, name: str) -> Tensor:
        """A matrix product, with the bias if there is one."""
        y = self.graph.mul_mat(block[f"{name}.weight"], x)
        if bias := block.get(f"{name}.bias"):
            y = self.graph.elementwise("add", y, bias)
        return y
