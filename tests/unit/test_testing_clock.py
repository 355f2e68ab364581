from __future__ import annotations

from umbel.clock import SYSTEM_CLOCK, Clock
from umbel.testing.clock import START, FakeClock


def test_it_stands_still_until_it_is_moved() -> None:
    clock: Clock = FakeClock()
    assert [clock.now(), clock.now()] == [START, START]
    assert clock.monotonic() == clock.monotonic()


def test_advance_moves_both_times() -> None:
    clock = FakeClock(100.0)
    before = clock.monotonic()
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic() - before) == (102.5, 2.5)


def test_sleep_lets_the_time_pass_at_once() -> None:
    clock = FakeClock(100.0)
    clock.sleep(3600.0)
    assert clock.now() == 3700.0


def test_the_wall_time_may_be_set_back_but_not_the_monotonic() -> None:
    clock = FakeClock(100.0)
    before = clock.monotonic()
    clock.set_back(10.0)
    assert (clock.now(), clock.monotonic()) == (90.0, before)


def test_a_running_clock_goes_by_itself_and_ahead_of_the_real_time() -> None:
    clock = FakeClock.running()
    first = clock.monotonic()
    assert abs(clock.now() - SYSTEM_CLOCK.now()) < 1.0
    while clock.monotonic() == first:
        pass
    clock.advance(1000.0)
    assert clock.now() - SYSTEM_CLOCK.now() > 999.0
    assert clock.monotonic() > first + 999.0


def test_listeners_are_told_of_each_advance() -> None:
    clock = FakeClock()
    told: list[float] = []
    unsubscribe = clock.subscribe(lambda: told.append(clock.now() - START))
    clock.advance(1.0)
    clock.advance(2.0)
    unsubscribe()
    clock.advance(4.0)
    assert told == [1.0, 3.0]
