"""A worker's health is read off the board, and told to whoever asks."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from umbel.exceptions import ImproperlyConfigured
from umbel.worker.board import Board, SlotState
from umbel.worker.endpoint import answer, bind
from umbel.worker.health import PATIENCE, SILENCE, Health, judge, show
from umbel.worker.notify import Notifier

NOW = 1000.0


@pytest.fixture
def board() -> Board:
    """A board with two children at work, one slot free."""
    board = Board(3, entries=1)
    board.node_turned_at = board.consumed_at = NOW
    for slot in board.slots[:2]:
        slot.state, slot.turned_at, slot.pid = SlotState.READY, NOW, 7
    return board


def test_a_worker_that_consumes_is_alive_and_ready(board: Board) -> None:
    health = judge(board, NOW + 1)
    assert (health.alive, health.ready) == (True, True)
    assert (health.consuming, health.processes, health.why) == (2, 2, ())


def test_a_child_that_does_not_turn_consumes_nothing_and_is_dead_after_a_while(
    board: Board,
) -> None:
    late = NOW + SILENCE + 1
    board.slots[1].turned_at = late
    assert judge(board, late).consuming == 1
    late = NOW + PATIENCE + 1
    board.slots[1].turned_at = board.node_turned_at = board.consumed_at = late
    health = judge(board, late)
    assert (health.alive, health.ready) == (False, True)
    assert health.why == ("process 7 has not turned for 31 s",)


def test_so_is_one_without_its_broker(board: Board) -> None:
    for slot in board.slots[:2]:
        slot.trouble.begin(NOW, "gone")
    health = judge(board, NOW + 1)
    assert (health.alive, health.ready) == (True, False)
    late = NOW + PATIENCE + 1
    for slot in board.slots[:2]:
        slot.turned_at = late
    health = judge(board, late)
    assert not health.alive
    assert "process 7 has had no broker for 31 s" in health.why


def test_a_worker_whose_node_hangs_is_dead(board: Board) -> None:
    board.consumed_at = NOW + PATIENCE + 1
    for slot in board.slots[:2]:
        slot.turned_at = NOW + PATIENCE + 1
    assert judge(board, NOW + PATIENCE + 1).why == ("the node has not turned for 31 s",)


def test_a_worker_whose_children_never_get_ready_is_dead(board: Board) -> None:
    for slot in board.slots[:2]:
        slot.state = SlotState.STARTING
    board.node_turned_at = NOW + PATIENCE + 1
    assert judge(board, NOW + PATIENCE + 1).why == ("no process has consumed for 31 s",)


def test_one_that_stops_is_alive_and_not_ready(board: Board) -> None:
    for slot in board.slots[:2]:
        slot.state = SlotState.STOPPING
    board.node_turned_at = NOW + PATIENCE + 1
    health = judge(board, NOW + PATIENCE + 1)
    assert (health.alive, health.ready) == (True, False)


GOOD = Health(alive=True, ready=False, consuming=0, processes=1, why=())


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b"GET /livez HTTP/1.1", 200),
        (b"GET /livez?verbose HTTP/1.1", 200),
        (b"GET /readyz HTTP/1.0", 503),
        (b"GET /else HTTP/1.1", 404),
        (b"POST /livez HTTP/1.1", 405),
        (b"", 405),
        (b"\xff\xfe", 405),
    ],
)
def test_answers_to_probes(request_line: bytes, code: int) -> None:
    assert answer(request_line, GOOD).split()[1] == str(code).encode()


def test_head_has_no_body() -> None:
    assert answer(b"HEAD /livez HTTP/1.1", GOOD).endswith(b"\r\n\r\n")


def test_the_file_is_there_while_the_worker_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    show(GOOD, path)
    assert '"alive": true' in path.read_text()
    show(Health(alive=False, ready=False, consuming=0, processes=1, why=("x",)), path)
    assert not path.exists()


def test_a_socket_left_behind_is_taken_over_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with bind(str(path)), pytest.raises(ImproperlyConfigured, match="in use"):
        bind(str(path))
    bind(str(path)).close()


def test_systemd_is_pinged_only_while_the_worker_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "3000000"})
        notifier.turn(100.0, alive=False)
        notifier.turn(100.1, alive=True)
        notifier.turn(100.2, alive=True)
        notifier.turn(101.2, alive=True)
        notifier.stopping(restarting=False)
        told = [systemd.recv(100) for _ in range(3)]
    assert [each.partition(b"\n")[0] for each in told] == [b"WATCHDOG=1"] * 2 + [b"STOPPING=1"]


def test_without_systemd_nobody_is_told() -> None:
    Notifier({}).ready("umbel@here")
    Notifier({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_PID": "1"}).turn(1.0, alive=True)
