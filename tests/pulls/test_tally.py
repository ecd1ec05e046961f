"""A pull's lines added up: what is completed never goes back, the rate is smooth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tagfit.daemon.client import Progress
from tagfit.pulls.tally import Tally, advance, update

MODEL, SMALL = "sha256:aa", "sha256:bb"
MANIFEST = Progress(status="pulling manifest")


def layer(digest: str, total_bytes: int, completed_bytes: int = 0) -> Progress:
    return Progress(f"pulling {digest[7:]}", digest, total_bytes, completed_bytes)


def tally_of(*lines: Progress, step_seconds: float = 0.06, predicted: int | None = None) -> Tally:
    tally = Tally(predicted_bytes=predicted)
    for number, line in enumerate(lines):
        tally = advance(tally, line, number * step_seconds)
    return tally


@given(
    st.lists(
        st.builds(
            layer,
            st.sampled_from([MODEL, SMALL]),
            st.integers(1, 10**12),
            st.integers(0, 10**12),
        )
    ),
    st.none() | st.integers(0, 10**12),
)
def test_completed_never_goes_back_and_never_exceeds_the_total(
    lines: list[Progress], predicted: int | None
) -> None:
    tally = Tally(predicted_bytes=predicted)
    last = 0
    for number, line in enumerate(
        [MANIFEST, *lines, Progress("verifying sha256 digest"), Progress("success")]
    ):
        tally = advance(tally, line, number * 0.06)
        shown = update("m", tally)
        assert shown.completed_bytes >= last
        assert shown.total_bytes is None or shown.completed_bytes <= shown.total_bytes
        last = shown.completed_bytes


def test_a_retry_that_throws_bytes_away_is_not_shown() -> None:
    """Ollama counts back what a broken part had got (server/download.go:351)."""
    tally = tally_of(layer(MODEL, 100, 80), layer(MODEL, 100, 20))

    assert update("m", tally).completed_bytes == 80


def test_the_total_is_the_prediction_until_more_is_seen() -> None:
    assert update("m", tally_of(MANIFEST, predicted=90)).total_bytes == 90
    assert update("m", tally_of(MANIFEST, predicted=90)).total_basis == "predicted"

    seen = update("m", tally_of(layer(MODEL, 100), layer(SMALL, 5), predicted=90))
    assert (seen.total_bytes, seen.total_basis) == (105, "seen")


def test_nothing_is_known_of_the_total_at_first() -> None:
    shown = update("m", tally_of(MANIFEST))

    assert (shown.total_bytes, shown.completed_bytes, shown.total_basis) == (None, 0, "seen")


def test_layers_that_were_never_spoken_of_are_not_counted_before_the_end() -> None:
    """A small model is downloaded before the daemon writes a line about it."""
    tally = tally_of(MANIFEST, Progress("verifying sha256 digest"), predicted=90)
    shown = update("m", tally)
    assert (shown.total_bytes, shown.completed_bytes, shown.total_basis) == (90, 0, "predicted")

    shown = update("m", replace(advance(tally, Progress("success"), 1.0), exact_bytes=70))
    assert (shown.total_bytes, shown.completed_bytes, shown.total_basis) == (70, 70, "exact")


def test_at_the_end_the_installed_size_counts() -> None:
    """Layers that take no time have no line."""
    tally = tally_of(layer(MODEL, 100, 90), Progress("success"))
    shown = update("m", replace(tally, exact_bytes=117))

    assert (shown.status, shown.total_basis) == ("done", "exact")
    assert shown.total_bytes == shown.completed_bytes == 117


@pytest.mark.parametrize("bytes_per_second", [1_000_000, 250_000_000])
def test_a_steady_download_has_its_rate_and_the_time_that_is_left(bytes_per_second: int) -> None:
    step = bytes_per_second * 6 // 100
    total = step * 1000
    lines = [layer(MODEL, total, step * number) for number in range(200)]
    shown = update("m", tally_of(*lines))

    assert shown.bytes_per_second == pytest.approx(bytes_per_second, rel=0.02)
    assert shown.eta_seconds == pytest.approx(801 * 0.06, abs=2)


def test_what_was_there_before_is_no_speed() -> None:
    """A pull that is resumed begins with what an earlier one downloaded."""
    lines = [layer(MODEL, 10**10, 5 * 10**9 + 60_000 * number) for number in range(50)]
    shown = update("m", tally_of(*lines))

    assert shown.bytes_per_second == pytest.approx(1_000_000, rel=0.05)


def test_the_rate_follows_and_falls_to_nothing_when_nothing_comes() -> None:
    moving = [layer(MODEL, 10**10, 60_000 * number) for number in range(100)]
    still = [moving[-1]] * 400
    shown = update("m", tally_of(*moving, *still))

    assert shown.bytes_per_second is not None
    assert shown.bytes_per_second < 10_000


def test_no_rate_is_told_too_early() -> None:
    assert update("m", tally_of(layer(MODEL, 100, 1), layer(MODEL, 100, 2))).eta_seconds is None


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("pulling manifest", "resolving"),
        ("pulling 0123456789ab", "downloading"),
        ("pulling model", "downloading"),
        ("verifying sha256 digest", "verifying"),
        ("writing manifest", "writing"),
        ("removing unused layers", "writing"),
        ("couldn't remove unused layers: busy", "writing"),
        ("success", "done"),
        ("something new", "resolving"),
    ],
)
def test_ollamas_words_are_phases(status: str, phase: str) -> None:
    """server/images.go, PullModel and pullWithTransfer; unknown words change nothing."""
    assert tally_of(Progress(status)).phase == phase
