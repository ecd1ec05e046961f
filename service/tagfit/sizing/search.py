"""The largest number that still holds, found with few questions."""

from __future__ import annotations

from collections.abc import Callable


def largest(holds: Callable[[int], bool], most: int, *, guess: int | None = None) -> int:
    """The largest n up to ``most`` that holds, where all smaller ones do; 0 is taken to hold.

    By bisection; with a guess, by steps that double away from it until it is between two.
    """
    low, high = 0, most + 1
    n, width = (most + 1) // 2 if guess is None else min(max(guess, 1), most), 1
    while high - low > 1:
        if holds(n):
            low = n
        else:
            high = n
        if guess is not None and high > most:
            n, width = min(low + width, most), 2 * width
        elif guess is not None and not low:
            n, width = max(high - width, 1), 2 * width
        else:
            n = (low + high) // 2
    return low
