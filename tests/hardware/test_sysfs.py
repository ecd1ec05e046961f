"""Small kernel files: a value, or None."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagfit.hardware.sysfs import parse_list, read_int, read_pairs, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42\n", 42),
        ("0x10de\n", 0x10DE),
        ("max", None),
        ("-1\n", None),
        ("", None),
        ("9" * 20, None),
    ],
)
def test_numbers(tmp_path: Path, text: str, value: int | None) -> None:
    (tmp_path / "file").write_text(text)

    assert read_int(tmp_path / "file") == value


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert read_text(tmp_path / "missing") is None
    assert read_text(tmp_path) is None
    assert read_text(tmp_path / "binary") is None


def test_pairs_leave_other_lines_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("width 384\nflags\nname x\nsize 1\n")

    assert read_pairs(tmp_path / "file") == {"width": 384, "size": 1}


@pytest.mark.parametrize(("text", "numbers"), [("0-3,8", {0, 1, 2, 3, 8}), ("5", {5}), ("", set())])
def test_lists(text: str, numbers: set[int]) -> None:
    assert parse_list(text) == numbers


def test_a_broken_list_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse_list("a-b")
    with pytest.raises(ValueError, match="beyond"):
        parse_list("0-99999999")
