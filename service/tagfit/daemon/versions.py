"""Which version of Ollama first runs an architecture, as far as its releases say."""

from __future__ import annotations

import re

FIRST_VERSIONS = {
    # https://github.com/ollama/ollama/releases/tag/v… of each version names the model,
    # but for Qwen 3.5: https://github.com/ollama/ollama/issues/14431
    "mllama": "0.4.0",
    "gemma3": "0.6.0",
    "gemma3n": "0.9.3",
    "gpt-oss": "0.11.0",
    "qwen3vl": "0.12.7",
    "qwen3vlmoe": "0.12.7",
    "qwen35": "0.17.1",
    "qwen35moe": "0.17.1",
}
"""By architecture; one that is not here runs anywhere, or the registry says 412 at the pull."""


def lacking_version(architecture: str, version: str) -> str | None:
    """The version that the architecture needs, where the daemon's is older.

    A version that is no release (0.0.0 is a build without one) lacks nothing.
    """
    needed = FIRST_VERSIONS.get(architecture)
    has = _numbers(version)
    if needed is None or not any(has):
        return None
    return needed if has < _numbers(needed) else None


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(part) for part in match.groups()) if match else ()
