"""The largest number that still holds, found with few questions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count


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


def largest_with_room(room: Callable[[int], int], most: int, *, guess: int = 1) -> int:
    """The largest n from 1 to ``most`` that leaves room, which shrinks with n; 0 if there is none.

    Where it shrinks in proportion four questions are enough. Every fourth step bisects, so that
    there are never many. A guess is asked for instead of 1, and 1 only where it leaves no room.
    """
    high, lacking = most, room(most)
    if lacking >= 0:
        return most
    for low in dict.fromkeys((guess, 1)):
        if not 1 <= low < high:
            continue
        left = room(low)
        if left >= 0:
            break
        high, lacking = low, left
    else:
        return 0
    for step in count(1):
        width = high - low
        if width == 1:
            break
        ahead = width * left // (left - lacking) if step % 4 else width // 2
        n = low + min(max(ahead, 1), width - 1)
        found = room(n)
        if found >= 0:
            low, left = n, found
        else:
            high, lacking = n, found
    return low
