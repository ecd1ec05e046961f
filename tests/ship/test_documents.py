"""What the documents name is there; check_cluster.py and check_image.py run their commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ship.documents import PAGES_OF_THE_CHART
from tests.ship.programs import ROOT


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
