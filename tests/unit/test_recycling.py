"""A worn child is replaced so that its slot never stands empty and nobody runs too much."""

from __future__ import annotations

from umbel.worker.board import SlotState
from umbel.worker.recycling import LOOK_EVERY, Allowance, Seen, Step, places, resident_kib, steps

OLD, NEW = 10, 11


def old(state: SlotState = SlotState.READY, *, retiring: bool = False) -> Seen:
    return Seen(OLD, state, worn=True, retiring=retiring)


def new(state: SlotState) -> Seen:
    return Seen(NEW, state, follows=OLD)


def test_a_succession_step_by_step() -> None:
    assert steps([Seen(OLD, SlotState.READY)]) == []
    assert steps([old()]) == [(Step.SUCCEED, OLD)]
    assert steps([old(), new(SlotState.STARTING)]) == []
    assert steps([old(), new(SlotState.STANDBY)]) == [(Step.RETIRE, OLD)]
    leaving = old(SlotState.STOPPING, retiring=True)
    assert steps([leaving, new(SlotState.STANDBY)]) == []
    spent = old(SlotState.SPENT, retiring=True)
    assert steps([spent, new(SlotState.STANDBY)]) == [(Step.BEGIN, NEW)]
    assert steps([spent, Seen(NEW, SlotState.READY)]) == []


def test_a_successor_begins_at_once_when_the_one_before_it_has_died() -> None:
    assert steps([new(SlotState.STARTING)]) == [(Step.BEGIN, NEW)]


def test_a_worn_child_whose_successor_died_gets_another() -> None:
    assert steps([old()]) == [(Step.SUCCEED, OLD)]


def test_there_are_never_more_places_than_before() -> None:
    leaving = old(SlotState.STOPPING, retiring=True)
    assert places([old()]) == 1
    assert places([old(), new(SlotState.STARTING)]) == 1
    assert places([leaving, new(SlotState.STANDBY)]) == 1
    assert places([leaving, Seen(NEW, SlotState.STANDBY)]) == 1
    # one that left without a successor
    assert places([leaving]) == 0


def test_a_child_is_worn_by_its_last_task() -> None:
    allowance = Allowance(3)
    assert allowance.limited
    allowance.use(2)
    assert (allowance.left, allowance.why) == (1, "")
    allowance.use(-1)
    allowance.use(2)
    assert allowance.left == 0
    assert "as many tasks" in allowance.why


def test_without_limits_nothing_wears() -> None:
    allowance = Allowance()
    allowance.use(10**9)
    allowance.look(1.0)
    assert not allowance.limited
    assert allowance.left > 10**9
    assert allowance.why == ""


def test_memory_is_looked_at_now_and_then() -> None:
    sizes = iter((900, 1001, 1101))
    allowance = Allowance(memory_kib=1000, resident=lambda: next(sizes))
    allowance.look(1.0)
    allowance.look(1.0 + LOOK_EVERY / 2)
    assert allowance.why == ""
    allowance.look(1.0 + LOOK_EVERY)
    assert "1001 KiB" in allowance.why
    assert not allowance.far_over
    allowance.look(2.0)
    assert "1001 KiB" in allowance.why
    assert allowance.far_over


def test_the_memory_of_this_process_is_known() -> None:
    before = resident_kib()
    ballast = bytearray(b"x" * (32 << 20))
    assert resident_kib() - before > 30 << 10
    del ballast
