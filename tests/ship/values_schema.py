"""The schema of the chart's values, made from ``values.yaml`` and the comments in it.

Types are those of the defaults, and a map that has keys takes no others. A line
``# @schema {…}`` above a value adds what a default cannot say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

TYPES = {
    "tag:yaml.org,2002:bool": "boolean",
    "tag:yaml.org,2002:int": "integer",
    "tag:yaml.org,2002:str": "string",
    "tag:yaml.org,2002:seq": "array",
    "tag:yaml.org,2002:map": "object",
}


CLOSING = {"properties", "additionalProperties"}
"""Keywords that say themselves what keys a map may have."""


def write_schema(chart: Path) -> None:
    """Write the chart's values.schema.json."""
    text = (chart / "values.yaml").read_text()
    values = yaml.compose(text)
    assert isinstance(values, yaml.MappingNode)
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Values of the {chart.name} chart",
        **_of_map(values, text.splitlines()),
    }
    schema["properties"]["global"] = {"type": "object", "description": "Helm gives it to all."}
    (chart / "values.schema.json").write_text(json.dumps(schema, indent=2) + "\n")


def _of_map(node: yaml.MappingNode, lines: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key.value: _of_value(value, _said(lines[: key.start_mark.line]), lines)
            for key, value in node.value
        },
    }


def _of_value(node: yaml.Node, said: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    if isinstance(node, yaml.MappingNode) and node.value and not said.keys() & CLOSING:
        return _of_map(node, lines) | said
    return {"type": TYPES[node.tag]} | said


def _said(lines: list[str]) -> dict[str, Any]:
    """What the comment that ends here says of the value under it."""
    said: dict[str, Any] = {}
    words: list[str] = []
    for line in reversed(lines):
        comment = re.fullmatch(r" *# ?(.*)", line)
        if comment is None:
            break
        if comment[1].startswith("@schema "):
            said |= yaml.safe_load(comment[1].removeprefix("@schema "))
        else:
            words.insert(0, comment[1].removeprefix("-- "))
    return ({"description": " ".join(words)} if words else {}) | said
