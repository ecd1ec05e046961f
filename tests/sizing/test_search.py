"""The largest number that holds, with few questions."""

from hypothesis import given
from hypothesis import strategies as st

from tagfit.sizing.search import largest, largest_with_room


@given(
    most=st.integers(0, 5000), last=st.integers(0, 6000), guess=st.none() | st.integers(-9, 6000)
)
def test_it_is_found_from_any_guess(most: int, last: int, guess: int | None) -> None:
    asked: list[int] = []

    def holds(n: int) -> bool:
        asked.append(n)
        return n <= last

    assert largest(holds, most, guess=guess) == min(last, most)
    assert all(1 <= n <= most for n in asked)
    assert len(set(asked)) == len(asked)


def test_a_good_guess_takes_few_questions() -> None:
    asked: list[int] = []

    def holds(n: int) -> bool:
        asked.append(n)
        return n <= 700

    assert largest(holds, 1024, guess=699) == 700
    assert len(asked) <= 4


@given(
    most=st.integers(1, 5000),
    last=st.integers(0, 6000),
    guess=st.integers(-9, 6000),
    curve=st.sampled_from([0.2, 1, 1.3, 5]),
    scale=st.integers(1, 1 << 30),
)
def test_room_that_shrinks_in_any_way_is_followed_to_its_end(
    most: int, last: int, guess: int, curve: float, scale: int
) -> None:
    asked: list[int] = []

    def room(n: int) -> int:
        asked.append(n)
        steps = last - n
        return int(scale * (steps + 1) ** curve) if steps >= 0 else -int(scale * (-steps) ** curve)

    assert largest_with_room(room, most, guess=guess) == min(last, most)
    assert all(1 <= n <= most for n in asked)
    assert len(set(asked)) == len(asked) <= 4 * most.bit_length() + 4


def test_room_that_shrinks_in_proportion_takes_four_questions() -> None:
    asked: list[int] = []

    def room(n: int) -> int:
        asked.append(n)
        return 700 * 33 + 5 - 33 * n

    assert largest_with_room(room, 1024) == 700
    assert len(asked) == 4
