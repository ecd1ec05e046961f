"""Every error that a pull of Ollama can end with, and the problem that it stands for.

Read from github.com/ollama/ollama v0.33.3; a line number there is where the text is made. Where a
text comes from Go itself or from the registry, it is the line where Ollama takes it over. The
first row whose pattern is found in the text counts; docs/pull.md shows this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from tagfit.problems import (
    CannotRun,
    DaemonBusy,
    DaemonError,
    DaemonStorageError,
    DaemonTooOld,
    DiskFull,
    InvalidRequest,
    Problem,
    RegistryError,
    RegistryForbids,
    RegistryTimeout,
    RegistryUnauthorized,
    UnknownModel,
)


class PullError(msgspec.Struct, frozen=True):
    """One kind of error text."""

    pattern: str
    """A regular expression that is searched in the text."""
    problem: type[Problem]
    source: str
    """Where Ollama makes it."""
    example: str
    hint: str = ""
    """What to do, where the text does not say it."""


PULL_ERRORS = (
    # What the daemon refuses before it begins (400).
    PullError(
        r"^missing request body$",
        InvalidRequest,
        "server/routes.go:1111",
        "missing request body",
    ),
    PullError(
        r"^invalid model name$",
        InvalidRequest,
        "server/routes.go:1125",
        "invalid model name",
    ),
    PullError(
        r"use either :local or :cloud",
        InvalidRequest,
        "internal/modelref/modelref.go:18",
        'use either :local or :cloud, not both: "a:local:cloud"',
    ),
    PullError(
        r"^insecure protocol http$",
        InvalidRequest,
        "server/images.go:1056",
        "insecure protocol http",
        'Send "insecure": true to pull over plain HTTP',
    ),
    # The daemon's own files: its key, and where it keeps models.
    PullError(
        r"malformed public key|ssh: |id_ed25519",
        DaemonError,
        "server/auth.go:68, auth/auth.go:75",
        "pull model manifest: open /root/.ollama/id_ed25519: no such file or directory",
        "The daemon cannot sign in: its key is missing or broken",
    ),
    PullError(
        r"no space left on device|not enough space on the disk|disk quota exceeded",
        DiskFull,
        "server/download.go:351",
        "write /m/blobs/sha256-47d3-partial: no space left on device",
        "What was downloaded is kept: make room and pull again",
    ),
    PullError(
        r"permission denied|read-only file system|operation not permitted|input/output error"
        r"|too many open files|file too large|ensure path elements are traversable|not a directory"
        r"|no such file or directory|Access is denied|cannot find the (file|path) specified"
        r"|used by another process",
        DaemonStorageError,
        "manifest/paths.go:57, server/download.go:222",
        "mkdir /m/blobs: permission denied: ensure path elements are traversable",
        "The daemon cannot write where it keeps models (OLLAMA_MODELS)",
    ),
    # The registry's answer about the name.
    PullError(
        r"^pull model manifest: file does not exist$",
        UnknownModel,
        "server/images.go:1377",
        "pull model manifest: file does not exist",
    ),
    # Hugging Face's words (github.com/huggingface/hub-docs/issues/1476, 2702, 1451).
    PullError(
        r"specified tag is not ",
        UnknownModel,
        "server/images.go:1384",
        "pull model manifest: 400: The specified tag is not a valid quantization scheme. Please use"
        ' another tag or "latest"',
    ),
    PullError(
        r"sharded GGUF|Repository is not GGUF",
        CannotRun,
        "server/images.go:1384",
        'pull model manifest: 400: {"error":"The specified tag is a sharded GGUF. Ollama does not'
        ' support this yet."}',
        "Pull another quantization or repository of it",
    ),
    PullError(
        r"(^|: )412\b|requires a newer version of Ollama",
        DaemonTooOld,
        "server/images.go:1384",
        "pull model manifest: 412: \n\nThe model you are attempting to pull requires a newer"
        " version of Ollama.",
        "Update the daemon",
    ),
    PullError(
        r"unauthorized|(^|: )(status )?401\b",
        RegistryUnauthorized,
        "server/images.go:1390, x/transfer/download.go:423",
        "pull model manifest: unauthorized: access denied",
        "The registry wants the daemon to sign in, or there is no such repository",
    ),
    PullError(
        r"(^|: )(status )?403\b",
        RegistryForbids,
        "server/images.go:1384, server/auth.go:88",
        'pull model manifest: 403: {"errors":[{"code":"DENIED"}]}',
    ),
    PullError(
        r"realm host .* does not match",
        RegistryError,
        "server/auth.go:61",
        'pull model manifest: realm host "a" does not match original host "b"',
        "The registry sends the daemon to another host to sign in",
    ),
    # What the model needs.
    PullError(
        r"requires MLX support",
        CannotRun,
        "server/images.go:1068",
        "this model requires MLX support, but the MLX runtime is not available",
        "Pull a GGUF tag of it instead",
    ),
    # The network between daemon and registry.
    PullError(
        r"i/o timeout|deadline exceeded|handshake timeout|timeout awaiting|Client\.Timeout"
        r"|connection timed out|download stalled|download too slow|part stalled",
        RegistryTimeout,
        "server/images.go:1449, server/download.go:232, x/transfer/download.go:25",
        'pull model manifest: Get "https://r/v2/": net/http: TLS handshake timeout',
    ),
    PullError(
        r"server gave HTTP response to HTTPS client",
        RegistryError,
        "server/images.go:1449",
        'pull model manifest: Get "https://127.0.0.1:5001/v2/": http: server gave HTTP response to'
        " HTTPS client",
        'Send "insecure": true to pull over plain HTTP',
    ),
    PullError(
        r"x509:|tls:",
        RegistryError,
        "server/images.go:1449",
        'pull model manifest: Get "https://r/v2/": tls: failed to verify certificate: x509:'
        " certificate signed by unknown authority",
        "The daemon does not trust the registry's certificate",
    ),
    PullError(
        r"no such host|server misbehaving|no route to host|network is unreachable"
        r"|connection refused|connection reset|broken pipe|No connection could be made",
        RegistryError,
        "server/images.go:1449, server/download.go:345",
        'pull model manifest: Get "http://127.0.0.1:5009/v2/": dial tcp 127.0.0.1:5009: connect:'
        " connection refused",
        "The daemon does not reach the registry",
    ),
    PullError(
        r"context canceled",
        DaemonBusy,
        "server/download.go:454,463",
        "context canceled",
        "The daemon was still stopping an earlier pull of it: pull again",
    ),
    PullError(
        r"digest mismatch|size mismatch",
        RegistryError,
        "server/images.go:1485, x/transfer/download.go:330",
        "digest mismatch, file must be downloaded again: want sha256:47d3, got sha256:7173",
        "What arrived is not what the manifest names; it was thrown away: pull again",
    ),
    PullError(
        r"max retries exceeded",
        RegistryError,
        "server/download.go:307, x/transfer/download.go:214",
        'max retries exceeded: Get "http://localhost:5002/": EOF',
        "What was downloaded is kept: pull again",
    ),
    # A registry that does not speak as Ollama expects.
    PullError(
        r"no Location header|redirects|unexpected status code \d|status \d{3}|unsupported protocol",
        RegistryError,
        "server/download.go:270, x/transfer/download.go:277,436",
        "http: no Location header in response",
    ),
    PullError(
        r"digest is empty|invalid digest format",
        RegistryError,
        "server/download.go:478, manifest/paths.go:15",
        "library/tiny: digest is empty",
        "The manifest is broken",
    ),
    PullError(
        r"^pull model manifest: (invalid character|unexpected end of JSON|json: )",
        RegistryError,
        "server/images.go:1327",
        "pull model manifest: invalid character '<' looking for beginning of value",
        "What answers is no registry",
    ),
    PullError(
        r"^(invalid character|unexpected end of JSON|json: |unexpected EOF$)",
        InvalidRequest,
        "server/routes.go:1114",
        "json: cannot unmarshal number into Go struct field PullRequest.model of type string",
    ),
    PullError(
        r"^file does not exist$",
        RegistryError,
        "server/download.go:150",
        "file does not exist",
        "The registry has the manifest but not every layer of it",
    ),
    PullError(
        r"(^|: )\d{3}(: |$)",
        RegistryError,
        "server/images.go:1384, server/auth.go:90",
        "pull model manifest: 503: upstream unavailable",
    ),
    PullError(
        r"EOF$|(Get|Head) \"https?://|stream error: |http2: ",
        RegistryError,
        "server/images.go:1321",
        'pull model manifest: Get "https://registry.ollama.ai/v2/": unexpected EOF',
        "The registry broke off",
    ),
    PullError(
        r"no token refresh callback",
        DaemonError,
        "x/transfer/download.go:69",
        "no token refresh callback",
    ),
)
FALLBACK = DaemonError
"""For a text that is in no row, such as a later version's."""


def row_of(rows: Iterable[PullError], error: str) -> PullError | None:
    """The first row whose pattern is found in the text."""
    return next((row for row in rows if re.search(row.pattern, error)), None)


def problem_of(error: str) -> Problem:
    """The problem that an error text of the daemon stands for."""
    row = row_of(PULL_ERRORS, error)
    if row is None:
        return FALLBACK(f"Ollama reported: {error}.")
    hint = f" {row.hint}." if row.hint else ""
    return row.problem(f"Ollama reported: {' '.join(error.split()).rstrip('.')}.{hint}")
