"""The chart's package goes through a real OCI registry and comes back whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.registry import Registry
from tests.ship.programs import CHART, HELM_VERSIONS, helm, render
from tests.ship.release import VERSION, chart


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_it_is_pushed_and_pulled(version: str, registry: Registry, tmp_path: Path) -> None:
    (package,) = chart(tmp_path)
    charts = f"oci://{registry.host}/charts-{version}"
    pushed = helm(version, "push", package, charts, "--plain-http")
    pulled = helm(
        version, "pull", f"{charts}/tagfit", f"--version={VERSION}", "--plain-http",
        f"--destination={tmp_path}",
    )  # fmt: skip

    assert pushed.returncode == 0, pushed.stderr
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / f"tagfit-{VERSION}.tgz").read_bytes() == package.read_bytes()


@pytest.mark.parametrize("version", HELM_VERSIONS)
def test_it_renders_as_its_folder_does(version: str, tmp_path: Path) -> None:
    (package,) = chart(tmp_path)

    assert render(version, package) == render(version, CHART)
