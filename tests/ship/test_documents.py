"""The commands of the documents and of the examples are ones that their tools take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.ship.documents import PAGES_OF_THE_CHART, command_lines
from tests.ship.programs import HELM_VERSIONS, KUBERNETES, ROOT, helm


@pytest.mark.parametrize("version", HELM_VERSIONS)
@pytest.mark.parametrize("page", PAGES_OF_THE_CHART, ids=lambda page: page.name)
def test_every_installation_renders(page: Path, version: str) -> None:
    installations = [
        line for line in command_lines(page, "helm") if line.startswith("helm install ")
    ]

    assert installations
    for line in installations:
        arguments = shlex.split(line)[2:]
        rendered = helm(version, "template", f"--kube-version={KUBERNETES[-1]}.0", *arguments)
        assert rendered.returncode == 0, rendered.stderr


@pytest.mark.parametrize(
    "page",
    [*PAGES_OF_THE_CHART, ROOT / "docs" / "containers.md", ROOT / "docs" / "install.md"],
    ids=lambda p: p.name,
)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    named = re.findall(r"(?<![/.\w])(?:helm|docs|deploy)/[\w./-]+", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [name for name in named if not (ROOT / name).exists()] == []
