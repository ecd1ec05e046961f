"""The tools that prove image and chart: each pinned here, or by the locked requirements."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.real.programs import build, unavailable
from tests.ship.values_schema import write_schema

HELM_VERSIONS = ("v3.22.0", "v4.3.1")
HELM_DOCS_VERSION = "v1.14.2"
KUBERNETES = ("1.30", "1.34", "1.37")
"""The oldest that the chart names, the oldest and the newest that are maintained."""

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "tagfit"
EXAMPLES = ROOT / "helm" / "examples"


def helm(version: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of HELM_VERSIONS; the caller judges the exit status."""
    return _run([helm_program(version), *arguments])


def helm_program(version: str) -> Path:
    """The binary of one of HELM_VERSIONS."""
    major = version.partition(".")[0]
    return build(f"helm.sh/helm/{major}/cmd/helm", version, ldflags="-s -w")


def render(
    version: str, chart: Path, *arguments: str | Path, kubernetes: str = KUBERNETES[-1]
) -> list[dict[str, Any]]:
    """The objects that ``helm template`` makes."""
    kube_version = f"--kube-version={kubernetes}.0"
    rendered = helm(version, "template", "release", chart, kube_version, *arguments)
    assert rendered.returncode == 0, rendered.stderr
    return objects_in(rendered.stdout)


def objects_in(text: str) -> list[dict[str, Any]]:
    """The objects of a file of YAML documents."""
    return [document for document in yaml.safe_load_all(text) if document]


def helm_docs(chart: Path) -> None:
    """Write the chart's README.md."""
    binary = build("github.com/norwoodj/helm-docs/cmd/helm-docs", HELM_DOCS_VERSION, "-s -w")
    _run([binary, f"--chart-search-root={chart}", "--sort-values-order=file"]).check_returncode()


def hadolint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    """Lint a Dockerfile."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    binary = shutil.which("hadolint", path=path)
    if binary is None:
        unavailable("hadolint is not installed: make dev")
    return _run([binary, dockerfile])


def schema_error(thing: dict[str, Any], kubernetes: str) -> str | None:
    """Why Kubernetes' own schema refuses an object, unknown fields among the reasons."""
    try:
        validator = importlib.import_module("kubernetes_validate")
    except ImportError:
        unavailable("kubernetes-validate is not installed: make dev")
    try:
        validator.validate(thing, kubernetes, strict=True)
    except validator.ValidationError as error:
        return f"{error.json_path}: {error.message}"
    return None


def _run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


if __name__ == "__main__":  # make chart-docs
    write_schema(CHART)
    helm_docs(CHART)
