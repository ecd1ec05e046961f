"""A line of ``POST /pull``: one object that says all that a progress bar needs."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from tagfit.problems import ProblemDetails

PullStatus = Literal["resolving", "downloading", "verifying", "writing", "done", "failed"]
TotalBasis = Literal["predicted", "seen", "exact"]


class LayerUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of the model, once the daemon has spoken of it."""

    digest: str
    total_bytes: int
    completed_bytes: int


class PullUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a pull. The last one is ``done`` or ``failed``."""

    status: PullStatus
    model: str
    """The name that is pulled."""
    total_bytes: int | None
    """Of all layers; null until anything is known of them."""
    total_basis: TotalBasis
    """``predicted``: from the catalog; ``seen``: layers that the daemon has spoken of so far;
    ``exact``: what the daemon has installed."""
    completed_bytes: int
    """Never less than a line before."""
    bytes_per_second: int | None
    """Smoothed; null before there is a rate."""
    eta_seconds: int | None
    """Until everything is downloaded; null where nobody can say."""
    layers: tuple[LayerUpdate, ...]
    chosen: str | UnsetType = UNSET
    """In the first line, or the only one, where tagfit chose the tag: why this one."""
    warnings: tuple[str, ...] | UnsetType = UNSET
    """In the first line, or the only one: what speaks against this model on this machine."""
    problem: ProblemDetails | UnsetType = UNSET
    """In the last line, where it is ``failed``."""
