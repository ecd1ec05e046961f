"""The table of the daemon's errors: one test a row, and the texts that real daemons said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tagfit.daemon.pull_errors import PULL_ERRORS, PullError, problem_of
from tagfit.problems import (
    DaemonError,
    DaemonStorageError,
    DaemonTooOld,
    DiskFull,
    InvalidRequest,
    Problem,
    RegistryError,
    RegistryTimeout,
    RegistryUnauthorized,
    UnknownModel,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "pull.md"
SOURCE = re.compile(r"(server|manifest|auth|x/transfer|internal/modelref)/\w+\.go:\d+(,\d+)*")


@pytest.mark.parametrize("row", PULL_ERRORS, ids=lambda row: row.pattern[:40])
def test_an_error_of_ollama_is_its_problem(row: PullError) -> None:
    problem = problem_of(row.example)

    assert type(problem) is row.problem
    assert next(one for one in PULL_ERRORS if re.search(one.pattern, row.example)) is row
    assert " ".join(row.example.split()).rstrip(".") in problem.detail
    assert row.hint in problem.detail
    assert all(SOURCE.fullmatch(part) for part in row.source.split(", "))


@pytest.mark.parametrize("row", PULL_ERRORS, ids=lambda row: row.pattern[:40])
def test_the_document_has_the_row(row: PullError) -> None:
    text = " ".join(row.example.split()).replace("|", "\\|")

    assert (
        f"| `{text}` | {row.problem.status} {row.problem.title} | `{row.source}` |"
        in DOCUMENT.read_text()
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # recorded from Ollama 0.33
        (
            'pull model manifest: Get "https://r": dial tcp: lookup r on 10.0.0.1:53: no such host',
            RegistryError,
        ),
        (
            'max retries exceeded: Get "http://r": dial tcp 1.2.3.4:1: connect: connection refused',
            RegistryError,
        ),
        (
            "write /models-root/blobs/sha256-47d399dec840-partial: no space left on device",
            DiskFull,
        ),
        ("pull model manifest: file does not exist", UnknownModel),
        ("file does not exist", RegistryError),
        ("unexpected EOF", InvalidRequest),
        ("invalid model name", InvalidRequest),
        # of other ways through the same code
        ("pull model manifest: 412: ", DaemonTooOld),
        ("pull model manifest: 401", RegistryUnauthorized),
        ("max retries exceeded: write /m/x: no space left on device", DiskFull),
        ("max retries exceeded: read tcp 1.2.3.4:1->5.6.7.8:443: i/o timeout", RegistryTimeout),
        ("max retries exceeded: status 503", RegistryError),
        ("open /m/blobs/sha256-1-partial: read-only file system", DaemonStorageError),
        ("open /m/blobs/sha256-1: no such file or directory", DaemonStorageError),
        (r"open C:\m\blobs\sha256-1-partial: Access is denied.", DaemonStorageError),
        (
            'pull model manifest: Get "https://r/v2/": stream error: stream ID 1; INTERNAL_ERROR',
            RegistryError,
        ),
        ('pull model manifest: Get "https://r": Proxy Authentication Required', RegistryError),
        ("what a later version may say", DaemonError),
        ("a name with 412 in it is no version problem", DaemonError),
    ],
)
def test_texts_that_daemons_say(text: str, kind: type[Problem]) -> None:
    assert type(problem_of(text)) is kind
