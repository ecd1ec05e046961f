"""The largest number that holds, with few questions."""

from hypothesis import given
from hypothesis import strategies as st

from tagfit.sizing.search import largest


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
