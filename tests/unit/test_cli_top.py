"""What ``umbel top`` shows."""

from __future__ import annotations

from rich.console import Console

from umbel.cli.top import View
from umbel.control.nodes import RunningTask, WorkerNode, WorkerProcess
from umbel.control.queues import QueueSight
from umbel.servers.seams import Depth

RUNNING = tuple(RunningTask(f"id-{number}", "t.add", 95.0) for number in range(7))
BUSY = WorkerProcess(11, "c1", 40, RUNNING, 107)
IDLE = WorkerProcess(12, "c2", 2, (), 0)


def node(processed: int) -> WorkerNode:
    return WorkerNode("w1@host", 1, ("q",), frozenset(), 2, "prefork", processed, (BUSY, IDLE))


def shown(view: View) -> list[str]:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(view)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_workers_processes_and_queues() -> None:
    view = View()
    view.take([node(42)], [QueueSight("q", Depth(3, 1, 2, 40.0), 2, ("w1@host",))], 100.0)
    lines = shown(view)
    assert lines[0] == "1 worker, 107 running, 0.0 tasks/s"
    words = [line.split() for line in lines]
    assert ["w1@host", "42", "0.0"] in words
    assert ["11", "t.add", "id-0", "5", "s", "40"] in words
    assert ["and", "102", "more"] in words
    assert ["12", "-", "2"] in words
    assert any(each[:4] == ["q", "3", "1", "2"] and each[-1] == "2" for each in words)


def test_rates_are_of_the_last_seconds() -> None:
    view = View()
    for second in range(30):
        done = 10 * second if second < 15 else 150 + 20 * (second - 15)
        view.take([node(done)], [], 100.0 + second)
    assert view.rate(node(0)) == 20.0
    view.take([], [], 200.0)
    assert shown(view)[0] == "0 workers, 0 running, 0.0 tasks/s"


def test_a_problem_is_shown_beside_what_was_seen_last() -> None:
    view = View()
    view.take([node(42)], [], 100.0)
    view.problem = "no answer"
    lines = shown(view)
    assert "cannot look: no answer" in lines
    assert any("w1@host" in line for line in lines)
