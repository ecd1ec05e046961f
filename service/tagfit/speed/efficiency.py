"""What share of a device's peak llama.cpp reaches, by backend.

Fitted by ``tests/speed/calibrate.py`` on published llama-bench figures (``tests/data/
speed_samples.jsonl``, cleaned as ``tests/speed/samples.py`` says), with devices left out in turn
to see that the rule holds for others. Backends without samples take those of their nearest kin.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from tagfit.facts import Backend

TypeClass = Literal["float", "block", "low", "codebook"]
"""How much arithmetic a weight takes to unpack."""

_CLASSES: dict[str, TypeClass] = {
    **dict.fromkeys(("F32", "F16", "BF16"), "float"),
    **dict.fromkeys(("Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K"), "block"),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K", "MXFP4", "NVFP4"), "block"),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q2_0", "Q1_0", "TQ1_0", "TQ2_0"), "low"),
}


def type_class(tensor_type: str) -> TypeClass:
    """The class of a tensor type; the IQ types look their weights up in a codebook."""
    return _CLASSES.get(tensor_type, "codebook")


class Efficiency(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Shares of a device's peaks, and the time that is lost between."""

    bandwidth: dict[TypeClass, float]
    """Share of the memory bandwidth at which weights are read for one token."""
    cache: float
    """The same for the KV cache, with flash attention."""
    cache_without_flash: float
    unit_bytes_per_cycle: float
    """What one SM, CU or core can have in flight: limits data-centre cards, not their memory."""
    block_cycles: float
    """Device cycles for one token in one block that are no reading: launches, waits, norms.

    On CUDA a little below the fit over all samples, since newer builds fuse more of them.
    """
    expert_block_cycles: float
    """As many more in a block with experts."""
    recurrent_block_cycles: float
    """As many more in a block with recurrent state."""
    matrix_float: float
    """Share of the matrix units' 16-bit peak at prompt processing, with unquantized weights, of
    a device of 100 TFLOP/s; a larger one reaches less of its peak, by ``saturation``."""
    matrix_quantized: float
    """The same with quantized weights (in 8-bit integers, where there is such a unit)."""
    saturation: float
    attention: float
    """Share of that peak within attention, with flash attention."""
    attention_without_flash: float
    expert_batch: float
    """Tokens of a micro-batch for one expert at which its arithmetic takes twice the time."""
    clock_hertz: float
    """Where the device's own is not known."""
    generation_spread: float
    """Measured figures lie between expected / (1 + spread) and expected x (1 + spread): nine of
    ten of the samples, also of devices that were left out of the fit."""
    prefill_spread: float


CUDA = Efficiency(
    bandwidth={"float": 0.9, "block": 0.9, "low": 0.62, "codebook": 0.75},
    cache=0.9,
    cache_without_flash=0.37,
    unit_bytes_per_cycle=8,
    block_cycles=140e3,
    expert_block_cycles=60e3,
    recurrent_block_cycles=48e3,
    matrix_float=0.88,
    matrix_quantized=0.49,
    saturation=0.42,
    attention=0.23,
    attention_without_flash=0.061,
    expert_batch=30,
    clock_hertz=1.8e9,
    generation_spread=0.2,
    prefill_spread=0.4,
)
ROCM = Efficiency(
    bandwidth={"float": 0.94, "block": 0.94, "low": 0.57, "codebook": 0.46},
    cache=0.7,
    cache_without_flash=0.45,
    unit_bytes_per_cycle=12,
    block_cycles=230e3,
    expert_block_cycles=170e3,
    recurrent_block_cycles=470e3,
    matrix_float=0.49,
    matrix_quantized=0.34,
    saturation=0.1,
    attention=0.048,
    attention_without_flash=0.04,
    expert_batch=54,
    clock_hertz=2.4e9,
    generation_spread=0.4,
    prefill_spread=0.7,
)
VULKAN = Efficiency(
    bandwidth={"float": 0.4, "block": 0.94, "low": 0.62, "codebook": 0.6},
    cache=0.27,
    cache_without_flash=0.3,
    unit_bytes_per_cycle=12,
    block_cycles=60e3,
    expert_block_cycles=300e3,
    recurrent_block_cycles=800e3,
    matrix_float=0.3,
    matrix_quantized=0.17,
    saturation=0.2,
    attention=0.027,
    attention_without_flash=0.03,
    expert_batch=20,
    clock_hertz=2.4e9,
    generation_spread=0.6,
    prefill_spread=0.9,
)
INTEL = msgspec.structs.replace(
    VULKAN,
    bandwidth={"float": 0.4, "block": 0.5, "low": 0.35, "codebook": 0.35},
    matrix_quantized=0.1,
)
"""Of Intel's GPUs: an Arc A770 makes 42 to 53 tokens/s of Llama 3.1 8B Q4_K_M
(github.com/ggml-org/llama.cpp/issues/17628), half of what its memory would allow."""
METAL = Efficiency(
    bandwidth={"float": 0.93, "block": 0.8, "low": 0.77, "codebook": 0.6},
    cache=0.5,
    cache_without_flash=0.14,
    unit_bytes_per_cycle=11.4,
    block_cycles=98e3,
    expert_block_cycles=30e3,
    recurrent_block_cycles=360e3,
    matrix_float=0.68,
    matrix_quantized=0.59,
    saturation=0.11,
    attention=0.35,
    attention_without_flash=0.23,
    expert_batch=24,
    clock_hertz=1.35e9,
    generation_spread=0.2,
    prefill_spread=0.4,
)
CPU = Efficiency(
    bandwidth={"float": 0.8, "block": 0.75, "low": 0.65, "codebook": 0.5},
    cache=0.6,
    cache_without_flash=0.6,
    unit_bytes_per_cycle=64,
    block_cycles=45e3,
    expert_block_cycles=30e3,
    recurrent_block_cycles=30e3,
    matrix_float=0.6,
    matrix_quantized=1.0,
    saturation=0.0,
    attention=0.3,
    attention_without_flash=0.3,
    expert_batch=4,
    clock_hertz=3e9,
    generation_spread=0.5,
    prefill_spread=1.0,
)
"""Guesses, but that a CPU reads weights at 0.7 to 0.85 of its memory bandwidth is well known."""

EFFICIENCIES: dict[Backend, Efficiency] = {
    "cuda": CUDA,
    "rocm": ROCM,
    "vulkan": VULKAN,
    "sycl": VULKAN,
    "metal": METAL,
    "cpu": CPU,
}
