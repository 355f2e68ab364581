"""How many children there are follows how busy they are."""

from __future__ import annotations

from umbel.worker.autoscale import GROW_AFTER, LOOK_EVERY, SHRINK_AFTER, Autoscaler, Load


def busy(pid: int, since: float = 0.0) -> Load:
    return Load(pid, 0.0, since)


def idle(pid: int, since: float = 1.0) -> Load:
    return Load(pid, since, 0.0)


def look_for(scaler: Autoscaler, seconds: float, loads: list[Load], begin: float) -> list[int]:
    left: list[int] = []
    for step in range(int(seconds / LOOK_EVERY) + 1):
        left += scaler.look(begin + step * LOOK_EVERY, loads)
    return left


def test_it_grows_while_all_are_busy_and_not_above_its_most() -> None:
    scaler = Autoscaler(5, 1)
    wanted = []
    now = 100.0
    for _ in range(5):
        scaler.look(now, [busy(pid, now - GROW_AFTER) for pid in range(scaler.wanted)])
        wanted.append(scaler.wanted)
        now += LOOK_EVERY
    assert wanted == [2, 3, 4, 5, 5]


def test_who_is_busy_for_a_moment_only_is_no_reason_to_grow() -> None:
    scaler = Autoscaler(5, 2)
    scaler.look(100.0, [busy(1, 99.9), busy(2, 90.0)])
    scaler.look(101.0, [idle(1), busy(2, 90.0)])
    assert scaler.wanted == 2


def test_it_waits_until_those_it_wanted_are_there() -> None:
    scaler = Autoscaler(9, 4)
    scaler.look(100.0, [busy(1), busy(2)])
    assert scaler.wanted == 4


def test_the_idlest_leave_and_never_a_busy_one() -> None:
    scaler = Autoscaler(4, 1)
    scaler.wanted = 4
    loads = [idle(1, 50.0), busy(2), idle(3, 20.0), busy(4)]
    assert look_for(scaler, SHRINK_AFTER - 1, loads, 100.0) == []
    assert look_for(scaler, 2, loads, 100.0 + SHRINK_AFTER) == [3, 1]
    assert scaler.wanted == 2


def test_not_so_many_leave_that_it_had_to_grow_again() -> None:
    scaler = Autoscaler(4, 1)
    scaler.wanted = 3
    look_for(scaler, SHRINK_AFTER - 1, [idle(1), idle(2), busy(3)], 100.0)
    # for one moment only one was idle
    scaler.look(100.0 + SHRINK_AFTER - LOOK_EVERY, [idle(1), busy(2, 129.0), busy(3)])
    assert scaler.look(100.0 + SHRINK_AFTER, [idle(1), idle(2), idle(3)]) == [1]


def test_it_keeps_its_least() -> None:
    scaler = Autoscaler(4, 2)
    scaler.wanted = 3
    left = look_for(scaler, 3 * SHRINK_AFTER, [idle(1), idle(2), idle(3)], 100.0)
    assert len(left) == 1
    assert scaler.wanted == 2
