"""How fast a placed model is: bytes over bandwidth, arithmetic over compute, and what is lost.

Generation reads, for each token, the weights that this token uses (all dense ones, of the
experts those that are chosen, of the token embedding one row) and the KV cache as full as the
asked context makes it, each from the device where it lies. Prompt processing multiplies with
the same weights, many tokens at a time. What share of the peaks is reached, and what a block
costs besides, stands in ``efficiency``.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tagfit.facts import Architecture, Hardware, Placement, Runtime, Weights
from tagfit.speed.peaks import Peak, gpu_peaks, host_peak
from tagfit.speed.work import Part, Work, parts, work

PCIE_BANDWIDTH = 12e9
"""Host weights are copied to the GPU for each micro-batch of a prompt: PCIe 3.0 x16 in use."""
LEAST_BATCH_FOR_GPU = 32
"""Rows from which on that is done (llama.cpp b11434, ggml-cuda.cu:5754)."""
HOP_SECONDS = 100e-6
"""Passing a token's activations on to the next device: a guess that fits the samples."""
PIPELINE_GAIN = 0.6
"""Of the speed-up that GPUs working on several micro-batches at once could bring, what they do:
fits two to eight of them (2x RTX 4090: 1.5 of 1.8 times; 8x: 2.7 of 4.3)."""
DOUBT = 2
"""The range is as much wider where a bandwidth had to be assumed: a guess."""


