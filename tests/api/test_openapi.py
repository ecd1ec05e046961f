"""The committed OpenAPI document is what the running service serves, and it is valid."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance

from tagfit.app import create_server_app
from tagfit.settings import Settings
from tests.real.programs import unavailable

REDOCLY_VERSION = "2.77.0"
COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"


@pytest.mark.parametrize("path", ["/schema", "/schema/openapi.json"])
async def test_the_committed_document_is_served(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).content == COMMITTED.read_bytes(), "run: make openapi"


def test_the_document_is_valid_openapi_3_1() -> None:
    document = json.loads(COMMITTED.read_text())

    validate(document)
    assert document["openapi"].startswith("3.1")


def test_every_schema_is_referenced_and_every_reference_resolves() -> None:
    text = COMMITTED.read_text()
    names = json.loads(text)["components"]["schemas"]

    for name in names:
        assert f'"#/components/schemas/{name}"' in text


def test_a_linter_passes_on_the_document() -> None:
    """Redocly's recommended rules, without a warning."""
    npx = shutil.which("npx")
    if npx is None:
        unavailable("Redocly's linter cannot be had: there is no npx")
    linted = subprocess.run(
        [npx, "--yes", f"@redocly/cli@{REDOCLY_VERSION}", "lint", "--format=json", str(COMMITTED)],
        env={**os.environ, "REDOCLY_TELEMETRY": "off"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = json.loads(linted.stdout)

    assert found["problems"] == []


document = schemathesis.openapi.from_asgi(
    "/schema", create_server_app(Settings(allowed_hosts=("testserver",)))
)


@document.exclude(path_regex="(/pull|/models/installed)$").parametrize()
@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_documented(case: schemathesis.Case[Any]) -> None:
    """Random requests, right and wrong, get no 500 and only what the document says.

    Pulls are left out: a stream does not end in process, and tests/api/test_pull.py has them; so
    is what needs a daemon, which is not there (502).
    That what fits the schema is accepted is not checked: no schema says which models exist. Nor
    is the Allow header of OPTIONS: Litestar's own lists only one of a path's handlers.
    """
    case.call_and_validate(excluded_checks=[positive_data_acceptance, allow_header_conformance])
