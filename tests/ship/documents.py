"""Command lines in the documents."""

from __future__ import annotations

import re
from pathlib import Path

from tests.ship.programs import CHART, ROOT

PAGES_OF_THE_CHART = (ROOT / "docs" / "kubernetes.md", CHART / "README.md")


def command_blocks(page: Path) -> list[list[str]]:
    """The lines of each of the page's shell blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [[line.partition(" #")[0] for line in block.splitlines()] for block in blocks]


def command_lines(page: Path, program: str) -> list[str]:
    """A program's lines in the page's shell blocks."""
    lines = [line for block in command_blocks(page) for line in block]
    return [line for line in lines if line.startswith(f"{program} ")]