class Range(msgspec.Struct, frozen=True):
    """An expected figure and between what it will most likely be."""

    low: float
    expected: float
    high: float


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second at the asked context, and what that was computed from."""

    generation_tokens_per_second: Range
    """Each new token, with the context full."""
    prefill_tokens_per_second: Range
    """Reading a prompt that fills the second half of the context."""
    basis: str


class _Stage(NamedTuple):
    """One device and its part of the model."""

    part: Part
    peak: Peak


class _Stages(NamedTuple):
    """The devices that have part of the model, the host last."""

    all: list[_Stage]
    gpus: int
    """How many of them are GPUs."""
    copier: Peak | None
    """The first GPU, where it computes the host's part of a prompt: it need hold no layer, but
    what that takes."""

    @property
    def peaks(self) -> list[Peak]:
        """Of all devices that compute."""
        found = [stage.peak for stage in self.all]
        return found if self.gpus or self.copier is None else [*found, self.copier]


class _Prompt(NamedTuple):
    """What is to be read."""

    tokens: int
    earlier: float
    """Tokens that one of them attends to, on average."""
    batch: int
    flash_attention: bool


def speed(
    architecture: Architecture,
    weights: Weights,
    runtime: Runtime,
    placement: Placement,
    hardware: Hardware,
    *,
    depth_tokens: int | None = None,
) -> Speed:
    """How fast it generates and reads; an unknown bandwidth is assumed low, and said.

    A token is generated with the context full. The prompt is what fills the context after
    ``depth_tokens``, which is half of it where nothing else is said, as in a conversation; the
    range then reaches from the first micro-batch of the context to its last.
    """
    model = work(architecture, weights)
    stages = _stages(model, placement, hardware)
    context = runtime.context_length
    depths = (context, context // 2, 0) if depth_tokens is None else (depth_tokens,) * 3
    prompts = [_prompt(runtime, depth) for depth in dict.fromkeys(depths)]
    rates = [prompt.tokens / _prefill_seconds(model, stages, prompt) for prompt in prompts]
    return _answer(1 / _token_seconds(model, stages.all, runtime), rates, stages.peaks)


class JobTimes(NamedTuple):
    """What a job takes."""

    prompt_seconds: float
    token_seconds: float
    """For each token of the answer."""


def job_times(
    architecture: Architecture,
    weights: Weights,
    runtime: Runtime,
    placement: Placement,
    hardware: Hardware,
    *,
    prompt_tokens: int,
    answer_tokens: int,
) -> JobTimes:
    """Expected times to read a prompt from an empty context and to generate the answer.

    A sliding window's cache is taken to fill as slowly as the others. What several GPUs gain by
    working on one prompt at once is not counted: with more memory Ollama would use one of them
    only, and no machine is worse for that.
    """
    model = work(architecture, weights)
    stages = _stages(model, placement, hardware)
    prompt = _Prompt(
        tokens=prompt_tokens,
        earlier=prompt_tokens / 2,
        batch=min(runtime.micro_batch_size, prompt_tokens),
        flash_attention=runtime.flash_attention,
    )
    filled = min((prompt_tokens + answer_tokens / 2) / runtime.context_length, 1.0)
    return JobTimes(
        _prefill_seconds(model, stages, prompt, pipelined=False),
        _token_seconds(model, stages.all, runtime, filled=filled),
    )


def _stages(model: Work, placement: Placement, hardware: Hardware) -> _Stages:
    *gpu_parts, host = parts(model, placement)
    peaks = gpu_peaks(placement, hardware)
    gpus = [
        _Stage(part, peak) for part, peak in zip(gpu_parts, peaks, strict=True) if not part.idle
    ]
    if host.idle:
        return _Stages(gpus, len(gpus), None)
    first = placement.devices[0]
    # buffers that were taken by closed form may be too large
    holds = first.total_bytes <= first.available_bytes or not placement.exact
    copier = peaks[0] if peaks and holds else None
    return _Stages([*gpus, _Stage(host, host_peak(hardware))], len(gpus), copier)


def _token_seconds(
    model: Work, stages: list[_Stage], runtime: Runtime, *, filled: float = 1.0
) -> float:
    """Seconds for one token with this share of the context filled."""
    seconds = sum(_generation_seconds(model, stage, runtime, filled) for stage in stages)
    return seconds + HOP_SECONDS * (len(stages) - 1)


def _prompt(runtime: Runtime, depth: int) -> _Prompt:
    context = runtime.context_length
    tokens = max(context - depth, min(runtime.micro_batch_size, context))
    depth = min(depth, context - tokens)
    return _Prompt(
        tokens=tokens,
        earlier=depth + tokens / 2,
        batch=min(runtime.micro_batch_size, tokens),
        flash_attention=runtime.flash_attention,
    )


def _generation_seconds(model: Work, stage: _Stage, runtime: Runtime, filled: float) -> float:
    """Seconds that one device takes for one token."""
    part, peak = stage
    reached = peak.reached
    share = reached.cache if runtime.flash_attention else reached.cache_without_flash
    read = (
        part.dense * model.dense.transfer(reached)
        + part.experts * model.used * model.experts.transfer(reached)
        + part.output * model.output.transfer(reached)
        + filled * part.memory.kv_cache_bytes / runtime.parallel / share
    )
    return read / peak.bandwidth + _latency(model, stage)


def _latency(model: Work, stage: _Stage) -> float:
    """Seconds between the reading and the arithmetic of one pass over the blocks."""
    part, peak = stage
    reached = peak.reached
    cycles = (
        model.blocks * reached.block_cycles
        + model.expert_blocks * reached.expert_block_cycles
        + model.recurrent_blocks * reached.recurrent_block_cycles
    )
    return part.blocks * cycles / peak.clock_hertz


def _prefill_seconds(
    model: Work, stages: _Stages, prompt: _Prompt, *, pipelined: bool = True
) -> float:
    """Seconds to read a prompt, micro-batch by micro-batch."""
    count = prompt.tokens / prompt.batch
    seconds = [_batch_seconds(model, stage, prompt) for stage in stages.all]
    if stages.copier and prompt.batch >= LEAST_BATCH_FOR_GPU:
        seconds[-1] = _copied_batch_seconds(model, stages.all[-1].part, stages.copier, prompt)
    in_turn = count * sum(seconds)
    gpus = stages.gpus
    if gpus < len(seconds) or gpus == 1 or not pipelined:
        return in_turn
    overlapped = (count + gpus - 1) * max(seconds)
    return in_turn / (1 + max(in_turn / overlapped - 1, 0) * PIPELINE_GAIN)


def _batch_seconds(model: Work, stage: _Stage, prompt: _Prompt) -> float:
    """Seconds of one micro-batch on one device."""
    part, peak = stage
    reached = peak.reached
    share = reached.attention if prompt.flash_attention else reached.attention_without_flash
    attention = part.blocks * (
        model.attention_flops * prompt.earlier
        + model.sliding_flops * min(prompt.earlier, model.window)
    )
    crowding = 1 + reached.expert_batch / max(prompt.batch * model.used, 1)
    arithmetic = part.dense * model.dense.arithmetic(reached) + (
        part.experts * model.used * model.experts.arithmetic(reached) * crowding
    )
    stored = part.dense * model.dense.transfer(reached) + (
        part.experts * model.experts.transfer(reached) * min(1, prompt.batch * model.used)
    )
    return (
        prompt.batch * (arithmetic / peak.sustained_compute + attention / (peak.compute * share))
        + stored / peak.bandwidth
        + _latency(model, stage)
    )


def _copied_batch_seconds(model: Work, host: Part, gpu: Peak, prompt: _Prompt) -> float:
    """Seconds of a micro-batch for the host's layers, which a GPU computes as well."""
    stored = host.dense * model.dense.total_bytes + host.experts * model.experts.total_bytes
    return _batch_seconds(model, _Stage(host, gpu), prompt) + stored / PCIE_BANDWIDTH


def _answer(generation: float, prefill: list[float], peaks: list[Peak]) -> Speed:
    assumed = [peak.assumed for peak in peaks if peak.assumed]
    doubt = DOUBT if assumed else 1
    read = ", ".join(f"{peak.name} {peak.stated_bandwidth / 1e9:.0f} GB/s" for peak in peaks)
    return Speed(
        _range([generation], doubt * max(peak.reached.generation_spread for peak in peaks)),
        _range(prefill, doubt * max(peak.reached.prefill_spread for peak in peaks)),
        "; ".join([f"bytes a token over bandwidth ({read})", *dict.fromkeys(assumed)]),
    )


def _range(rates: list[float], spread: float) -> Range:
    """About the middle one of the rates, as far as the others and the spread reach."""
    expected = rates[len(rates) // 2]
    low, high = min(rates) / (1 + spread), max(rates) * (1 + spread)
    return Range(round(low, 2), round(expected, 2), round(high, 2))
