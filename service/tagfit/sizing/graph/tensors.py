"""A compute graph as ggml sees it: the shape, layout and origin of each tensor, but no data.

Operations carry ggml's names; shapes and strides are those that ``ggml/src/ggml.c`` of
llama.cpp b11434 gives them.
"""

from __future__ import annotations

from math import prod

from tagfit.sizing.ggml import row_bytes

CELLS = 1 << 48
"""Stands for the number of a cache's cells: bytes read in this base are ``bytes + b * cells``."""

ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8}
INPLACE = frozenset(
    {
        "add",
        "add_id",
        "clamp",
        "div",
        "mul",
        "rms_norm",
        "rope",
        "scale",
        "soft_max",
        "sqr",
        "sub",
        "unary",
    }
)
"""Operations that may overwrite their first source (ggml-alloc.c:19)."""
VIEWS = frozenset({"permute", "reshape", "transpose", "view"})
"""Operations that compute nothing (ggml-backend.cpp, ggml_is_view_op)."""
OUTSIDE = -1
"""The step of weights that belong to no block."""
PADDED_ROW = 512
"""Elements: CUDA pads a quantized row to it (ggml-cuda.cu:903)."""

Shape = tuple[int, ...]


class Tensor:
    """A node or leaf of the graph; ``backend`` is set by the scheduler."""

    __slots__ = (
        "backend",
        "base",
        "bytes",
        "device",
        "index",
        "is_expanded",
        "is_input",
        "is_output",
        "kind",
        "needs_host",
        "operation",
        "original",
        "shape",
        "sources",
        "step",
        "strides",
        "weight",
    )

    def __init__(
        self,
        index: int,
        operation: str,
        kind: str,
        shape: Shape,
        strides: Shape,
        size: int,
        sources: tuple[Tensor, ...],
        base: Tensor | None,
        step: int,
    ) -> None:
        self.index = index
        self.operation = operation
        self.kind = kind
        self.shape = shape
        self.strides = strides
        self.bytes = size
        self.sources = sources
        self.base = base
        """The tensor whose memory a view shows."""
        self.device: int | None = None
        """Where it lies already: weights and caches."""
        self.backend = -1
        self.step = step
        self.weight: tuple[str, int] | None = None
        """Name and step of a weight, or of the one that this is a copy of."""
        self.original: Tensor | None = None
        """What this is a copy of."""
        self.is_expanded = self.is_input = self.is_output = self.needs_host = False

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return prod(self.shape[1:])

    @property
    def home(self) -> int | None:
        """Where the memory lies already, its own or that of which it is a view."""
        return self.base.device if self.base is not None else self.device


