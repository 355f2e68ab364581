"""Outages are told once, whoever and how many see them."""

from __future__ import annotations

import pytest

from umbel.worker.board import Board, SlotState
from umbel.worker.outages import CALM, Outages


@pytest.fixture
def board() -> Board:
    board = Board(3, entries=1)
    for slot in board.slots[:2]:
        slot.state = SlotState.READY
    return board


def test_an_outage_is_told_when_it_begins_and_when_it_is_over(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    outages = Outages(board)
    one, other = (slot.trouble for slot in board.slots[:2])
    outages.look(9.0)
    other.begin(10.0, "connection refused")
    outages.look(10.1)
    one.begin(10.2, "connection lost")
    board.node_trouble.begin(10.3, "timed out")
    outages.look(12.0)
    other.end()
    outages.look(13.0)
    assert caplog.messages == ["A server does not answer, trying again: connection refused"]
    one.end()
    outages.look(14.0)
    board.node_trouble.end()
    outages.look(14.0 + CALM / 2)
    assert len(caplog.messages) == 1
    outages.look(14.0 + CALM)
    assert caplog.messages[1:] == ["The servers answer again after 4.0 s"]


def test_who_notices_when_others_are_connected_again_makes_no_second_outage(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    outages = Outages(board)
    one, other = (slot.trouble for slot in board.slots[:2])
    one.begin(10.0, "connection lost")
    outages.look(10.1)
    one.end()
    outages.look(10.2)
    other.begin(10.3, "connection lost")
    outages.look(10.4)
    other.end()
    outages.look(20.0)
    assert len(caplog.messages) == 2


def test_what_the_dead_have_seen_does_not_count(board: Board) -> None:
    slot = board.slots[0]
    slot.trouble.begin(10.0, "ä" * 300)
    assert [trouble.why for trouble in board.troubles()] == ["ä" * 99]
    slot.state = SlotState.GRAVE
    assert not board.troubles()
    slot.clear()
    slot.state = SlotState.STARTING
    assert not board.troubles()
