"""Fit ``tagfit.speed.efficiency`` to the samples: ``python tests/speed/calibrate.py``.

Coordinate descent on the mean bent log error, each device, model and quantization counting
once; what few samples bear on stays near where it started. Prints the fitted values.
``--leave-out`` fits without one device at a time and judges that device: how the rule does on
hardware that it has not seen.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from math import exp, log, sqrt
from pathlib import Path
from statistics import fmean, median

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from tagfit.facts import Backend
from tagfit.speed import peaks, roofline
from tagfit.speed.efficiency import EFFICIENCIES, Efficiency, TypeClass
from tests.speed.samples import Sample, read_samples

FITTED: tuple[Backend, ...] = ("cuda", "rocm", "vulkan", "metal")
BEND = 0.15
"""Log errors beyond it count linearly, so that odd rows do not rule."""
HELD = 0.0005
"""Cost of moving a value by a factor e: what keeps it where nothing is measured."""
STEPS = (0.2, 0.05)

Values = dict[tuple[Backend, str], float]


def values_of(efficiencies: dict[Backend, Efficiency]) -> Values:
    """Every number that is fitted, by backend and path."""
    found: Values = {}
    for backend in FITTED:
        for field, value in msgspec.structs.asdict(efficiencies[backend]).items():
            if isinstance(value, dict):
                found |= {(backend, f"{field}.{key}"): number for key, number in value.items()}
            elif field not in {"clock_hertz", "generation_spread", "prefill_spread"}:
                found[backend, field] = value
    return found


def with_values(values: Values) -> dict[Backend, Efficiency]:
    """The efficiencies with these numbers."""
    changed = dict(EFFICIENCIES)
    for backend in FITTED:
        fields: dict[str, float | dict[TypeClass, float]] = {}
        for (owner, path), value in values.items():
            if owner == backend:
                field, _, key = path.partition(".")
                if key:
                    fields.setdefault(field, {})[key] = value  # type: ignore[index]
                else:
                    fields[field] = value
        changed[backend] = msgspec.structs.replace(EFFICIENCIES[backend], **fields)
    return changed


def use(values: Values) -> None:
    """Let ``speed`` use these numbers."""
    EFFICIENCIES.update(with_values(values))
    peaks.gpu_peak.cache_clear()


def log_error(sample: Sample) -> float:
    """ln of computed over measured."""
    found = roofline.speed(
        sample.architecture,
        sample.weights,
        sample.runtime,
        sample.placement,
        sample.hardware,
        depth_tokens=sample.depth,
    )
    rate = (
        found.prefill_tokens_per_second
        if sample.kind == "prefill"
        else found.generation_tokens_per_second
    )
    return log(rate.expected / sample.measured)


def loss(samples: list[Sample]) -> float:
    """Mean bent error over groups of the same device, model, quantization and kind."""
    groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for sample in samples:
        error = log_error(sample)
        bent = BEND * (sqrt(1 + (error / BEND) ** 2) - 1)
        groups[(*sample[:4], sample.kind)].append(bent)
    return fmean(fmean(errors) for errors in groups.values())


def fit(samples: list[Sample], start: Values, rounds: int = 4) -> Values:
    """The numbers that fit the samples best, from a start."""
    values = dict(start)
    by_backend = {
        backend: [sample for sample in samples if sample.backend == backend] for backend in FITTED
    }

    def cost(backend: Backend) -> float:
        use(values)
        moved = sum(
            abs(log(value / start[key])) for key, value in values.items() if key[0] == backend
        )
        return loss(by_backend[backend]) + HELD * moved

    for step in STEPS:
        for _ in range(rounds):
            for key in values:
                if by_backend[key[0]]:
                    _improve(values, key, step, partial(cost, key[0]))
    use(values)
    return values


def _improve(
    values: Values, key: tuple[Backend, str], step: float, cost: Callable[[], float]
) -> None:
    best, here = cost(), values[key]
    for direction in (step, -step):
        while True:
            values[key] = here * exp(direction)
            if _bounded(key[1], values[key]) and (found := cost()) < best - 1e-6:
                best, here = found, values[key]
            else:
                values[key] = here
                break


def _bounded(path: str, value: float) -> bool:
    """Shares are at most 1, but for int8 arithmetic that counts against a 16-bit peak."""
    if path.startswith(("bandwidth", "cache")):
        return value <= 0.97
    if path == "saturation":
        return value <= 0.6
    return not path.startswith(("matrix", "attention")) or value <= 2


def report(name: str, samples: list[Sample]) -> None:
    """Median and 90th percentile of the absolute error, by kind."""
    for kind in ("generation", "prefill"):
        errors = sorted(
            abs(exp(log_error(sample)) - 1) for sample in samples if sample.kind == kind
        )
        if errors:
            high = errors[int(0.9 * (len(errors) - 1))]
            _say(f"{name:40} {kind:10} {len(errors):4} {median(errors):6.1%} {high:6.1%}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def leave_one_out(samples: list[Sample], start: Values) -> Iterator[tuple[Sample, float]]:
    """Each sample with its error when its device was left out of the fit."""
    for device in sorted({sample.device for sample in samples}):
        fit([sample for sample in samples if sample.device != device], start, rounds=2)
        unseen = [sample for sample in samples if sample.device == device]
        report(device[:40], unseen)
        yield from ((sample, log_error(sample)) for sample in unseen)
        use(start)


def main() -> None:
    """Fit, or judge by leaving devices out."""
    samples = list(read_samples().samples)
    start = values_of(EFFICIENCIES)
    report("before", samples)
    if "--leave-out" in sys.argv:
        judged = list(leave_one_out(samples, start))
        for kind in ("generation", "prefill"):
            errors = sorted(abs(exp(error) - 1) for sample, error in judged if sample.kind == kind)
            high = errors[int(0.9 * (len(errors) - 1))]
            _say(f"{'left out':40} {kind:10} {len(errors):4} {median(errors):6.1%} {high:6.1%}")
        return
    values = fit(samples, start)
    report("after", samples)
    for (backend, path), value in values.items():
        _say(f"{backend:7} {path:24} {start[backend, path]:12.4g} -> {value:.4g}")


if __name__ == "__main__":
    main()
