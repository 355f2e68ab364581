"""What a node orders for tasks that run and shall not."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from umbel import servers
from umbel.ids import new_id
from umbel.servers.seams import Ledger
from umbel.worker import terminating
from umbel.worker.board import Board, SlotState
from umbel.worker.terminating import CANCEL, Terminator, signal_number


@pytest.fixture
def ledger() -> Ledger:
    ledger = servers.open(f"memory://{new_id()}").ledger
    assert ledger is not None
    return ledger


@pytest.fixture
def board() -> Board:
    """One process with one lane (entry 0), which runs a task there and a coroutine."""
    board = Board(1, entries=4)
    slot = board.slots[0]
    slot.state, slot.pid, slot.consumer_id = SlotState.READY, os.getpid(), "c"
    slot.begin(0, (b"sync", b"tasks.sync", 1.0, 0.0))
    slot.begin(2, (b"async", b"tasks.async", 2.0, 0.0))
    return board


def ordered(board: Board) -> dict[str, int]:
    return {each.id: each.ordered for each in board.slots[0].running()}


def test_only_what_is_revoked_with_a_signal_shall_end(board: Board, ledger: Ledger) -> None:
    terminator = Terminator(board, lanes=1, ends_processes=True)
    ledger.revoke(["sync", "async"], expires_in=60)
    terminator.look(ledger)
    assert ordered(board) == {"sync": 0, "async": 0}
    ledger.revoke(["sync"], expires_in=60, signal="SIGUSR1")
    terminator.look(ledger)
    assert ordered(board) == {"sync": signal.SIGUSR1, "async": 0}


def test_a_coroutine_is_cancelled_first(
    board: Board, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminator = Terminator(board, lanes=1, ends_processes=True)
    ledger.revoke(["async"], expires_in=60, signal="SIGTERM")
    terminator.look(ledger)
    assert ordered(board) == {"sync": 0, "async": CANCEL}
    monkeypatch.setattr(terminating, "GRACE", 0.0)
    terminator.look(ledger)
    assert ordered(board) == {"sync": 0, "async": signal.SIGTERM}


def test_a_thread_is_left_alone_and_that_is_said_once(
    board: Board, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    terminator = Terminator(board, lanes=1, ends_processes=False)
    ledger.revoke(["sync"], expires_in=60, signal="SIGTERM")
    with caplog.at_level(logging.WARNING):
        terminator.look(ledger)
        terminator.look(ledger)
    assert ordered(board) == {"sync": 0, "async": 0}
    assert [each.message for each in caplog.records] == [
        "tasks.sync[sync] shall be terminated, but runs in a thread, which nobody can end"
    ]


def test_a_signal_of_another_system_ends_all_the_same() -> None:
    assert signal_number("SIGTERM") == signal.SIGTERM
    assert signal_number("SIGNOPE") == signal.SIGKILL
