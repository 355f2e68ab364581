"""The board says what each child was doing, also after its death."""

from __future__ import annotations

import os

import pytest

from umbel.worker.board import Board, Running, SlotState


def test_a_slot_keeps_what_its_child_wrote_after_the_child_died() -> None:
    board = Board(2, entries=8)
    slot = board.slots[1]
    pid = os.fork()
    if not pid:
        slot.state = SlotState.READY
        slot.pid = os.getpid()
        slot.consumer_id = "umbel@here:1:ab"
        slot.processed = 7
        slot.begin(3, ("id-ä".encode(), b"tasks.add", 1.5, 2.5))
        slot.begin(4, (b"gone", b"tasks.add", 1.5, 0.0))
        slot.end(4)
        os._exit(9)
    os.waitpid(pid, 0)
    assert (slot.state, slot.pid, slot.processed) == (SlotState.READY, pid, 7)
    assert slot.consumer_id == "umbel@here:1:ab"
    assert slot.running() == [Running("id-ä", "tasks.add", 1.5, 2.5, 3)]
    assert board.slots[0].state is SlotState.FREE
    assert board.free() is board.slots[0]


def test_a_cleared_slot_is_as_new() -> None:
    slot = Board(1, entries=4).slots[0]
    slot.state, slot.verdict, slot.consumer_id = SlotState.GRAVE, "time-limit 5", "c"
    slot.begin(2, (b"x", b"y", 1.0, 0.0))
    slot.clear()
    assert (slot.state, slot.verdict, slot.consumer_id) == (SlotState.FREE, "", "")
    assert slot.running() == []


@pytest.mark.parametrize("length", [0, 1, 254, 255])
def test_ids_of_every_allowed_length_come_back_whole(length: int) -> None:
    slot = Board(1, entries=2).slots[0]
    slot.begin(1, (b"i" * length, b"n" * 200, 0.0, 0.0))
    (running,) = slot.running()
    assert (running.id, running.name) == ("i" * length, "n" * 127)


def test_an_order_to_end_is_for_one_run() -> None:
    slot = Board(1, entries=8).slots[0]
    slot.begin(3, (b"one", b"tasks.add", 1.5, 0.0))
    (run,) = slot.running()
    slot.order(run, 15)
    assert [each.ordered for each in slot.running()] == [15]
    slot.begin(3, (b"one", b"tasks.add", 1.75, 0.0))
    assert [each.ordered for each in slot.running()] == [0]
