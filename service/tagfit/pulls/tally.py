"""The daemon's lines, layer by layer, added up to one progress (pure: the clock is passed in)."""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec
from msgspec.structs import replace

from tagfit.daemon.client import Progress
from tagfit.pulls.stream import LayerUpdate, PullStatus, PullUpdate, TotalBasis

SMOOTHING_SECONDS = 4.0
"""A change of speed is two thirds shown after so long. A choice, as long as a glance."""
LEAST_SECONDS = 0.5
"""No rate is told before it was measured for so long."""

Phase = Literal["resolving", "downloading", "verifying", "writing", "done"]
_PHASES: tuple[tuple[str, Phase], ...] = (
    (r"pulling manifest", "resolving"),
    (r"pulling ", "downloading"),
    (r"verifying ", "verifying"),
    (r"writing |removing |couldn't remove ", "writing"),
    (r"success$", "done"),
)
"""Ollama's words by their beginning (server/images.go, PullModel)."""


class Layer(msgspec.Struct, frozen=True):
    """The most that was ever said of one layer."""

    total_bytes: int
    completed_bytes: int


class Rate(msgspec.Struct, frozen=True):
    """Bytes and seconds, the older the less they count."""

    bytes: float = 0.0
    seconds: float = 0.0

    def after(self, added_bytes: int, seconds: float) -> Rate:
        """With what was added in the seconds since."""
        fading = math.exp(-seconds / SMOOTHING_SECONDS)
        return Rate(self.bytes * fading + added_bytes, self.seconds * fading + seconds)

    @property
    def bytes_per_second(self) -> int | None:
        """None as long as too little was measured."""
        return round(self.bytes / self.seconds) if self.seconds >= LEAST_SECONDS else None


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull's lines come to so far."""

    phase: Phase = "resolving"
    layers: dict[str, Layer] = {}
    predicted_bytes: int | None = None
    exact_bytes: int | None = None
    rate: Rate = Rate()
    heard_at_seconds: float | None = None
    """When the last line about a layer came."""
    moved_at_seconds: float = 0.0
    """When anything last came nearer to the end."""

    @property
    def seen_bytes(self) -> int:
        """Of the layers that were spoken of."""
        return sum(layer.total_bytes for layer in self.layers.values())

    @property
    def downloaded(self) -> bool:
        """All layers are there."""
        return self.phase in ("verifying", "writing", "done")

    @property
    def completed_bytes(self) -> int:
        """Downloaded so far, or already there."""
        if self.downloaded:
            return max(self.seen_bytes, self.exact_bytes or 0)
        return sum(layer.completed_bytes for layer in self.layers.values())

    @property
    def total_bytes(self) -> int | None:
        """Of all layers; None until anything is known."""
        if self.downloaded and self.completed_bytes:
            return self.completed_bytes
        return max(self.predicted_bytes or 0, self.seen_bytes) or None

    @property
    def total_basis(self) -> TotalBasis:
        """What the total rests on."""
        if self.exact_bytes is not None:
            return "exact"
        return "predicted" if (self.total_bytes or 0) > self.seen_bytes else "seen"

    @property
    def eta_seconds(self) -> int | None:
        """Until all is downloaded."""
        rate = self.rate.bytes_per_second
        if self.phase != "downloading" or not rate or self.total_bytes is None:
            return None
        return math.ceil((self.total_bytes - self.completed_bytes) / rate)


def advance(tally: Tally, line: Progress, now_seconds: float) -> Tally:
    """The tally after one more line."""
    phase = _phase(line.status) or tally.phase
    if phase != tally.phase:
        tally = replace(tally, phase=phase, moved_at_seconds=now_seconds)
    if not line.digest:
        return tally
    known = tally.layers.get(line.digest)
    before = known.completed_bytes if known else min(line.completed_bytes, line.total_bytes)
    total_bytes = max(line.total_bytes, known.total_bytes if known else 0)
    layer = Layer(total_bytes, min(max(line.completed_bytes, before), total_bytes))
    # What was there when a layer is first spoken of came earlier, perhaps in another pull.
    added_bytes = layer.completed_bytes - before
    since = now_seconds - tally.heard_at_seconds if tally.heard_at_seconds is not None else 0.0
    moved = added_bytes > 0 or known is None
    return replace(
        tally,
        layers={**tally.layers, line.digest: layer},
        rate=tally.rate.after(added_bytes, since),
        heard_at_seconds=now_seconds,
        moved_at_seconds=now_seconds if moved else tally.moved_at_seconds,
    )


def update(model: str, tally: Tally, status: PullStatus | None = None) -> PullUpdate:
    """The line that tells of a tally."""
    downloading = tally.phase == "downloading"
    return PullUpdate(
        status=status or tally.phase,
        model=model,
        total_bytes=tally.total_bytes,
        total_basis=tally.total_basis,
        completed_bytes=tally.completed_bytes,
        bytes_per_second=tally.rate.bytes_per_second if downloading else None,
        eta_seconds=tally.eta_seconds,
        layers=tuple(
            LayerUpdate(
                digest=digest,
                total_bytes=layer.total_bytes,
                completed_bytes=layer.total_bytes if tally.downloaded else layer.completed_bytes,
            )
            for digest, layer in tally.layers.items()
        ),
    )


def _phase(status: str) -> Phase | None:
    return next((phase for words, phase in _PHASES if re.match(words, status)), None)
