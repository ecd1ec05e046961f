"""Small files of /sys, /proc and /sys/fs/cgroup: a value, or None where it cannot be read."""

from __future__ import annotations

from pathlib import Path

MOST_NUMBERS = 2**16
"""Beyond any list of processors."""


def read_text(path: Path) -> str | None:
    """Content without white space at its ends; None if it cannot be read or is no text."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


def read_int(path: Path) -> int | None:
    """A decimal or 0x number of 64 bits that is not negative; None if there is none."""
    try:
        number = int(read_text(path) or "", 0)
    except ValueError:
        return None
    return number if 0 <= number < 2**64 else None


def read_pairs(path: Path) -> dict[str, int]:
    """Lines of a name and a number, such as KFD's ``properties``; other lines are left out."""
    pairs = {}
    for line in (read_text(path) or "").splitlines():
        name, _, number = line.partition(" ")
        if number.strip().isdecimal() and int(number) < 2**64:
            pairs[name] = int(number)
    return pairs


def parse_list(text: str) -> frozenset[int]:
    """The numbers of a kernel list: ``0-3,8`` is 0, 1, 2, 3 and 8; raises ValueError."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if int(last or first) >= MOST_NUMBERS:
            raise ValueError(f"{part} is beyond {MOST_NUMBERS}")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)
