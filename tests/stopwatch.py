"""Milliseconds of a call, by a fixed piece of work that takes one on a machine with time to spare.

By the clock they depend on what else runs there: a busy machine took four times as long. Against
that piece they hardly do: with three programs a core 5 % for a millisecond of work.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time_ns

ROUNDS = 25


def milliseconds(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The least CPU time of a call, in least times of the fixed piece of work."""
    pairs = [(_nanoseconds(call), _nanoseconds(_a_millisecond)) for _ in range(rounds)]
    return min(of_call for of_call, _ in pairs) / min(unit for _, unit in pairs)


def _nanoseconds(call: Callable[[], object]) -> int:
    start = process_time_ns()
    call()
    return process_time_ns() - start


def _a_millisecond() -> int:
    """What model code mostly does: calls, small tuples, dictionaries and whole numbers."""
    found: dict[tuple[int, int], int] = {}
    for number in range(4_000):
        key = number % 97, number % 89
        found[key] = found.get(key, 0) + max(number, 1000) // 3
    return sum(sorted(found.values()))
