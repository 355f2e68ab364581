from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umbel.backoff import exponential


def test_it_doubles_from_the_factor_up_to_the_maximum() -> None:
    waits = [exponential(attempt, 2.0, maximum=20.0, jitter=False) for attempt in range(6)]
    assert waits == [2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


def test_jitter_takes_any_part_of_it() -> None:
    waits = sorted(exponential(3) for _ in range(500))
    assert 0.0 <= waits[0] < 1.0
    assert 7.0 < waits[-1] <= 8.0
    assert 3.0 < waits[250] < 5.0


@given(
    attempt=st.integers(0, 10**9),
    factor=st.floats(0, 1e6),
    maximum=st.floats(0, 1e6),
)
def test_it_is_never_negative_nor_above_the_maximum(
    attempt: int, factor: float, maximum: float
) -> None:
    assert 0.0 <= exponential(attempt, factor, maximum=maximum) <= maximum


def test_any_number_of_attempts_is_allowed() -> None:
    assert exponential(10**6, jitter=False) == 600.0


@pytest.mark.parametrize("attempt", range(5))
def test_jitter_stays_below_the_wait_without_it(attempt: int) -> None:
    ceiling = exponential(attempt, jitter=False)
    assert all(exponential(attempt) <= ceiling for _ in range(100))