class Graph:
    """Builds tensors and orders them as ggml_build_forward_expand does."""

    def __init__(self) -> None:
        self.count = 0
        self.nodes: list[Tensor] = []
        self.leafs: list[Tensor] = []
        self.step = 0
        """Which block is being built, counted from 1; what comes before and after is one too."""

    def tensor(
        self,
        operation: str,
        kind: str,
        shape: Shape,
        sources: tuple[Tensor | None, ...] = (),
        *,
        base: Tensor | None = None,
        strides: Shape = (),
        size: int | None = None,
    ) -> Tensor:
        """A new tensor, contiguous unless strides are given."""
        full = (*shape, 1, 1, 1)[:4] if len(shape) < 4 else shape
        if strides:
            if size is None:
                size = self._extent(kind, full, strides)
        else:
            element = ELEMENT_BYTES.get(kind, 0)
            row = element * full[0] if element else row_bytes(kind, full[0]) if size is None else 0
            plane = row * full[1]
            strides = (element, row, plane, plane * full[2])
            if size is None:
                size = plane * full[2] * full[3]
        index = self.count
        self.count += 1
        given = tuple(filter(None, sources))
        return Tensor(index, operation, kind, full, strides, size, given, base, self.step)

    def _extent(self, kind: str, shape: Shape, strides: Shape) -> int:
        """Bytes from the first element to the last (ggml_nbytes)."""
        a, b, c, d = shape
        _, sb, sc, sd = strides
        if not (a and b and c and d):
            return 0
        element = ELEMENT_BYTES.get(kind)
        first = element + (a - 1) * strides[0] if element else row_bytes(kind, a)
        return first + (b - 1) * sb + (c - 1) * sc + (d - 1) * sd

    def expand(self, tensor: Tensor) -> None:
        """Append a tensor with all that it is computed from, sources first."""
        if tensor.is_expanded:
            return
        tensor.is_expanded = True
        for source in tensor.sources:
            if not source.is_expanded:
                self.expand(source)
        (self.leafs if tensor.operation == "none" else self.nodes).append(tensor)

    def input(self, kind: str, *shape: int) -> Tensor:
        """An input that the host fills for each micro-batch."""
        tensor = self.tensor("none", kind, shape)
        tensor.is_input = True
        return tensor

    def weight(self, name: str, shape: Shape, device: int, *, outside: bool = False) -> Tensor:
        """A weight, as if it were not quantized: nothing depends on its type but its size."""
        tensor = self.tensor("none", "F32", shape)
        tensor.device, tensor.weight = device, (name, OUTSIDE if outside else self.step)
        return tensor

    def cache(self, kind: str, shape: Shape, device: int) -> Tensor:
        """A cache or state that lies on a device."""
        tensor = self.tensor("none", kind, shape)
        tensor.device = device
        return tensor

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of the same layout on another device."""
        copied = self.tensor(
            "none", tensor.kind, tensor.shape, strides=tensor.strides, size=tensor.bytes
        )
        copied.weight, copied.original = tensor.weight, tensor
        return copied

    def mul_mat(self, weight: Tensor, x: Tensor) -> Tensor:
        """Matrix product over the rows of both."""
        return self.tensor("mul_mat", "F32", (weight.shape[1], *x.shape[1:]), (weight, x))

    def mul_mat_id(self, experts: Tensor, x: Tensor, chosen: Tensor) -> Tensor:
        """Matrix products with the chosen experts."""
        shape = (experts.shape[1], chosen.shape[0], x.shape[2])
        return self.tensor("mul_mat_id", "F32", shape, (experts, x, chosen))

    def elementwise(self, operation: str, x: Tensor, *others: Tensor | None) -> Tensor:
        """An operation that keeps the shape of its first source."""
        return self.tensor(operation, x.kind, x.shape, (x, *others))

    def get_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """Rows of a table by index."""
        return self.tensor("get_rows", "F32", (table.shape[0], *rows.shape[:3]), (table, rows))

    def set_rows(self, target: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """Write rows into a target; the result is a view of it."""
        return self.tensor(
            "set_rows",
            target.kind,
            target.shape,
            (x, rows, target),
            base=target.base or target,
            strides=target.strides,
            size=target.bytes,
        )

    def write(self, x: Tensor, target: Tensor) -> Tensor:
        """ggml_cpy: copy into a target; the result is a view of it."""
        return self.tensor(
            "cpy",
            target.kind,
            target.shape,
            (x, target),
            base=target.base or target,
            strides=target.strides,
            size=target.bytes,
        )

    def view(self, x: Tensor, shape: Shape, strides: Shape = ()) -> Tensor:
        """A window on a tensor; strides are those of x unless given."""
        return self.tensor(
            "view", x.kind, shape, (x,), base=x.base or x, strides=strides or x.strides
        )

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """The same elements in another shape."""
        return self.tensor("reshape", x.kind, shape, (x,), base=x.base or x, size=x.bytes)

    def permute(self, x: Tensor) -> Tensor:
        """Swap the second and third dimension."""
        (a, b, c, d), (sa, sb, sc, sd) = x.shape, x.strides
        return self.tensor(
            "permute",
            x.kind,
            (a, c, b, d),
            (x,),
            base=x.base or x,
            strides=(sa, sc, sb, sd),
            size=x.bytes,
        )

    def transpose(self, x: Tensor) -> Tensor:
        """Swap the first two dimensions."""
        (a, b, c, d), (sa, sb, sc, sd) = x.shape, x.strides
        return self.tensor(
            "transpose", x.kind, (b, a, c, d), (x,), base=x.base or x, strides=(sb, sa, sc, sd)
        )

    def contiguous(self, x: Tensor, *shape: int) -> Tensor:
        """A contiguous copy."""
        return self.tensor("cont", x.kind, shape or x.shape, (x,))

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """Join along the first dimension."""
        shape = (a.shape[0] + b.shape[0], *a.shape[1:])
        return self.tensor("concat", a.kind, shape, (a, b))

    def gate(self, x: Tensor, up: Tensor | None = None) -> Tensor:
        """A gated activation of two tensors, or of the halves of one (ggml_glu)."""
        shape = x.shape if up else (x.shape[0] // 2, *x.shape[1:])
        return self.tensor("glu", x.kind, shape, (x, up))

    def is_contiguous(self, x: Tensor) -> bool:
        """Whether elements follow each other without gaps."""
        expected = ELEMENT_BYTES.get(x.kind, 0)
        for length, stride in zip(x.shape, x.strides, strict=True):
            if length != 1 and stride != expected:
                return False
            expected *= length
        return True

    def flash_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor | None
    ) -> Tensor:
        """Attention in one operation."""
        shape = (value.shape[0], query.shape[2], query.shape[1], query.shape[3])
        return self.tensor("flash_attn_ext", "F32", shape, (query, key, value, mask, sinks))


def cuda_padding(tensor: Tensor) -> int:
    """Bytes that a tensor takes beyond its own in a buffer of CUDA or ROCm.

    Quantized rows are padded (ggml-cuda.cu:903); attention over a cache that is not F16 keeps
    16-bit copies of it (fattn-common.cuh:53), one for both if the values are a view of the keys.
    """
    if tensor.operation == "flash_attn_ext":
        key, value = tensor.sources[1:3]
        if key.kind == "F16":
            return 0
        end = _aligned(tensor.bytes) + 2 * key.elements
        if value.base is None or value.base not in {key, key.base}:
            end = _aligned(end) + 2 * value.elements
        return end - tensor.bytes
    missing = -tensor.shape[0] % PADDED_ROW
    if missing and tensor.kind not in ELEMENT_BYTES:
        return row_bytes(tensor.kind, missing)
    return 0


def _aligned(size: int) -> int:
    return -(-size // 128) * 128
