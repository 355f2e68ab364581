"""The window holds a certain time's worth of work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from umbel.worker.window import MOST, TARGET, Window


def run_one(window: Window, name: str, runtime: float) -> None:
    window.hold([name], 100)
    window.learn(name, runtime)


def test_a_task_never_seen_is_fetched_alone() -> None:
    window = Window(lanes=1)
    assert window.room(1) == 1
    window.hold(["new"], 100)
    assert window.room(0) == 0


def test_trivial_tasks_are_fetched_by_the_hundred() -> None:
    window = Window(lanes=1)
    for _ in range(20):
        run_one(window, "trivial", 20e-6)
    assert window.room(1) == MOST


def test_slow_tasks_are_fetched_one_by_one_when_a_lane_is_free() -> None:
    window = Window(lanes=1)
    run_one(window, "slow", 1.0)
    assert window.room(1) == 1
    window.hold(["slow"], 100)
    assert window.room(0) == 0
    assert window.room(1) == 0  # what it holds is on its way to the free lane


def test_ten_millisecond_tasks_fill_the_target() -> None:
    window = Window(lanes=1)
    for _ in range(20):
        run_one(window, "ten", 0.01)
    assert TARGET / 0.01 * 0.8 <= window.room(1) <= TARGET / 0.01


def test_one_slow_run_is_believed_at_once() -> None:
    window = Window(lanes=1)
    for _ in range(20):
        run_one(window, "varied", 20e-6)
    run_one(window, "varied", 1.0)
    assert window.room(1) == 1


def test_large_bodies_bound_what_is_held() -> None:
    window = Window(lanes=1)
    for _ in range(20):
        window.hold(["large"], 1 << 20)
        window.learn("large", 20e-6)
    assert 25 <= window.room(1) <= 40


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 10), st.booleans(), st.integers(0, 1 << 24))
    ),
    st.integers(1, 8),
)
def test_room_is_never_negative_and_an_idle_lane_gets_something(
    steps: list[tuple[str, float, bool, int]], lanes: int
) -> None:
    window = Window(lanes=lanes)
    for name, runtime, ends, size in steps:
        window.hold([name], size)
        if ends:
            window.learn(name, runtime)
        assert 0 <= window.room(0) <= MOST
        assert window.room(lanes) + window.held >= lanes
