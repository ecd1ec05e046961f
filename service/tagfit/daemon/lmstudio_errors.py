"""What an error of LM Studio stands for.

Its documentation names the types of an error (https://lmstudio.ai/docs/developer/rest/streaming-events,
text of 2026-04-14), not its texts; those are as its users report them, each with its source. The
first row whose pattern is found in the text counts.
"""

from __future__ import annotations

from tagfit.daemon.pull_errors import PullError, row_of
from tagfit.problems import (
    DaemonError,
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

LMSTUDIO_ERRORS = (
    PullError(
        r"^Unexpected endpoint or method",
        DaemonTooOld,
        "https://github.com/AlexsJones/llmfit/issues/463",
        "Unexpected endpoint or method. (POST /api/v1/models/download)",
        "Downloads need LM Studio 0.4.0 or newer",
    ),
    PullError(
        r"no space left on device|ENOSPC|not enough (disk )?space",
        DiskFull,
        "a guess: Node.js's text for a full disk",
        "ENOSPC: no space left on device, write",
    ),
    PullError(
        r"status (code:? )?401",
        RegistryUnauthorized,
        "a guess: as 403",
        "Failed to resolve model a/b-gguf: Api error with status 401.",
        "Hugging Face answers so where there is no such repository, or where one must sign in",
    ),
    PullError(
        r"status (code:? )?403",
        RegistryForbids,
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1944",
        "Failed to resolve model a/gemma-4-31b-it-gguf: Api error with status 403.",
    ),
    PullError(
        r"status (code:? )?404",
        UnknownModel,
        "a guess: as 403",
        "Failed to resolve model a/b-gguf: Api error with status 404.",
    ),
    PullError(
        r"ETIMEDOUT|timed out|[Tt]imeout",
        RegistryTimeout,
        "a guess: Node.js's text",
        "connect ETIMEDOUT 18.155.68.44:443",
    ),
    PullError(
        r"status (code:? )?(429|5\d\d)|Failed to reach|Checksum failed|Failed to resolve",
        RegistryError,
        "https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1770, 1477, 1222",
        "Failed to reach search.lmstudio.ai. Please check your Internet connection and try again.",
    ),
)
BY_TYPE: dict[str, tuple[type[Problem], str]] = {
    "model_not_found": (UnknownModel, ""),
    "invalid_request": (InvalidRequest, ""),
    "job_not_found": (
        DaemonError,
        " It no longer knows the download, as after a restart: pull again.",
    ),
}
"""By the documented type, where no text is known; every other type is the server's own fault."""


def problem_of(message: str, kind: str = "") -> Problem:
    """The problem that an error of LM Studio stands for."""
    said = f"LM Studio reported: {' '.join(message.split()).rstrip('.')}."
    row = row_of(LMSTUDIO_ERRORS, message)
    if row is not None:
        return row.problem(said + (f" {row.hint}." if row.hint else ""))
    problem, hint = BY_TYPE.get(kind, (DaemonError, ""))
    return problem(said + hint)
